"""Rows of running processes and of the credits set aside for each."""

from typing import ClassVar

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel


class ReplicaRow(SQLModel, table=True):
    """One running process. `beat` changes while it lives; nobody compares clocks. `note` is what it lets the others know; the books do not read it."""

    __tablename__: ClassVar[str] = "replica"
    id: str = Field(primary_key=True)
    beat: int = Field(sa_type=BigInteger)
    host: str
    pid: int
    started_us: int = Field(sa_type=BigInteger)
    note: str | None = None


class LeaseRow(SQLModel, table=True):
    """Credits of one purse (or of one ceiling) set aside for one process; worth nothing from `valid_until_us` on, when the grants behind it change."""

    __tablename__: ClassVar[str] = "lease"
    tenant_id: str = Field(primary_key=True, foreign_key="tenant.id")
    purse: str = Field(primary_key=True)
    replica_id: str = Field(primary_key=True, index=True)
    amount_ncr: int = Field(sa_type=BigInteger)
    valid_until_us: int = Field(sa_type=BigInteger)
