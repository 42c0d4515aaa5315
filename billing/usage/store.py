"""Queries over usage events, and over what came again with other content. Takes a session, never commits; neither is ever updated."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Row, Table, case, func, literal, literal_column, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col

from billing.bulk import ENGINES, Insert, among, listed
from billing.meter import BUCKETS, Meter
from billing.usage.daily import SpanSum
from billing.usage.event import UsageEvent
from billing.usage.table import BooksRow, UsageConflictRow, UsageEventRow

HOUR_US = 3_600_000_000
DAY_US_MAX = 26 * HOUR_US  # where the clock is put back, and more

_TABLE: Table = UsageEventRow.metadata.tables["usage_event"]
_CONFLICT: Table = UsageConflictRow.metadata.tables["usage_conflict"]
_PLAIN = tuple(field for field in UsageEvent.__struct_fields__ if field != "meter")
_METER, _PURSES = UsageEvent.__struct_fields__.index("meter"), UsageEvent.__struct_fields__.index("purses")
# Built once: every batch runs them.
_AMONG = among(_TABLE.c.id)
_KNOWN = {engine: select(_TABLE).where(_AMONG[engine]) for engine in ENGINES}
_INSERT = Insert("usage_event", (*UsageEvent.__struct_fields__[:_METER], *BUCKETS, *UsageEvent.__struct_fields__[_METER + 1 :], "covered_ncr"))
_KEEP = {
    engine: dialect.insert(_CONFLICT).on_conflict_do_nothing(index_elements=["id", "sha256"])
    for engine, dialect in (("postgresql", postgresql), ("sqlite", sqlite))
}


_OF = among(_TABLE.c.tenant_id)
_EACH = {
    "postgresql": ("json_each_text(e.purses)", "CAST(j.value AS bigint)", "e.tenant_id = ANY(CAST(:ids AS text[]))"),
    "sqlite": ("json_each(e.purses)", "j.value", "e.tenant_id IN (SELECT value FROM json_each(:ids))"),
}
_PURSE_SUMS = {
    engine: text(f"SELECT e.tenant_id, j.key, SUM({value}) FROM usage_event e, {each} j WHERE e.purses IS NOT NULL AND {mine} GROUP BY e.tenant_id, j.key")  # noqa: S608
    for engine, (each, value, mine) in _EACH.items()
}
_UNPURSED = {
    engine: text(
        f"SELECT e.tenant_id, COUNT(*) FROM usage_event e WHERE e.purses IS NOT NULL AND {mine}"  # noqa: S608 - words from our code
        f" AND e.cover_ncr <> (SELECT COALESCE(SUM({value}), 0) FROM {each} j WHERE j.key NOT LIKE 'cap:%') GROUP BY e.tenant_id"
    )
    for engine, (each, value, mine) in _EACH.items()
}
_LIVES = {
    "postgresql": "SELECT v ->> 0 AS name, v ->> 1 AS tenant_id, CAST(v ->> 2 AS bigint) AS first, CAST(v ->> 3 AS bigint) AS after"
    " FROM json_array_elements(CAST(:lives AS json)) v",
    "sqlite": "SELECT json_extract(value, '$[0]') AS name, json_extract(value, '$[1]') AS tenant_id, json_extract(value, '$[2]') AS first,"
    " json_extract(value, '$[3]') AS after FROM json_each(:lives)",
}
_WITHIN = {
    engine: text(
        f"SELECT l.name, COALESCE(SUM(e.cover_ncr), 0) FROM ({lives}) l LEFT JOIN usage_event e"  # noqa: S608 - words from our code
        " ON e.tenant_id = l.tenant_id AND e.started_us >= l.first AND e.started_us < l.after GROUP BY l.name"
    )
    for engine, lives in _LIVES.items()
}


class Sums(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant's events added up (ncr)."""

    events: int = 0
    charge_ncr: int = 0
    cover_ncr: int = 0
    covered_ncr: int = 0
    excess_ncr: int = 0
    overage_ncr: int = 0


class Audit(Sums, frozen=True, kw_only=True):
    """The same for proofs: how many were `recovered`, and how many cannot be: charge, cover and covered out of order, purses that are not the cover."""

    recovered: int = 0
    impossible: int = 0
    unpursed: int = 0


