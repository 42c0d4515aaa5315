"""Queries over billing periods, and over what their usage comes to. Takes a session, never commits; a closed period is inserted and never changed."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Row, Table, func, select, text, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from billing.credits.store import PERIOD
from billing.periods.facts import Facts, Use, seal, unseal
from billing.periods.table import BillingPeriodRow
from billing.tenants.store import TENANT

_PERIOD: Table = BillingPeriodRow.metadata.tables["billing_period"]
_CURSOR: Table = BillingPeriodRow.metadata.tables["billing_cursor"]
_SUM: Table = BillingPeriodRow.metadata.tables["usage_sum"]
_CUTS = {
    "postgresql": "SELECT CAST(v ->> 0 AS int) AS number, v ->> 1 AS tenant_id, CAST(v ->> 2 AS bigint) AS first, CAST(v ->> 3 AS bigint) AS after"
    " FROM json_array_elements(CAST(:cuts AS json)) v",
    "sqlite": "SELECT json_extract(value, '$[0]') AS number, json_extract(value, '$[1]') AS tenant_id, json_extract(value, '$[2]') AS first,"
    " json_extract(value, '$[3]') AS after FROM json_each(:cuts)",
}
_RATES = {"postgresql": "string_agg(DISTINCT CAST(e.rate_id AS text), ',')", "sqlite": "group_concat(DISTINCT e.rate_id)"}
_USES = {
    engine: text(
        "SELECT c.number, e.model, e.project, COUNT(*), SUM(CASE WHEN e.source <> 'reported' AND e.outcome <> 'failed' THEN 1 ELSE 0 END),"  # noqa: S608
        " SUM(e.charge_ncr), SUM(e.cover_ncr), SUM(e.covered_ncr),"
        " SUM(CASE WHEN e.lane = 'slow' THEN e.charge_ncr - e.cover_ncr ELSE 0 END), SUM(CASE WHEN e.lane = 'fast' THEN e.charge_ncr - e.cover_ncr ELSE 0 END),"
        f" {_RATES[engine]} FROM ({cuts}) c JOIN usage_event e ON e.tenant_id = c.tenant_id AND e.started_us >= c.first AND e.started_us < c.after"
        " GROUP BY c.number, e.model, e.project"
    )
    for engine, cuts in _CUTS.items()
}


class Cut(NamedTuple):
    """A part of a tenant's period in which one subscription was in force (None: none was): requests that began in [first_us, after_us)."""

    tenant_id: str
    subscription: str | None
    first_us: int
    after_us: int


class Cursor(NamedTuple):
    """The oldest open period of a tenant; `start_us` None: it has none yet, and is to be looked at again at `end_us`.

    `seen`: how many requests were booked for each month when one was closed last, by when the month began. Where it is another number now, something is late.
    """

    tenant_id: str
    start_us: int | None
    end_us: int
    seen: Mapping[int, int] = MappingProxyType({})


class Closed(msgspec.Struct, frozen=True, kw_only=True):
    """A closed period as it is kept."""

    facts: Facts
    closed_us: int
    close_seq: int
    sha256: str


def uses(session: Session, cuts: Sequence[Cut]) -> dict[Cut, list[Use]]:
    """Add up the requests of each cut by model and project. One statement, however many cuts."""
    if not cuts:
        return {}
    connection = session.connection()
    given = [(number, cut.tenant_id, cut.first_us, cut.after_us) for number, cut in enumerate(cuts)]
    found: dict[Cut, list[Use]] = defaultdict(list)
    for row in connection.execute(_USES[connection.dialect.name], {"cuts": msgspec.json.encode(given).decode()}):
        cut, figures = cuts[row[0]], [int(figure) for figure in row[3:10]]
        rate_ids = tuple(sorted(int(rate_id) for rate_id in str(row[10]).split(","))) if row[10] is not None else ()
        named = dict(zip(("requests", "unreported", "charge_ncr", "cover_ncr", "covered_ncr", "excess_ncr", "overage_ncr"), figures, strict=True))
        found[cut].append(Use(subscription=cut.subscription, model=row[1], project=row[2], rate_ids=rate_ids, **named))
    return found


def due(session: Session, by_us: int, limit: int, tenant_id: str | None = None) -> list[Cursor]:
    """Return tenants whose oldest open period ended by an instant, the first to end first, at most `limit`. Costs what it finds."""
    query = select(_CURSOR).where(_CURSOR.c.end_us <= by_us)
    if tenant_id is not None:
        query = query.where(_CURSOR.c.tenant_id == tenant_id)
    return [_cursor(row) for row in session.connection().execute(query.order_by(_CURSOR.c.end_us, _CURSOR.c.tenant_id).limit(limit))]


def cursor(session: Session, tenant_id: str) -> Cursor | None:
    """Return how far a tenant's periods are closed; None where nobody has looked yet."""
    return cursors(session, [tenant_id]).get(tenant_id)


def cursors(session: Session, tenant_ids: Iterable[str]) -> dict[str, Cursor]:
    """Return how far the periods of these tenants are closed, of each at which somebody has looked."""
    rows = session.connection().execute(select(_CURSOR).where(_CURSOR.c.tenant_id.in_(sorted(set(tenant_ids)))))
    return {row.tenant_id: _cursor(row) for row in rows}


