"""Queries over the tenants' credit accounts and their running sums. Takes a session, never commits.

The statements are built once: every batch runs them, and building one costs more than running it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Row, Table, bindparam, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from billing.bulk import ENGINES, Change, among, listed
from billing.credits.table import CreditAccountRow


class Totals(msgspec.Struct, kw_only=True):
    """A tenant's running totals (ncr): what grants paid, what is owed, what was given away, what will be invoiced.

    `noticed_percent` is the highest threshold written for the period that began at `noticed_us` (`billing.alerts`).
    """

    tenant_id: str
    debt_ncr: int = 0
    consumed_ncr: int = 0
    excess_ncr: int = 0
    overage_ncr: int = 0
    noticed_us: int = 0
    noticed_percent: int = 0


class Sum(msgspec.Struct, frozen=True, kw_only=True):
    """Events of one tenant and span that began at `start_us`, added up (ncr)."""

    tenant_id: str
    span: str
    start_us: int
    events: int = 0
    charge_ncr: int = 0
    cover_ncr: int = 0
    excess_ncr: int = 0
    overage_ncr: int = 0


_SPANS = 1000  # a statement
DAY, PERIOD, KEY_PREFIX, PROJECT_PREFIX = "day", "period", "key:", "project:"

_TABLE: Table = CreditAccountRow.metadata.tables["credit_account"]
_SUM: Table = CreditAccountRow.metadata.tables["usage_sum"]
_ID = _TABLE.c.tenant_id
_AMONG = among(_ID)
_ALL = [_TABLE.c[field] for field in Totals.__struct_fields__]
_LOCK = {engine: select(*_ALL).where(_AMONG[engine]).order_by(_ID).with_for_update() for engine in ENGINES}
_GET = select(*_ALL).where(_TABLE.c.tenant_id == bindparam("id"))
_EVERY = select(*_ALL).order_by(_ID)
_PUT = Change(
    postgresql="UPDATE credit_account AS a SET debt_ncr = v.debt, consumed_ncr = v.consumed, excess_ncr = v.excess, overage_ncr = v.overage, "
    "noticed_us = v.noticed, noticed_percent = v.percent "
    "FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::int[]) "
    "AS v (id, debt, consumed, excess, overage, noticed, percent) WHERE a.tenant_id = v.id",
    sqlite="UPDATE credit_account SET debt_ncr = ?2, consumed_ncr = ?3, excess_ncr = ?4, overage_ncr = ?5, noticed_us = ?6, noticed_percent = ?7 "
    "WHERE tenant_id = ?1",
)
_OPEN = {
    "postgresql": postgresql.insert(_TABLE).on_conflict_do_nothing(index_elements=["tenant_id"]),
    "sqlite": sqlite.insert(_TABLE).on_conflict_do_nothing(index_elements=["tenant_id"]),
}
_OF_TENANTS = among(_SUM.c.tenant_id)
_PAST = {
    engine: select(_SUM.c.tenant_id, _SUM.c.start_us, (_SUM.c.charge_ncr - _SUM.c.cover_ncr).label("past")).where(
        _OF_TENANTS[engine], _SUM.c.span == DAY, _SUM.c.start_us >= bindparam("first")
    )
    for engine in ENGINES
}
_INTO = f"INSERT INTO usage_sum ({', '.join(Sum.__struct_fields__)})"
_ADDED = ", ".join(f"{field} = usage_sum.{field} + excluded.{field}" for field in Sum.__struct_fields__[3:])
_ELSE_ADD = f"ON CONFLICT (tenant_id, span, start_us) DO UPDATE SET {_ADDED}"
_ADD = Change(
    postgresql=f"{_INTO} SELECT * FROM unnest(%s::text[], %s::text[]{', %s::bigint[]' * 6}) {_ELSE_ADD}",  # noqa: S608 - names from our code
    sqlite=f"{_INTO} VALUES ({', '.join('?' * 8)}) {_ELSE_ADD}",
)


def lock(session: Session, tenant_ids: Iterable[str]) -> dict[str, Totals]:
    """Lock tenants' accounts until the transaction ends, in the order of their ids, and return them; a missing one is opened.

    Whoever takes from grants holds this lock. A tenant's account is opened with the tenant, so that none is missing: opening one here comes after
    locks of others and out of their order, and may be a deadlock that has to be tried again. A tenant that does not exist is an IntegrityError.
    """
    wanted = sorted(set(tenant_ids))
    connection = session.connection()
    locking, ids = _LOCK[connection.dialect.name], {"ids": listed(connection, wanted)}
    found = {row.tenant_id: _totals(row) for row in connection.execute(locking, ids)}
    missing = [msgspec.structs.asdict(Totals(tenant_id=tenant_id)) for tenant_id in wanted if tenant_id not in found]
    if missing:
        connection.execute(_OPEN[connection.dialect.name], missing)
        found = {row.tenant_id: _totals(row) for row in connection.execute(locking, ids)}
    return found


def put(session: Session, totals: Sequence[Totals]) -> None:
    """Write totals that were computed under `lock`."""
    _PUT.run(session.connection(), [msgspec.structs.astuple(total) for total in totals])


def get(session: Session, tenant_id: str) -> Totals:
    """Return a tenant's totals; all 0 before anything was booked. Locks nothing."""
    row = session.connection().execute(_GET, {"id": tenant_id}).first()
    return Totals(tenant_id=tenant_id) if row is None else _totals(row)