class Line(NamedTuple):
    """Events of one tenant, day, period, key and project, added up."""

    tenant_id: str
    day_us: int | None
    period_us: int | None
    key_id: str
    project: str | None
    events: int
    charge_ncr: int
    cover_ncr: int
    covered_ncr: int
    excess_ncr: int
    overage_ncr: int
    recovered: int
    impossible: int


class HourLine(NamedTuple):
    """A tenant's events of one hour (UTC), model and project, added up: `units` by bucket, amounts in ncr."""

    hour_us: int
    model: str
    project: str | None
    requests: int
    unreported: int
    units: dict[str, int]
    charge_ncr: int
    cover_ncr: int
    excess_ncr: int
    overage_ncr: int


class Contradiction(msgspec.Struct, frozen=True, kw_only=True):
    """An event that came again under a booked id with other content, and when first. `booked` is what stands, None if the books have lost it."""

    told: UsageEvent
    booked: UsageEvent | None
    seen_us: int


def known(session: Session, ids: Iterable[str]) -> dict[str, UsageEvent]:
    """Return the events among `ids` that are in the books already, by id."""
    connection = session.connection()
    return {row.id: _event(row) for row in connection.execute(_KNOWN[connection.dialect.name], {"ids": listed(connection, ids)})}


def insert_events(session: Session, events: Sequence[UsageEvent], covered_ncr: Mapping[str, int]) -> None:
    """Insert events that are not in the books, each with what grants paid of its cover (by id)."""
    _INSERT.run(session.connection(), [_row(event, covered_ncr[event.id]) for event in events])


def keep_conflicts(session: Session, told: Iterable[UsageEvent], now_us: int) -> None:
    """Keep events that came again with other content, for somebody to look at; the same content twice is kept once."""
    rows = []
    for event in told:
        content = msgspec.json.encode(event, order="sorted")  # whatever the order of fields in a release
        digest = sha256(content).hexdigest()
        rows.append({"id": event.id, "sha256": digest, "tenant_id": event.tenant_id, "seen_us": now_us, "content": content.decode()})
    if rows:
        connection = session.connection()
        connection.execute(_KEEP[connection.dialect.name], rows)


def conflicts(session: Session, tenant_id: str | None = None, limit: int = 1000) -> list[Contradiction]:
    """Return what came again with other content, of one tenant or of all, the newest first."""
    query = select(_CONFLICT.c.content, _CONFLICT.c.seen_us).order_by(_CONFLICT.c.seen_us.desc(), _CONFLICT.c.id, _CONFLICT.c.sha256).limit(limit)
    if tenant_id is not None:
        query = query.where(_CONFLICT.c.tenant_id == tenant_id)
    told = [(msgspec.json.decode(content, type=UsageEvent), seen_us) for content, seen_us in session.execute(query)]
    booked = known(session, {event.id for event, _seen_us in told})
    return [Contradiction(told=event, booked=booked.get(event.id), seen_us=seen_us) for event, seen_us in told]


def events_between(
    session: Session, start_us: int, end_us: int, tenant_id: str | None = None, *, model: str | None = None, project: str | None = None
) -> Iterator[tuple[UsageEvent, int]]:
    """Yield (event, covered_ncr) of requests that started in [start_us, end_us), by tenant, start and id: the same order every time.

    `model` and `project` leave the others out; a project that is "" stands for requests without one.
    """
    query = select(_TABLE).where(_TABLE.c.started_us >= start_us, _TABLE.c.started_us < end_us)
    if tenant_id is not None:
        query = query.where(_TABLE.c.tenant_id == tenant_id)
    if model is not None:
        query = query.where(_TABLE.c.model == model)
    if project is not None:
        query = query.where(_TABLE.c.project == project if project else _TABLE.c.project.is_(None))
    ordered = query.order_by(_TABLE.c.tenant_id, _TABLE.c.started_us, _TABLE.c.id).execution_options(yield_per=1000)
    for row in session.execute(ordered):
        yield _event(row), row.covered_ncr


