"""Rows of the company that sends invoices."""

from typing import ClassVar

from sqlalchemy import JSON, LargeBinary
from sqlmodel import Field, SQLModel


class CompanyRow(SQLModel, table=True):
    """The operator, in one row."""

    __tablename__: ClassVar[str] = "company"
    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    name: str
    address: list[str] = Field(sa_type=JSON)
    country: str | None = None
    tax_id: str | None = None
    email: str | None = None
    series: str
    credit_series: str
    grace_hours: int
    payment_days: int
    bank: list[str] = Field(sa_type=JSON)
    footer: str | None = None
    logo: bytes | None = Field(default=None, sa_type=LargeBinary)
