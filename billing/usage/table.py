"""The row of one usage event: a fact, written once and never changed. And what came again under its id with other content.

The buckets are columns of their own, so that a bill is a plain SUM. NULL in a bucket means that nobody said; 0 that somebody said none.
There is no foreign key to the tenant: the credit account, locked in the same transaction, has it, and this is the hot insert.
"""

from sqlalchemy import JSON, BigInteger, Index
from sqlmodel import Field, SQLModel


class UsageEventRow(SQLModel, table=True):
    """One request's use. `covered_ncr` is what grants paid of `cover_ncr` when it was booked; the rest of that went into debt."""

    __tablename__ = "usage_event"
    __table_args__ = (Index("usage_event_tenant_started", "tenant_id", "started_us"), Index("usage_event_started", "started_us"))

    id: str = Field(primary_key=True)
    tenant_id: str
    key_id: str
    project: str | None = None
    model: str
    backend: str
    upstream_model: str
    endpoint: str
    started_us: int = Field(sa_type=BigInteger)
    ended_us: int = Field(sa_type=BigInteger)
    status: int
    outcome: str
    lane: str
    stream: bool
    source: str
    input: int | None = Field(default=None, sa_type=BigInteger)
    cache_read: int | None = Field(default=None, sa_type=BigInteger)
    cache_write_5m: int | None = Field(default=None, sa_type=BigInteger)
    cache_write_1h: int | None = Field(default=None, sa_type=BigInteger)
    audio_in: int | None = Field(default=None, sa_type=BigInteger)
    image_in: int | None = Field(default=None, sa_type=BigInteger)
    output: int | None = Field(default=None, sa_type=BigInteger)
    audio_out: int | None = Field(default=None, sa_type=BigInteger)
    reasoning: int | None = Field(default=None, sa_type=BigInteger)
    images: int | None = Field(default=None, sa_type=BigInteger)
    seconds: int | None = Field(default=None, sa_type=BigInteger)
    requests: int | None = Field(default=None, sa_type=BigInteger)
    searches: int | None = Field(default=None, sa_type=BigInteger)
    rate_id: int | None = None
    charge_ncr: int = Field(sa_type=BigInteger)
    cover_ncr: int = Field(sa_type=BigInteger)
    covered_ncr: int = Field(sa_type=BigInteger)
    attempts: int
    queue_ms: int
    ttft_us: int | None = Field(default=None, sa_type=BigInteger)
    day_us: int | None = Field(default=None, sa_type=BigInteger)
    period_us: int | None = Field(default=None, sa_type=BigInteger)
    purses: dict[str, int] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    service_tier: str | None = None


class UsageConflictRow(SQLModel, table=True):
    """An event that came under a booked id with other content, as it was told (JSON); once per content. It changed nothing in the books."""

    __tablename__ = "usage_conflict"

    id: str = Field(primary_key=True)
    sha256: str = Field(primary_key=True)
    tenant_id: str
    seen_us: int = Field(sa_type=BigInteger, index=True)
    content: str


class BooksRow(SQLModel, table=True):
    """The one row that names these books: random, made with the tables (migration 0008), never changed."""

    __tablename__ = "books"

    id: str = Field(primary_key=True)
