"""Rows of grants and what is left of each.

A grant is never updated except to void and to close it; what is left stands apart, because it is the row that a flush writes.
"""

from typing import ClassVar

from sqlalchemy import JSON, BigInteger, Index, text
from sqlmodel import Field, SQLModel


class CreditGrantRow(SQLModel, table=True):
    """Credits given to a tenant, usable by requests that start in [effective_us, expires_us) and that its scope admits.

    `closed_us`: since when what was left at its end (expired or voided) is posted, so nothing is left any more.
    """

    __tablename__: ClassVar[str] = "credit_grant"
    __table_args__ = (
        Index("ix_credit_grant_tenant_id_expires_us", "tenant_id", "expires_us"),
        # Those still to be closed, so that looking for them does not go through all that ever were. Not on the balance: a flush writes that row.
        Index("ix_credit_grant_open_expires_us", "expires_us", "id", postgresql_where=text("closed_us IS NULL"), sqlite_where=text("closed_us IS NULL")),
    )
    id: str = Field(primary_key=True)
    tenant_id: str = Field(foreign_key="tenant.id")
    kind: str
    amount_ncr: int = Field(sa_type=BigInteger)
    priority: int
    effective_us: int = Field(sa_type=BigInteger)
    expires_us: int | None = Field(default=None, sa_type=BigInteger)
    voided_us: int | None = Field(default=None, sa_type=BigInteger)
    created_us: int = Field(sa_type=BigInteger)
    note: str
    key_id: str | None = None
    project: str | None = None
    models: list[str] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    closed_us: int | None = Field(default=None, sa_type=BigInteger)


class GrantBalanceRow(SQLModel, table=True):
    """What is left of a grant, and what of it ended unused: by expiry, or voided. In ncr; never below 0."""

    __tablename__: ClassVar[str] = "grant_balance"
    grant_id: str = Field(primary_key=True, foreign_key="credit_grant.id")
    remaining_ncr: int = Field(sa_type=BigInteger)
    expired_ncr: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": text("0")})
    voided_ncr: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": text("0")})
