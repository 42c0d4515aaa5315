"""Queries over usage events. Takes a session, never commits; an event is inserted once and never updated."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, Table, bindparam, case, func, insert, select, true
from sqlmodel import Session, col

from billing.meter import BUCKETS, Meter
from billing.usage.event import UsageEvent
from billing.usage.table import UsageEventRow

_TABLE: Table = UsageEventRow.metadata.tables["usage_event"]
_KNOWN = select(_TABLE).where(_TABLE.c.id.in_(bindparam("ids", expanding=True)))  # built once: every batch runs them
_INSERT = insert(_TABLE)
_PLAIN = tuple(field for field in UsageEvent.__struct_fields__ if field != "meter")


class Sums(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant's events added up (ncr)."""

    events: int = 0
    charge_ncr: int = 0
    cover_ncr: int = 0
    covered_ncr: int = 0
    excess_ncr: int = 0
    overage_ncr: int = 0


def known(session: Session, ids: Iterable[str]) -> dict[str, UsageEvent]:
    """Return the events among `ids` that are in the books already, by id."""
    return {row.id: _event(row) for row in session.connection().execute(_KNOWN, {"ids": list(ids)})}


def insert_events(session: Session, events: Sequence[UsageEvent], covered_ncr: Mapping[str, int]) -> None:
    """Insert events that are not in the books, each with what grants paid of its cover (by id)."""
    if events:
        session.connection().execute(_INSERT, [_values(event, covered_ncr[event.id]) for event in events])


def events_between(session: Session, start_us: int, end_us: int, tenant_id: str | None = None) -> Iterator[tuple[UsageEvent, int]]:
    """Yield (event, covered_ncr) of requests that started in [start_us, end_us), by tenant, start and id: the same order every time."""
    query = select(_TABLE).where(_TABLE.c.started_us >= start_us, _TABLE.c.started_us < end_us)
    if tenant_id is not None:
        query = query.where(_TABLE.c.tenant_id == tenant_id)
    ordered = query.order_by(_TABLE.c.tenant_id, _TABLE.c.started_us, _TABLE.c.id).execution_options(yield_per=1000)
    for row in session.execute(ordered):
        yield _event(row), row.covered_ncr


def past_since(session: Session, tenant_id: str, since_us: int) -> int:
    """Return what a tenant's requests that started since an instant used past its credits, in ncr."""
    past = func.sum(col(UsageEventRow.charge_ncr) - col(UsageEventRow.cover_ncr))
    found = session.execute(select(past).where(col(UsageEventRow.tenant_id) == tenant_id, col(UsageEventRow.started_us) >= since_us)).scalar_one()
    return int(found or 0)


def sums(session: Session) -> dict[str, Sums]:
    """Add up every tenant's events."""
    return _sums(session, true())


def sums_since(session: Session, tenant_id: str, since_us: int) -> Sums:
    """Add up a tenant's events that started since an instant."""
    return _sums(session, (_TABLE.c.tenant_id == tenant_id) & (_TABLE.c.started_us >= since_us)).get(tenant_id, Sums())


def _sums(session: Session, where: ColumnElement[bool]) -> dict[str, Sums]:
    c = _TABLE.c
    past = c.charge_ncr - c.cover_ncr
    parts = (c.charge_ncr, c.cover_ncr, c.covered_ncr, case((c.lane == "slow", past), else_=0), case((c.lane == "fast", past), else_=0))
    query = select(c.tenant_id, func.count(), *(func.sum(part) for part in parts)).where(where).group_by(c.tenant_id)
    names = Sums.__struct_fields__
    return {row[0]: Sums(**{name: int(value) for name, value in zip(names, row[1:], strict=True)}) for row in session.execute(query)}


def _values(event: UsageEvent, covered_ncr: int) -> dict[str, Any]:
    values = {field: getattr(event, field) for field in _PLAIN}
    meter = event.meter
    for bucket in BUCKETS:
        values[bucket] = getattr(meter, bucket)
    values["covered_ncr"] = covered_ncr
    return values


def _event(row: Row[Any]) -> UsageEvent:
    found = row._mapping
    return UsageEvent(meter=Meter(**{bucket: found[bucket] for bucket in BUCKETS}), **{field: found[field] for field in _PLAIN})
