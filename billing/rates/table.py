"""Rows of rates: insert-only, so that what applied at any instant can always be read again."""

from typing import ClassVar

from sqlalchemy import JSON, BigInteger, Index
from sqlmodel import Field, SQLModel


class RateRow(SQLModel, table=True):
    """A model's prices from `effective_us` on, in ncr per unit by bucket."""

    __tablename__: ClassVar[str] = "rate"
    __table_args__ = (Index("ix_rate_model_effective_us_id", "model", "effective_us", "id"),)
    id: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    model: str
    effective_us: int = Field(sa_type=BigInteger)
    free: bool
    prices: dict[str, int] = Field(sa_type=JSON)
    created_us: int = Field(sa_type=BigInteger)
