"""Rows of thresholds that were reached, of webhook endpoints, and of what is told to them: the outbox.

Thresholds and deliveries are written by flushes of usage, so they have no foreign keys: a flush must not fail because an endpoint was just removed.
"""

from typing import ClassVar

from sqlalchemy import JSON, BigInteger, Index, text
from sqlmodel import Field, SQLModel

_WAITING = text("state = 'waiting'")


class ThresholdRow(SQLModel, table=True):
    """A tenant's use reached this percentage of what was granted, in the period that began at `period_us` (0: without a subscription). Once each."""

    __tablename__: ClassVar[str] = "threshold"
    tenant_id: str = Field(primary_key=True)
    period_us: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    percent: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    at_us: int = Field(sa_type=BigInteger)
    used_ncr: int = Field(sa_type=BigInteger)
    limit_ncr: int = Field(sa_type=BigInteger)


class WebhookRow(SQLModel, table=True):
    """An endpoint, of one tenant's events or of everybody's (`tenant_id` NULL). No secret is here: a webhook's is made of the pepper and the id."""

    __tablename__: ClassVar[str] = "webhook"
    id: str = Field(primary_key=True)
    url: str
    tenant_id: str | None = Field(default=None, foreign_key="tenant.id", index=True)
    events: list[str] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    created_us: int = Field(sa_type=BigInteger)
    disabled_us: int | None = Field(default=None, sa_type=BigInteger)
    kind: str = Field(default="webhook", sa_column_kwargs={"server_default": text("'webhook'")})
    options: dict[str, str] | None = Field(default=None, sa_type=JSON(none_as_null=True))


class WebhookDeliveryRow(SQLModel, table=True):
    """One message to one endpoint. While it is `waiting`, `due_us` is when anybody may try next: whoever tries moves it past its own end first."""

    __tablename__: ClassVar[str] = "webhook_delivery"
    __table_args__ = (
        Index("ix_webhook_delivery_due", "due_us", "webhook_id", postgresql_where=_WAITING, sqlite_where=_WAITING),
        Index("ix_webhook_delivery_created_us", "created_us", "id"),
    )
    id: str = Field(primary_key=True)
    webhook_id: str = Field(index=True)
    tenant_id: str | None = None
    type: str
    body: str
    state: str
    created_us: int = Field(sa_type=BigInteger)
    due_us: int = Field(sa_type=BigInteger)
    tries: int
    tried_us: int | None = Field(default=None, sa_type=BigInteger)
    status: int | None = None
    answer: str | None = None
