"""Rows of plans, their versions, and subscriptions.

A version is never updated: changing a plan adds one, and a subscription names the version it was sold.
"""

from typing import ClassVar

from sqlalchemy import JSON, BigInteger, ForeignKeyConstraint, false, text, true
from sqlmodel import Field, SQLModel


class PlanRow(SQLModel, table=True):
    """A plan's name in the price list."""

    __tablename__: ClassVar[str] = "plan"
    id: str = Field(primary_key=True)
    created_us: int = Field(sa_type=BigInteger)


class PlanVersionRow(SQLModel, table=True):
    """One version of a plan's terms."""

    __tablename__: ClassVar[str] = "plan_version"
    plan_id: str = Field(primary_key=True, foreign_key="plan.id")
    version: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    name: str
    allowance_ncr: int = Field(sa_type=BigInteger)
    on_exhausted: str
    slow_daily_cap_ncr: int | None = Field(default=None, sa_type=BigInteger)
    weight: int
    fast_concurrency: int | None = None
    slow_concurrency: int
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = Field(default=None, sa_type=BigInteger)
    allowed_models: list[str] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    monthly_fee_minor: int = Field(sa_type=BigInteger)
    currency: str
    credit_price: str | None = None
    created_us: int = Field(sa_type=BigInteger)
    seat_allowance_ncr: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": text("0")})
    rollover_cap_ncr: int | None = Field(default=None, sa_type=BigInteger)
    activate_on_first_use: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    fallback_model: str | None = None
    slow_weight: int = Field(default=1, sa_column_kwargs={"server_default": text("1")})
    glide_percent: int = Field(default=10, sa_column_kwargs={"server_default": text("10")})
    slow_delay_ms: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    slow_tokens_per_second: int | None = None
    slow_priority: int = Field(default=10, sa_column_kwargs={"server_default": text("10")})
    slow_flex: bool = Field(default=True, sa_column_kwargs={"server_default": true()})
    spill_after_ms: int | None = None
    on_database_loss: str = Field(default="slow", sa_column_kwargs={"server_default": text("'slow'")})


class SubscriptionRow(SQLModel, table=True):
    """A tenant on a plan's version from an instant until another; its months are counted from `anchor_us`, NULL until the first request.

    One that ends where it starts was never in force: a change of plan that was taken back before it came.
    """

    __tablename__: ClassVar[str] = "subscription"
    __table_args__ = (ForeignKeyConstraint(["plan_id", "version"], ["plan_version.plan_id", "plan_version.version"]),)
    id: str = Field(primary_key=True)
    tenant_id: str = Field(foreign_key="tenant.id", index=True)
    plan_id: str
    version: int
    anchor_us: int | None = Field(default=None, sa_type=BigInteger)
    started_us: int = Field(sa_type=BigInteger)
    ended_us: int | None = Field(default=None, sa_type=BigInteger)