def without_cursor(session: Session, limit: int, tenant_id: str | None = None) -> list[str]:
    """Return tenants whose periods nobody has looked at yet, at most `limit`; or that tenant, where nobody has."""
    query = select(TENANT.c.id).outerjoin(_CURSOR, _CURSOR.c.tenant_id == TENANT.c.id).where(_CURSOR.c.tenant_id.is_(None))
    if tenant_id is not None:
        query = query.where(TENANT.c.id == tenant_id)
    return list(session.connection().execute(query.order_by(TENANT.c.id).limit(limit)).scalars())


def put_cursor(session: Session, cursors: Iterable[Cursor]) -> None:
    """Write how far tenants' periods are closed, in place of what stood there."""
    connection = session.connection()
    new = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(_CURSOR)
    put = new.on_conflict_do_update(index_elements=["tenant_id"], set_={name: new.excluded[name] for name in ("start_us", "end_us", "seen")})
    rows = [one._asdict() | {"seen": {str(start_us): events for start_us, events in one.seen.items()}} for one in cursors]
    if rows:
        connection.execute(put, rows)


def insert_closed(session: Session, closed: Iterable[Facts], now_us: int) -> list[Closed]:
    """Write periods that are closed now, in their order. The caller is alone at this: it holds the lock of jobs, or on SQLite the database."""
    seq = session.connection().execute(select(func.coalesce(func.max(_PERIOD.c.close_seq), 0))).scalar_one()
    made = []
    for facts in closed:
        seq += 1
        content, digest = seal(facts)
        key = {"tenant_id": facts.tenant_id, "start_us": facts.start_us, "end_us": facts.end_us}
        counts = {"events": facts.events, "late_events": facts.late_events}
        session.connection().execute(_PERIOD.insert().values(**key, **counts, closed_us=now_us, close_seq=seq, facts=content, sha256=digest))
        made.append(Closed(facts=facts, closed_us=now_us, close_seq=seq, sha256=digest))
    return made


def get_closed(session: Session, tenant_id: str, start_us: int) -> Closed | None:
    """Return the closed period of a tenant that began at an instant, or None."""
    where = (_PERIOD.c.tenant_id == tenant_id) & (_PERIOD.c.start_us == start_us)
    row = session.connection().execute(select(_PERIOD).where(where)).first()
    return None if row is None else Closed(facts=unseal(row.facts), closed_us=row.closed_us, close_seq=row.close_seq, sha256=row.sha256)


def last_closed(session: Session, tenant_ids: Iterable[str]) -> dict[str, Closed]:
    """Return the newest closed period of each tenant that has one."""
    newest = (
        select(_PERIOD.c.tenant_id, func.max(_PERIOD.c.start_us)).where(_PERIOD.c.tenant_id.in_(sorted(set(tenant_ids)))).group_by(_PERIOD.c.tenant_id)
    )  # fmt: skip
    rows = session.connection().execute(select(_PERIOD).where(tuple_(_PERIOD.c.tenant_id, _PERIOD.c.start_us).in_(newest)))
    return {row.tenant_id: Closed(facts=unseal(row.facts), closed_us=row.closed_us, close_seq=row.close_seq, sha256=row.sha256) for row in rows}


def all_closed(session: Session, tenant_id: str | None = None, *, after_seq: int = 0, limit: int = 1000) -> list[Closed]:
    """Return closed periods in the order of their closing, of one tenant or of all."""
    query = select(_PERIOD).where(_PERIOD.c.close_seq > after_seq).order_by(_PERIOD.c.close_seq).limit(limit)
    if tenant_id is not None:
        query = query.where(_PERIOD.c.tenant_id == tenant_id)
    return [Closed(facts=unseal(row.facts), closed_us=row.closed_us, close_seq=row.close_seq, sha256=row.sha256) for row in session.connection().execute(query)]


def booked(session: Session, tenant_ids: Iterable[str]) -> dict[str, dict[int, int]]:
    """Return how many requests were booked for each month of tenants, by tenant and by when the month began: running sums, no event is read."""
    found: dict[str, dict[int, int]] = defaultdict(dict)
    query = select(_SUM.c.tenant_id, _SUM.c.start_us, _SUM.c.events).where(_SUM.c.span == PERIOD, _SUM.c.tenant_id.in_(sorted(set(tenant_ids))))
    for tenant_id, start_us, events in session.connection().execute(query):
        found[tenant_id][start_us] = events
    return found


def known(session: Session, tenant_ids: Iterable[str]) -> dict[str, list[Facts]]:
    """Return all that closed periods of tenants say, oldest first, by tenant."""
    found: dict[str, list[Facts]] = defaultdict(list)
    query = select(_PERIOD.c.tenant_id, _PERIOD.c.facts).where(_PERIOD.c.tenant_id.in_(sorted(set(tenant_ids)))).order_by(_PERIOD.c.start_us)
    for row in session.connection().execute(query):
        found[row.tenant_id].append(unseal(row.facts))
    return found


def sealed(session: Session) -> Iterable[tuple[str, int, str, str]]:
    """Yield (tenant, start_us, facts, sha256) of every closed period, for whoever proves them."""
    query = select(_PERIOD.c.tenant_id, _PERIOD.c.start_us, _PERIOD.c.facts, _PERIOD.c.sha256).order_by(_PERIOD.c.close_seq)
    for row in session.connection().execute(query.execution_options(yield_per=100)):
        yield row[0], row[1], row[2], row[3]


def _cursor(row: Row[Any]) -> Cursor:
    return Cursor(row.tenant_id, row.start_us, row.end_us, {int(start_us): events for start_us, events in row.seen.items()})
