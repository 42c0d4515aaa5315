"""Queries for margins: use added up in one statement, and the rows of GPUs and exchange. Takes a session, never commits.

Only `gpu_cost` and `exchange_rate` are written here; of usage, subscriptions, costs and grants it reads sums that join them, which no room has alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Table, case, cast, delete, func, literal, select, update
from sqlmodel import Session, col

from billing.bulk import among, listed
from billing.credits.table import UsageSumRow
from billing.grants.table import CreditGrantRow
from billing.margins.cell import Cell
from billing.margins.gpu import GpuCost
from billing.margins.span import Days
from billing.margins.table import ExchangeRateRow, GpuCostRow
from billing.meter import BUCKETS, INPUT_BUCKETS, Meter
from billing.plans.table import SubscriptionRow
from billing.rates.table import CostRow
from billing.usage.table import UsageEventRow

_EVENT: Table = UsageEventRow.metadata.tables["usage_event"]
_SUBSCRIPTION: Table = SubscriptionRow.metadata.tables["subscription"]
_COST: Table = CostRow.metadata.tables["cost"]
_GRANT: Table = CreditGrantRow.metadata.tables["credit_grant"]
_SUM: Table = UsageSumRow.metadata.tables["usage_sum"]
_RATE: Table = ExchangeRateRow.metadata.tables["exchange_rate"]
_OF = among(_EVENT.c.tenant_id)
_GRANTS_OF = among(_GRANT.c.tenant_id)
_SUMS_OF = among(_SUM.c.tenant_id)
_SAME = ("tenant_id", "project", "model", "backend", "upstream_model", "service_tier", "lane", "period_us")
_DAY_US = 86_400_000_000
_WEIGHTS = ("weight_input", "weight_cached", "weight_output")
_PLAIN = tuple(field for field in GpuCost.__struct_fields__ if field != "weights")


def cells(session: Session, tenant_ids: Iterable[str], days: Days, overs: Sequence[int]) -> Iterator[Cell]:
    """Yield the requests of tenants of one zone that began within its days as cells, tenant by tenant; `overs` are the cliffs (`cell.cliffs`)."""
    e, s, k = _EVENT.c, _SUBSCRIPTION.c, _COST.c
    cost_us = select(func.max(k.effective_us)).where(k.backend == e.backend, k.model == e.upstream_model, k.effective_us <= e.started_us).scalar_subquery()
    on = (s.tenant_id == e.tenant_id) & (s.started_us <= e.started_us) & (s.ended_us.is_(None) | (s.ended_us > e.started_us))
    connection = session.connection()
    one = (
        select(
            *(e[name] for name in _SAME),
            *(e[bucket] for bucket in BUCKETS),
            e.charge_ncr,
            e.covered_ncr,
            case((e.lane == "fast", e.charge_ncr - e.cover_ncr), else_=0).label("overage_ncr"),
            s.id.label("subscription"),
            _day(days).label("day"),
            cost_us.label("cost_us"),
            _step(overs).label("step"),
        )
        .select_from(_EVENT.outerjoin(_SUBSCRIPTION, on))
        .where(_OF[connection.dialect.name], e.started_us >= days.start_us, e.started_us < days.end_us)
        .subquery()
    )
    same = [one.c[name] for name in (*_SAME, "subscription", "day", "cost_us", "step")]  # the order in which they are read below
    added = [func.sum(one.c[name]) for name in (*BUCKETS, "charge_ncr", "covered_ncr", "overage_ncr")]
    query = select(*same, func.count(), *added).group_by(*same).order_by(one.c.tenant_id)
    for row in connection.execute(query.execution_options(yield_per=1000), {"ids": listed(connection, tenant_ids)}):
        tenant_id, project, model, backend, upstream_model, service_tier, lane, period_us, subscription, day, cost_us, step, events, *sums = row
        counts = [None if count is None else int(count) for count in sums]  # PostgreSQL sums into a wider type
        yield Cell(
            tenant_id=tenant_id,
            project=project,
            model=model,
            backend=backend,
            upstream_model=upstream_model,
            service_tier=service_tier,
            lane=lane,
            day=int(day),
            subscription=subscription,
            period_us=period_us,
            cost_us=cost_us,
            step=step,
            requests=events,
            charge_ncr=counts[-3] or 0,
            covered_ncr=counts[-2] or 0,
            overage_ncr=counts[-1] or 0,
            meter=Meter(**dict(zip(BUCKETS, counts, strict=False))),
        )


def covered_before(session: Session, tenant_ids: Iterable[str], start_us: int, since_us: int) -> dict[tuple[str, int], int]:
    """Add up what grants paid of requests that began in [since_us, start_us), by tenant and plan period (ncr)."""
    e, connection = _EVENT.c, session.connection()
    where = (_OF[connection.dialect.name], e.started_us >= since_us, e.started_us < start_us, e.period_us.is_not(None))
    query = select(e.tenant_id, e.period_us, func.sum(e.covered_ncr)).where(*where).group_by(e.tenant_id, e.period_us)
    return {(row[0], row[1]): int(row[2]) for row in connection.execute(query, {"ids": listed(connection, tenant_ids)})}


def plan_grants(session: Session, tenant_ids: Iterable[str], start_us: int, end_us: int) -> Iterator[tuple[str, int]]:
    """Yield (id, amount_ncr) of what plans gave tenants in periods that overlap [start_us, end_us)."""
    g, connection = _GRANT.c, session.connection()
    where = (_GRANTS_OF[connection.dialect.name], g.kind == "plan", g.expires_us > start_us, g.effective_us < end_us)
    for row in connection.execute(select(g.id, g.amount_ncr).where(*where), {"ids": listed(connection, tenant_ids)}):
        yield row.id, row.amount_ncr


def running(session: Session, backend: str, start_us: int, end_us: int) -> Iterator[tuple[int, int]]:
    """Yield when requests ran at a backend, [from when they were sent, end), of all that ran in a span of time, by their start.

    One that took longer than a day is not seen any more on the days after.
    """
    e = _EVENT.c
    sent = (e.started_us + cast(e.queue_ms, BigInteger) * 1000).label("sent_us")
    where = (e.backend == backend, e.started_us >= start_us - _DAY_US, e.started_us < end_us, e.ended_us > start_us)
    query = select(sent, e.ended_us).where(*where).order_by(sent, e.ended_us).execution_options(yield_per=5000)
    for row in session.connection().execute(query):
        yield row.sent_us, row.ended_us


def day_sums(session: Session, tenant_ids: Iterable[str], since_us: int) -> dict[str, dict[int, int]]:
    """Return what tenants used on days that began at `since_us` or later, in ncr, by when they began. Days without use have none."""
    s, connection = _SUM.c, session.connection()
    where = (_SUMS_OF[connection.dialect.name], s.span == "day", s.start_us >= since_us)
    found: dict[str, dict[int, int]] = {}
    for row in connection.execute(select(s.tenant_id, s.start_us, s.charge_ncr).where(*where), {"ids": listed(connection, tenant_ids)}):
        found.setdefault(row.tenant_id, {})[row.start_us] = row.charge_ncr
    return found


def all_gpus(session: Session) -> list[GpuCost]:
    """Return every entry of what GPUs cost, by backend, start and id."""
    query = select(GpuCostRow).order_by(col(GpuCostRow.backend), col(GpuCostRow.start_us), col(GpuCostRow.id))
    return [_gpu(row) for row in session.execute(query).scalars()]


def get_gpu(session: Session, gpu_id: int) -> GpuCost | None:
    """Return one entry, or None."""
    row = session.get(GpuCostRow, gpu_id)
    return None if row is None else _gpu(row)


def next_gpu_id(session: Session) -> int:
    """Return the id that the next entry gets; the caller holds the admin lock."""
    return (session.execute(select(func.max(GpuCostRow.id))).scalar_one() or 0) + 1


def insert_gpu(session: Session, cost: GpuCost) -> None:
    """Insert an entry; the caller holds the admin lock."""
    weights: dict[str, Any] = dict(zip(_WEIGHTS, cost.weights, strict=True))
    session.add(GpuCostRow(**{field: getattr(cost, field) for field in _PLAIN}, **weights))
    session.flush()


def end_gpus(session: Session, backend: str, end_us: int) -> None:
    """End a backend's entries that have no end and began before an instant; the caller holds the admin lock."""
    where = (col(GpuCostRow.backend) == backend, col(GpuCostRow.end_us).is_(None), col(GpuCostRow.start_us) < end_us)
    session.execute(update(GpuCostRow).where(*where).values(end_us=end_us))


