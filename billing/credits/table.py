"""Running totals of the tenants' books: one row per tenant, under whose lock they move, and one per span of time and tenant."""

from typing import ClassVar

from sqlalchemy import BigInteger, text
from sqlmodel import Field, SQLModel


class CreditAccountRow(SQLModel, table=True):
    """Totals since the tenant began. At all times: sum of charges = consumed + debt + excess + overage. `noticed_*`: which thresholds are written."""

    __tablename__: ClassVar[str] = "credit_account"

    tenant_id: str = Field(primary_key=True, foreign_key="tenant.id")
    debt_ncr: int = Field(default=0, sa_type=BigInteger)
    consumed_ncr: int = Field(default=0, sa_type=BigInteger)
    excess_ncr: int = Field(default=0, sa_type=BigInteger)
    overage_ncr: int = Field(default=0, sa_type=BigInteger)
    noticed_us: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": text("0")})
    noticed_percent: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})


class UsageSumRow(SQLModel, table=True):
    """A tenant's events added up over one span that began at `start_us`: its `day`, its `period`, and of the period each `key:<id>` and `project:<name>`."""

    __tablename__: ClassVar[str] = "usage_sum"

    tenant_id: str = Field(primary_key=True)
    span: str = Field(primary_key=True)
    start_us: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    events: int = Field(sa_type=BigInteger)
    charge_ncr: int = Field(sa_type=BigInteger)
    cover_ncr: int = Field(sa_type=BigInteger)
    excess_ncr: int = Field(sa_type=BigInteger)
    overage_ncr: int = Field(sa_type=BigInteger)
