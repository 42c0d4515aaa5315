"""Rows of rates, costs and the versions they came in: insert-only, so that what applied at any instant can always be read again."""

from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Index
from sqlmodel import Field, SQLModel


class RateRow(SQLModel, table=True):
    """A model's prices from `effective_us` on, in ncr per unit by bucket; neither free nor priced: it has no rate from then on."""

    __tablename__: ClassVar[str] = "rate"
    __table_args__ = (Index("ix_rate_model_effective_us_id", "model", "effective_us", "id"),)
    id: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    model: str
    effective_us: int = Field(sa_type=BigInteger)
    free: bool
    prices: dict[str, int] = Field(sa_type=JSON)
    created_us: int = Field(sa_type=BigInteger)
    variants: list[dict[str, Any]] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    version_id: int | None = Field(default=None, sa_type=BigInteger)


class CostRow(SQLModel, table=True):
    """What a backend charges for a model from `effective_us` on, in pico-units of `currency` per unit by bucket."""

    __tablename__: ClassVar[str] = "cost"
    __table_args__ = (Index("ix_cost_backend_model_effective_us_id", "backend", "model", "effective_us", "id"),)
    id: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    backend: str
    model: str
    currency: str
    effective_us: int = Field(sa_type=BigInteger)
    free: bool
    prices: dict[str, int] = Field(sa_type=JSON)
    created_us: int = Field(sa_type=BigInteger)
    variants: list[dict[str, Any]] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    version_id: int | None = Field(default=None, sa_type=BigInteger)


class VersionRow(SQLModel, table=True):
    """Changes proposed together; `published_us` or `withdrawn_us` is set once, and nothing after."""

    __tablename__: ClassVar[str] = "price_version"
    id: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    book: str
    note: str
    changes: list[dict[str, Any]] = Field(sa_type=JSON)
    effective_us: int | None = Field(default=None, sa_type=BigInteger)
    created_us: int = Field(sa_type=BigInteger)
    published_us: int | None = Field(default=None, sa_type=BigInteger)
    withdrawn_us: int | None = Field(default=None, sa_type=BigInteger)
