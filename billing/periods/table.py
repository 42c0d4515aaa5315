"""Rows of closed periods, and how far each tenant's are closed."""

from typing import ClassVar

from sqlalchemy import JSON, BigInteger
from sqlmodel import Field, SQLModel


class BillingPeriodRow(SQLModel, table=True):
    """A closed period of a tenant: what it came to (`facts`, JSON) with its sha256. Never changed. `close_seq` is the order of closing over all tenants.

    `events` are its own requests, `late_events` those that it knows of earlier periods.
    """

    __tablename__: ClassVar[str] = "billing_period"
    tenant_id: str = Field(primary_key=True, foreign_key="tenant.id")
    start_us: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    end_us: int = Field(sa_type=BigInteger, index=True)
    closed_us: int = Field(sa_type=BigInteger)
    close_seq: int = Field(sa_type=BigInteger, unique=True)
    events: int = Field(sa_type=BigInteger)
    late_events: int = Field(sa_type=BigInteger)
    facts: str
    sha256: str


class BillingCursorRow(SQLModel, table=True):
    """The oldest open period of a tenant: when it began and ends. `start_us` NULL: it has none yet, and is looked at again at `end_us`.

    `seen`: how many requests were booked for each month when one was closed last.
    """

    __tablename__: ClassVar[str] = "billing_cursor"
    tenant_id: str = Field(primary_key=True, foreign_key="tenant.id")
    start_us: int | None = Field(default=None, sa_type=BigInteger)
    end_us: int = Field(sa_type=BigInteger, index=True)
    seen: dict[str, int] = Field(sa_type=JSON)
