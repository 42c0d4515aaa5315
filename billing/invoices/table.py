"""Rows of the company that sends invoices, of invoices and credit notes, their numbers, and of credits that were sold."""

from typing import ClassVar

from sqlalchemy import JSON, BigInteger, Index, LargeBinary
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


class InvoiceRow(SQLModel, table=True):
    """An invoice or a credit note. While it is a draft its document is made anew whenever it is looked at; once it has a number, that is kept apart."""

    __tablename__: ClassVar[str] = "invoice"
    __table_args__ = (Index("ix_invoice_tenant_id_start_us", "tenant_id", "start_us"), Index("ix_invoice_end_us", "end_us", "id"))
    id: str = Field(primary_key=True)
    tenant_id: str = Field(foreign_key="tenant.id")
    kind: str
    state: str
    start_us: int = Field(sa_type=BigInteger)
    end_us: int = Field(sa_type=BigInteger)
    currency: str
    net_minor: int = Field(sa_type=BigInteger)
    tax_minor: int = Field(sa_type=BigInteger)
    total_minor: int = Field(sa_type=BigInteger)
    created_us: int = Field(sa_type=BigInteger)
    number: str | None = Field(default=None, unique=True)
    issued_us: int | None = Field(default=None, sa_type=BigInteger)
    paid_us: int | None = Field(default=None, sa_type=BigInteger)
    voided_us: int | None = Field(default=None, sa_type=BigInteger)
    note: str | None = None
    corrects_id: str | None = Field(default=None, foreign_key="invoice.id", index=True)


class InvoiceDocumentRow(SQLModel, table=True):
    """What was issued (JSON), as it will say for ever, with its sha256. Never changed."""

    __tablename__: ClassVar[str] = "invoice_document"
    invoice_id: str = Field(primary_key=True, foreign_key="invoice.id")
    document: str
    sha256: str


class InvoiceSequenceRow(SQLModel, table=True):
    """The last number that a series gave. Whoever takes one holds the row until it is committed, so none is left out."""

    __tablename__: ClassVar[str] = "invoice_sequence"
    series: str = Field(primary_key=True)
    last: int = Field(sa_type=BigInteger)


class GrantSaleRow(SQLModel, table=True):
    """A grant that was sold: for how much, in the tenant's currency, and when. `period_us` is when the period began whose invoice has it; NULL: none yet."""

    __tablename__: ClassVar[str] = "grant_sale"
    __table_args__ = (Index("ix_grant_sale_tenant_id_at_us", "tenant_id", "at_us"),)
    grant_id: str = Field(primary_key=True, foreign_key="credit_grant.id")
    tenant_id: str
    amount_ncr: int = Field(sa_type=BigInteger)
    price_minor: int = Field(sa_type=BigInteger)
    at_us: int = Field(sa_type=BigInteger)
    note: str
    period_us: int | None = Field(default=None, sa_type=BigInteger)
