"""Rows of what was said of model servers."""

from typing import ClassVar

from sqlmodel import Field, SQLModel


class ServerRow(SQLModel, table=True):
    """One server of a backend, as the configuration names it. `weight` NULL: the configured one."""

    __tablename__: ClassVar[str] = "backend_server"
    backend: str = Field(primary_key=True)
    url: str = Field(primary_key=True)
    draining: bool
    weight: int | None = None
