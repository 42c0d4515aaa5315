"""Rows of what only margins need to know: what GPUs of our own cost, and what a currency was worth in another."""

from typing import ClassVar

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel


class GpuCostRow(SQLModel, table=True):
    """GPUs behind a backend during [start_us, end_us), at a price per GPU and hour in pico-units of a currency; how its tokens weigh against each other."""

    __tablename__: ClassVar[str] = "gpu_cost"
    id: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    backend: str
    gpus: int
    hour_pico: int = Field(sa_type=BigInteger)
    currency: str
    start_us: int = Field(sa_type=BigInteger)
    end_us: int | None = Field(default=None, sa_type=BigInteger)
    weight_input: int
    weight_cached: int
    weight_output: int
    created_us: int = Field(sa_type=BigInteger)


class ExchangeRateRow(SQLModel, table=True):
    """What one unit of a currency was worth in another on a day (ISO date), as somebody stated it: decimal text."""

    __tablename__: ClassVar[str] = "exchange_rate"
    base: str = Field(primary_key=True)
    quote: str = Field(primary_key=True)
    day: str = Field(primary_key=True)
    rate: str
    created_us: int = Field(sa_type=BigInteger)
