"""One row per tenant: the running totals of its books, and the lock under which they move."""

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel


class CreditAccountRow(SQLModel, table=True):
    """Totals since the tenant began. At all times: sum of charges = consumed + debt + excess + overage."""

    __tablename__ = "credit_account"

    tenant_id: str = Field(primary_key=True, foreign_key="tenant.id")
    debt_ncr: int = Field(default=0, sa_type=BigInteger)
    consumed_ncr: int = Field(default=0, sa_type=BigInteger)
    excess_ncr: int = Field(default=0, sa_type=BigInteger)
    overage_ncr: int = Field(default=0, sa_type=BigInteger)