def span_sums(session: Session, tenant_ids: Iterable[str], starts_us: Sequence[int], end_us: int) -> list[SpanSum]:
    """Add up tenants' events by tenant, span, model and project; spans begin at `starts_us`, in order, the last ends at `end_us`. In no order."""
    c = _TABLE.c
    connection = session.connection()
    engine = connection.dialect.name
    if engine == "postgresql":
        span: ColumnElement[int] = func.width_bucket(c.started_us, literal(list(starts_us), postgresql.ARRAY(BigInteger))) - 1
    else:
        span = case(*((c.started_us < after_us, place) for place, after_us in enumerate(starts_us[1:])), else_=len(starts_us) - 1)
    past = c.charge_ncr - c.cover_ncr
    guessed = case(((c.source != "reported") & (c.outcome != "failed"), 1), else_=0)
    slow, fast = (case((c.lane == lane, past), else_=0) for lane in ("slow", "fast"))
    counts = (guessed, *(func.coalesce(c[bucket], 0) for bucket in BUCKETS), c.charge_ncr, c.covered_ncr, c.cover_ncr - c.covered_ncr, slow, fast)
    names = (c.tenant_id, span.label("span"), c.model, c.project)
    within = (c.started_us >= starts_us[0], c.started_us < end_us, _OF[engine])
    query = (
        select(*names, func.count(), *(func.sum(count) for count in counts)).where(*within).group_by(c.tenant_id, literal_column("span"), c.model, c.project)
    )
    return [_span_sum(row) for row in connection.execute(query, {"ids": listed(connection, tenant_ids)})]


def _span_sum(row: Row[Any]) -> SpanSum:
    values: list[Any] = list(row)
    (tenant_id, span, model, project, requests, unreported), figures = values[:6], values[6:]
    units = tuple(int(count) for count in figures[: len(BUCKETS)])
    charge, covered, debt, excess, overage = (int(ncr) for ncr in figures[len(BUCKETS) :])
    return SpanSum(
        tenant_id=tenant_id, span=span, model=model, project=project, requests=requests, unreported=int(unreported), units=units,
        charge_ncr=charge, covered_ncr=covered, debt_ncr=debt, excess_ncr=excess, overage_ncr=overage,
    )  # fmt: skip


def newest_us(session: Session) -> int | None:
    """Return when the newest event started; None without any. One look at an index."""
    found: int | None = session.execute(select(func.max(col(UsageEventRow.started_us)))).scalar_one()
    return found


def sums(session: Session) -> dict[str, Sums]:
    """Add up every tenant's events."""
    c = _TABLE.c
    past = c.charge_ncr - c.cover_ncr
    parts = (c.charge_ncr, c.cover_ncr, c.covered_ncr, case((c.lane == "slow", past), else_=0), case((c.lane == "fast", past), else_=0))
    query = select(c.tenant_id, func.count(), *(func.sum(part) for part in parts)).group_by(c.tenant_id)
    names = Sums.__struct_fields__
    return {row[0]: Sums(**{name: int(value) for name, value in zip(names, row[1:], strict=True)}) for row in session.execute(query)}


def lines(session: Session, tenant_ids: Iterable[str]) -> Iterator[Line]:
    """Add tenants' events up by everything that running sums tell apart."""
    c = _TABLE.c
    past = c.charge_ncr - c.cover_ncr
    wrong = (c.charge_ncr < c.cover_ncr) | (c.cover_ncr < c.covered_ncr) | (c.covered_ncr < 0)
    slow, fast = (case((c.lane == lane, past), else_=0) for lane in ("slow", "fast"))
    parts = (c.charge_ncr, c.cover_ncr, c.covered_ncr, slow, fast, case((c.outcome == "recovered", 1), else_=0), case((wrong, 1), else_=0))
    names = (c.tenant_id, c.day_us, c.period_us, c.key_id, c.project)
    connection = session.connection()
    query = select(*names, func.count(), *(func.sum(part) for part in parts)).where(_OF[connection.dialect.name]).group_by(*names)
    for row in session.execute(query.execution_options(yield_per=1000), {"ids": listed(connection, tenant_ids)}):
        yield Line(*row[:5], *(int(figure) for figure in row[5:]))


