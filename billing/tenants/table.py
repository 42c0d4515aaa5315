"""Rows of tenants, their projects and keys, and the change feed.

A key is stored as a keyed digest, never as itself. The change feed has no foreign key: it must outlive what it speaks of.
"""

from typing import ClassVar

from sqlalchemy import JSON, BigInteger, Index, LargeBinary, text
from sqlmodel import Field, SQLModel


class TenantRow(SQLModel, table=True):
    """A customer: who is billed, in which currency, and whose calendar its months follow.

    From `closes_us` on it is closed, for good; `state` says so once its keys are revoked, which a job does where the instant was still to come.
    """

    __tablename__: ClassVar[str] = "tenant"
    __table_args__ = (
        Index("ix_tenant_name_id", "name", "id"),  # a page of the list, by name and by age
        Index("ix_tenant_created_us_id", "created_us", "id"),
        Index("ix_tenant_closing", "closes_us", postgresql_where=text("state <> 'closed'"), sqlite_where=text("state <> 'closed'")),
    )
    id: str = Field(primary_key=True)
    name: str
    state: str
    currency: str
    timezone: str
    created_us: int = Field(sa_type=BigInteger)
    closes_us: int | None = Field(default=None, sa_type=BigInteger)


class ApiKeyRow(SQLModel, table=True):
    """A credential of a tenant, or of an operator (then without a tenant). `role` is what its bearer may do; null: call models."""

    __tablename__: ClassVar[str] = "api_key"
    __table_args__ = (Index("ix_api_key_created_us_id", "created_us", "id"),)  # a page of everybody's
    id: str = Field(primary_key=True)
    kind: str
    tenant_id: str | None = Field(default=None, foreign_key="tenant.id", index=True)
    name: str
    digest: bytes = Field(sa_type=LargeBinary, unique=True)
    hint: str
    project: str | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = Field(default=None, sa_type=BigInteger)
    created_us: int = Field(sa_type=BigInteger)
    expires_us: int | None = Field(default=None, sa_type=BigInteger)
    revoked_us: int | None = Field(default=None, sa_type=BigInteger)
    ceiling_ncr: int | None = Field(default=None, sa_type=BigInteger)
    role: str | None = None


class ProjectRow(SQLModel, table=True):
    """A part of a tenant: keys name it, and it may have a ceiling of the tenant's credits a period."""

    __tablename__: ClassVar[str] = "project"
    tenant_id: str = Field(primary_key=True, foreign_key="tenant.id")
    name: str = Field(primary_key=True)
    ceiling_ncr: int | None = Field(default=None, sa_type=BigInteger)
    created_us: int = Field(sa_type=BigInteger)


class ProfileRow(SQLModel, table=True):
    """A tenant on paper. It has none until somebody writes it; the hot path never reads it."""

    __tablename__: ClassVar[str] = "tenant_profile"
    tenant_id: str = Field(primary_key=True, foreign_key="tenant.id")
    name: str
    address: list[str] = Field(sa_type=JSON)
    country: str | None = None
    tax_id: str | None = None
    email: str | None = None
    tax_category: str
    tax_percent: str
    tax_note: str | None = None
    po_number: str | None = None
    cost_centre: str | None = None
    language: str


class ChangeRow(SQLModel, table=True):
    """One admin write. `tenant_id` None concerns everybody (plans, rates)."""

    __tablename__: ClassVar[str] = "change"
    seq: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    tenant_id: str | None = None
    at_us: int = Field(sa_type=BigInteger)