def every(session: Session) -> dict[str, Totals]:
    """Return all tenants' totals by tenant."""
    return {row.tenant_id: _totals(row) for row in session.connection().execute(_EVERY)}


def add_sums(session: Session, sums: Sequence[Sum]) -> None:
    """Add to running sums; one that is not there begins. The caller holds the tenants' lock, and names each sum once."""
    _ADD.run(session.connection(), [msgspec.structs.astuple(one) for one in sums])


def sum_of(session: Session, tenant_id: str, span: str, start_us: int) -> Sum:
    """Return one running sum; all 0 before anything was added."""
    where = (_SUM.c.tenant_id == tenant_id) & (_SUM.c.span == span) & (_SUM.c.start_us == start_us)
    row = session.connection().execute(select(_SUM).where(where)).first()
    return Sum(tenant_id=tenant_id, span=span, start_us=start_us) if row is None else Sum(**row._mapping)


def sums_of(session: Session, tenant_id: str, spans: Iterable[str], start_us: int) -> dict[str, int]:
    """Return what credits paid (`cover_ncr`) in several spans that began at one instant, by span; 0 where nothing was added."""
    names = list(spans)
    where = (_SUM.c.tenant_id == tenant_id) & (_SUM.c.span.in_(names)) & (_SUM.c.start_us == start_us)
    found = dict.fromkeys(names, 0)
    found.update({row.span: row.cover_ncr for row in session.connection().execute(select(_SUM.c.span, _SUM.c.cover_ncr).where(where))})
    return found


def sums_at(session: Session, spans: Sequence[tuple[str, str, int]]) -> dict[tuple[str, str], int]:
    """Return what credits paid (`cover_ncr`) in spans of many tenants, each (tenant, span, start_us), by tenant and span; 0 where nothing was added."""
    found = {(tenant_id, span): 0 for tenant_id, span, _start_us in spans}
    for first in range(0, len(spans), _SPANS):
        where = tuple_(_SUM.c.tenant_id, _SUM.c.span, _SUM.c.start_us).in_(spans[first : first + _SPANS])
        rows = session.connection().execute(select(_SUM.c.tenant_id, _SUM.c.span, _SUM.c.cover_ncr).where(where))
        found |= {(row.tenant_id, row.span): row.cover_ncr for row in rows}
    return found


def past_of_days(session: Session, days: Mapping[str, int]) -> dict[str, int]:
    """Return what tenants were served past their credits on a day each, by when it began (ncr); one without a sum is left out."""
    if not days:
        return {}
    connection = session.connection()
    found = connection.execute(_PAST[connection.dialect.name], {"ids": listed(connection, list(days)), "first": min(days.values())})
    return {row.tenant_id: row.past for row in found if row.start_us == days[row.tenant_id]}


def every_sum(session: Session, tenant_ids: Iterable[str]) -> dict[str, list[Sum]]:
    """Return all running sums of tenants, by tenant."""
    found: dict[str, list[Sum]] = {}
    query = select(_SUM).where(_SUM.c.tenant_id.in_(list(tenant_ids))).order_by(_SUM.c.tenant_id, _SUM.c.span, _SUM.c.start_us)
    for row in session.connection().execute(query):
        found.setdefault(row.tenant_id, []).append(Sum(**row._mapping))
    return found


def totals_of(session: Session, tenant_ids: Iterable[str]) -> dict[str, Totals]:
    """Return the totals of those of these tenants that have an account. Locks nothing."""
    return {row.tenant_id: _totals(row) for row in session.connection().execute(select(*_ALL).where(_ID.in_(list(tenant_ids))))}


def with_sums(session: Session) -> set[str]:
    """Return every tenant that has an account or a running sum."""
    connection = session.connection()
    return {row.tenant_id for query in (select(_ID), select(_SUM.c.tenant_id).distinct()) for row in connection.execute(query)}


def _totals(row: Row[*tuple[Any, ...]]) -> Totals:
    return Totals(tenant_id=row[0], debt_ncr=row[1], consumed_ncr=row[2], excess_ncr=row[3], overage_ncr=row[4], noticed_us=row[5], noticed_percent=row[6])