def delete_gpu(session: Session, gpu_id: int) -> None:
    """Take an entry away: what was a mistake bills nothing."""
    session.execute(delete(GpuCostRow).where(col(GpuCostRow.id) == gpu_id))


def exchange_rate(session: Session, base: str, quote: str, day: str) -> tuple[str, str] | None:
    """Return (day, rate) of the rate stated last for a day or for one before it; None where nobody stated one."""
    where = (_RATE.c.base == base, _RATE.c.quote == quote, _RATE.c.day <= day)
    row = session.connection().execute(select(_RATE.c.day, _RATE.c.rate).where(*where).order_by(_RATE.c.day.desc()).limit(1)).first()
    return None if row is None else (row.day, row.rate)


def all_exchange_rates(session: Session) -> list[tuple[str, str, str, str]]:
    """Return (base, quote, day, rate) of every stated rate, in that order."""
    return [(row.base, row.quote, row.day, row.rate) for row in session.connection().execute(select(_RATE).order_by(_RATE.c.base, _RATE.c.quote, _RATE.c.day))]


def get_exchange_rate(session: Session, pair: tuple[str, str], day: str) -> str | None:
    """Return what was stated for a day itself; None where nothing was."""
    row = session.get(ExchangeRateRow, (*pair, day), populate_existing=True)
    return None if row is None else row.rate


def put_exchange_rate(session: Session, pair: tuple[str, str], day: str, rate: str, now_us: int) -> None:
    """State a rate for a day, over what was stated for it; the caller holds the admin lock."""
    session.merge(ExchangeRateRow(base=pair[0], quote=pair[1], day=day, rate=rate, created_us=now_us))
    session.flush()


def _day(days: Days) -> ColumnElement[int]:
    at = _EVENT.c.started_us
    return case(*((at >= run.start_us, run.first + (at - run.start_us) // literal(run.length_us, BigInteger)) for run in reversed(days.runs)))


def _step(overs: Sequence[int]) -> ColumnElement[int]:
    total: ColumnElement[Any] = sum((func.coalesce(_EVENT.c[bucket], 0) for bucket in INPUT_BUCKETS[1:]), func.coalesce(_EVENT.c[INPUT_BUCKETS[0]], 0))
    return case(*((total > over, number) for number, over in reversed(list(enumerate(overs, 1)))), else_=0) if overs else literal(0)


def _gpu(row: GpuCostRow) -> GpuCost:
    return GpuCost(**{field: getattr(row, field) for field in _PLAIN}, weights=(row.weight_input, row.weight_cached, row.weight_output))