def hours(session: Session, tenant_id: str, day_us: int, before_us: int) -> Iterator[HourLine]:
    """Add up a tenant's events of the day that began at `day_us`, as far as they started before an instant, by hour, model and project, in that order."""
    c = _TABLE.c
    past = c.charge_ncr - c.cover_ncr
    hour = (c.started_us // HOUR_US) * HOUR_US
    unreported = case(((c.source != "reported") & (c.outcome != "failed"), 1), else_=0)
    units = [func.coalesce(func.sum(c[bucket]), 0) for bucket in BUCKETS]
    amounts = [func.sum(part) for part in (c.charge_ncr, c.cover_ncr, *(case((c.lane == lane, past), else_=0) for lane in ("slow", "fast")))]
    query = select(hour, c.model, c.project, func.count(), func.sum(unreported), *units, *amounts)
    mine = (c.tenant_id == tenant_id, c.day_us == day_us, c.started_us >= day_us, c.started_us < min(before_us, day_us + DAY_US_MAX))
    # By place: as text with parameters of its own PostgreSQL would not see that both are the same hour. Ordered here: engines differ in how texts sort.
    grouped = session.connection().execute(query.where(*mine).group_by(text("1"), c.model, c.project))
    for row in sorted(grouped, key=lambda row: (row[0], row[1], row[2] or "")):
        counted, amount = [int(figure) for figure in row[3:-4]], [int(figure) for figure in row[-4:]]
        yield HourLine(row[0], row[1], row[2], counted[0], counted[1], dict(zip(BUCKETS, counted[2:], strict=True)), *amount)


def purse_sums(session: Session, tenant_ids: Iterable[str]) -> dict[str, dict[str, int]]:
    """Add up what tenants' events took by purse, as far as they name purses, by tenant."""
    connection = session.connection()
    found: dict[str, dict[str, int]] = {}
    for tenant_id, purse, ncr in connection.execute(_PURSE_SUMS[connection.dialect.name], {"ids": listed(connection, tenant_ids)}):
        found.setdefault(tenant_id, {})[purse] = int(ncr)
    return found


def unpursed(session: Session, tenant_ids: Iterable[str]) -> dict[str, int]:
    """Count events whose purses do not sum to what credits pay of them, by tenant."""
    connection = session.connection()
    found = connection.execute(_UNPURSED[connection.dialect.name], {"ids": listed(connection, tenant_ids)})
    return {tenant_id: count for tenant_id, count in found}  # noqa: C416 - a row is no pair to `dict`


def cover_within(session: Session, lives: Sequence[tuple[str, str, int, int]]) -> dict[str, int]:
    """Add up what credits pay of the requests that began in a span: `lives` are (name, tenant, start_us, end_us), the answer is by name."""
    if not lives:
        return {}
    connection = session.connection()
    engine = connection.dialect.name
    given = {"lives": msgspec.json.encode(lives).decode()}
    return {name: int(ncr) for name, ncr in connection.execute(_WITHIN[engine], given)}


def absent(session: Session, ids: Iterable[str]) -> set[str]:
    """Return those of these ids that no event has."""
    wanted = set(ids)
    connection = session.connection()
    found = connection.execute(select(_TABLE.c.id).where(_AMONG[connection.dialect.name]), {"ids": listed(connection, wanted)})
    return wanted - {row.id for row in found}


def tenants(session: Session) -> set[str]:
    """Return every tenant that has an event."""
    return {row.tenant_id for row in session.connection().execute(select(_TABLE.c.tenant_id).distinct())}


def conflicts_counted(session: Session) -> int:
    """Return how many events came again with other content."""
    return session.connection().execute(select(func.count()).select_from(_CONFLICT)).scalar_one()


def books_id(session: Session) -> str:
    """Return the id of these books: 32 hex digits, the same as long as they exist, and in every copy of them."""
    found: str = session.execute(select(col(BooksRow.id))).scalar_one()
    return found


def _row(event: UsageEvent, covered_ncr: int) -> tuple[Any, ...]:
    values: tuple[Any, ...] = msgspec.structs.astuple(event)
    if event.purses is not None:
        values = (*values[:_PURSES], msgspec.json.encode(event.purses).decode(), *values[_PURSES + 1 :])
    return (*values[:_METER], *msgspec.structs.astuple(event.meter), *values[_METER + 1 :], covered_ncr)


def _event(row: Row[Any]) -> UsageEvent:
    found = row._mapping
    return UsageEvent(meter=Meter(**{bucket: found[bucket] for bucket in BUCKETS}), **{field: found[field] for field in _PLAIN})
