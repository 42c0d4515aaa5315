"""Rows of providers' bills, and of what each run of a reconciliation found. Insert-only; a bill is marked once, when another supersedes it.

Amounts are decimal text where they may be money: sums of pico-units have no bound of 64 bits.
"""

from typing import ClassVar

from sqlalchemy import JSON, BigInteger, Index, LargeBinary
from sqlmodel import Field, SQLModel


class BillRow(SQLModel, table=True):
    """A bill as it was imported. `aliases`: our name by the billed one; `file`: the bytes that came."""

    __tablename__: ClassVar[str] = "provider_bill"
    __table_args__ = (Index("ix_provider_bill_backend", "backend"),)
    id: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    backend: str
    vendor: str
    start_us: int = Field(sa_type=BigInteger)
    end_us: int = Field(sa_type=BigInteger)
    currency: str | None = None
    measures: list[str] = Field(sa_type=JSON)
    aliases: dict[str, str] = Field(sa_type=JSON)
    warnings: list[str] = Field(sa_type=JSON)
    sha256: str
    file: bytes = Field(sa_type=LargeBinary)
    imported_us: int = Field(sa_type=BigInteger)
    superseded_by: int | None = Field(default=None, sa_type=BigInteger)


class BillLineRow(SQLModel, table=True):
    """So much of a bucket of a model, by its billed name, on a UTC day: units or pico-units."""

    __tablename__: ClassVar[str] = "provider_bill_line"
    bill_id: int = Field(primary_key=True, sa_type=BigInteger, foreign_key="provider_bill.id")
    day_us: int = Field(primary_key=True, sa_type=BigInteger)
    model: str = Field(primary_key=True)
    bucket: str = Field(primary_key=True)
    measure: str = Field(primary_key=True)
    amount: str


class RunRow(SQLModel, table=True):
    """One comparison of a bill with the books, with the tolerances (percent, decimal text) it had."""

    __tablename__: ClassVar[str] = "recon_run"
    id: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    bill_id: int = Field(sa_type=BigInteger, foreign_key="provider_bill.id", index=True)
    at_us: int = Field(sa_type=BigInteger)
    token_tolerance: str
    cost_tolerance: str


class ItemRow(SQLModel, table=True):
    """One place of a run. `day_us` -1: the whole period."""

    __tablename__: ClassVar[str] = "recon_item"
    run_id: int = Field(primary_key=True, sa_type=BigInteger, foreign_key="recon_run.id")
    day_us: int = Field(primary_key=True, sa_type=BigInteger)
    model: str = Field(primary_key=True)
    bucket: str = Field(primary_key=True)
    measure: str = Field(primary_key=True)
    state: str
    provider: str
    gateway: str
    unreported: int = Field(sa_type=BigInteger)
    without_cost: int = Field(sa_type=BigInteger)


class ResidueRow(SQLModel, table=True):
    """What a run books as ours to carry for a day: what the provider charged over the books, in pico-units."""

    __tablename__: ClassVar[str] = "recon_residue"
    run_id: int = Field(primary_key=True, sa_type=BigInteger, foreign_key="recon_run.id")
    day_us: int = Field(primary_key=True, sa_type=BigInteger, index=True)
    currency: str
    amount_pico: str
