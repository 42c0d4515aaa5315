"""Rows of what destinations were told of use, so that each is told of every event once, and of who tenants are to them."""

from typing import ClassVar

from sqlalchemy import JSON, BigInteger
from sqlmodel import Field, SQLModel


class FeedDayRow(SQLModel, table=True):
    """How far a destination was told of a tenant's day: how many of its events are settled, and up to which hour it was looked at last."""

    __tablename__: ClassVar[str] = "feed_day"
    webhook_id: str = Field(primary_key=True)
    tenant_id: str = Field(primary_key=True)
    day_us: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    events: int = Field(sa_type=BigInteger)
    looked_us: int = Field(sa_type=BigInteger)


class FeedToldRow(SQLModel, table=True):
    """All that a destination was told of one hour, model and project ("": none) of a tenant's day, added up."""

    __tablename__: ClassVar[str] = "feed_told"
    webhook_id: str = Field(primary_key=True)
    tenant_id: str = Field(primary_key=True)
    day_us: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    hour_us: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    model: str = Field(primary_key=True)
    project: str = Field(primary_key=True)
    requests: int = Field(sa_type=BigInteger)
    unreported: int = Field(sa_type=BigInteger)
    units: dict[str, int] = Field(sa_type=JSON)
    charge_ncr: int = Field(sa_type=BigInteger)
    cover_ncr: int = Field(sa_type=BigInteger)
    excess_ncr: int = Field(sa_type=BigInteger)
    overage_ncr: int = Field(sa_type=BigInteger)


class FeedTenantRow(SQLModel, table=True):
    """A tenant at a destination: what is carried to its next message (ncr)."""

    __tablename__: ClassVar[str] = "feed_tenant"
    webhook_id: str = Field(primary_key=True)
    tenant_id: str = Field(primary_key=True)
    carry_ncr: int = Field(sa_type=BigInteger)


class StripeCustomerRow(SQLModel, table=True):
    """Who a tenant is in Stripe."""

    __tablename__: ClassVar[str] = "stripe_customer"
    tenant_id: str = Field(primary_key=True, foreign_key="tenant.id")
    customer: str
