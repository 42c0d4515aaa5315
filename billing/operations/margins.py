"""What was earned and what it cost, by tenant, project, model, backend and day; and the tenants that lose money. All of it only reads."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from sqlmodel import Session

from billing.db import Database
from billing.errors import Invalid
from billing.grants import store as grants
from billing.grants.periods import midnight
from billing.invoices import store as invoices
from billing.margins import store
from billing.margins.amounts import of_minor
from billing.margins.cell import cliffs
from billing.margins.earn import Account, Costs, Weights, add_tenant, share_gpu
from billing.margins.fee import FEE_US_MAX, Fee, periods_of
from billing.margins.gpu import GpuCost, bill, busy_us, windows
from billing.margins.report import CREDITED, IDLE, SOLD, USE, Figures, Line, Margins, Place, Rates, Report, merged
from billing.margins.span import Days, Span, in_zone, span_of
from billing.money import exponent, parse_pico
from billing.operations.tenants import require_tenant
from billing.plans import store as plans
from billing.plans.terms import PlanTerms, Subscription
from billing.rates import store as rates
from billing.rates.cost import CostBook
from billing.tenants import store as tenants
from billing.tenants.tenant import Tenant

__all__ = ["Line", "Margins", "Span", "losers", "margins", "span_of"]


class _Asked(NamedTuple):
    """What a report is about, and the report."""

    report: Report
    span: Span
    tenant_id: str | None
    now_us: int


def margins(db: Database, span: Span, *, by: Sequence[str], tenant_id: str | None = None, currency: str | None = None, now_us: int) -> Margins:
    """Report revenue, cost and margin of a span of days (each tenant's own), of one tenant or of all, by some of `report.DIMENSIONS`.

    In one `currency` at the rates of exchange that were stated last by the span's last day; without one each currency by itself. Use without a cost
    is in the report's `gaps`. Raises `Invalid` (by, currency, no rate of exchange stated) and `NotFound` (tenant).
    """
    report = Report(by)
    asked = _Asked(report, span, tenant_id, now_us)
    with db.read(long=True, snapshot=True) as session:
        if currency is not None:
            exponent(currency)
        wanted = None if tenant_id is None else require_tenant(session, tenant_id)
        gpus = _gpus(session, span, now_us)
        everybody = tenants.all_tenants(session) if wanted is None or gpus else [wanted]  # what GPUs cost is split over all who used them
        weights: Weights = {}
        _add_tenants(session, asked, everybody, gpus, weights)
        for gpu in [gpu for found in gpus.values() for gpu in found]:
            _add_gpu(session, asked, gpu, weights)
        stated = None if currency is None else _stated(session, report.currencies, currency, span)
    return report.done(span.day, (span.first_day.isoformat(), span.end_day.isoformat()), stated)


def losers(db: Database, span: Span, *, currency: str | None = None, now_us: int) -> list[Line]:
    """Return the tenants that cost more than they brought, the greatest loss first: one line each. GPUs that stood idle are nobody's.

    Raises as `margins`, and `Invalid` where amounts are in several currencies and none is named.
    """
    found = margins(db, span, by=("tenant",), currency=currency, now_us=now_us)
    if len(found.totals) > 1:
        named = ", ".join(total.line.currency for total in found.totals)
        raise Invalid("currency", f"currency: there are amounts in {named}; name one to compare in, and state what it is worth: weir fx set USD EUR 0.92")
    lost = [line for line in merged([line for line in found.lines if line.line != IDLE]) if line.margin < 0]
    return sorted(lost, key=lambda line: (line.margin, line.keys["tenant"]))


def _add_tenants(session: Session, asked: _Asked, everybody: Iterable[Tenant], gpus: dict[str, list[GpuCost]], weights: Weights) -> None:
    report, tenant_id = asked.report, asked.tenant_id
    others = Report(())  # of them only the work for own GPUs is looked at
    entries = rates.all_costs(session)
    costs = Costs(CostBook(entries), cliffs(entries), gpus)
    terms = {(version.terms.plan, version.version): version.terms for version in plans.all_versions(session)}
    zones: dict[str, list[Tenant]] = defaultdict(list)
    for tenant in everybody:
        zones[tenant.timezone].append(tenant)
    for timezone, members in sorted(zones.items()):
        days = in_zone(asked.span, timezone)
        accounts = {account.tenant_id: account for account in _accounts(session, members, days, terms, asked.now_us)}
        for one, cells in groupby(store.cells(session, list(accounts), days, costs.overs), key=attrgetter("tenant_id")):
            add_tenant(report if tenant_id in (None, one) else others, accounts.pop(one), cells, costs, weights)
        for one, account in accounts.items():  # those who used nothing, and paid for it
            add_tenant(report if tenant_id in (None, one) else others, account, (), costs, weights)


def _accounts(session: Session, members: Sequence[Tenant], days: Days, terms: dict[tuple[str, int], PlanTerms], now_us: int) -> Iterable[Account]:
    ids = [tenant.id for tenant in members]
    given: dict[tuple[str, int], int] = defaultdict(int)
    for grant_id, ncr in store.plan_grants(session, ids, days.start_us, days.end_us):
        _kind, subscription, start, *_key = grant_id.split(":")
        given[subscription, int(start)] += ncr
    held = {tenant.id: _held(session, tenant, days, terms) for tenant in members}
    due = {tenant.id: _fees(tenant, held[tenant.id], days, given) for tenant in members}
    open_ = [tenant_id for tenant_id, fees in due.items() if any(fee.start_us < days.start_us for fee in fees)]
    before: dict[str, dict[int, int]] = defaultdict(dict)
    if open_:
        for (tenant_id, period_us), ncr in store.covered_before(session, open_, days.start_us, days.start_us - FEE_US_MAX).items():
            before[tenant_id][period_us] = ncr
    others = _others(session, members, days)
    for tenant in members:
        prices = {one.id: plan.credit_price for one, plan in held[tenant.id]}
        yield Account(
            tenant_id=tenant.id, currency=tenant.currency, days=days, fees=due[tenant.id], prices=prices, before=before[tenant.id], now_us=now_us,
            others=others.get(tenant.id, ()),
        )  # fmt: skip


def _others(session: Session, members: Sequence[Tenant], days: Days) -> dict[str, list[tuple[str, int, int]]]:
    """Return what tenants bought and were credited within the days beside fees and use: (kind, at_us, amount). What was voided unused is no sale."""
    currencies = {tenant.id: tenant.currency for tenant in members}
    sold = invoices.sold_within(session, currencies, days.start_us, days.end_us)
    unused = {grant.id for grant in grants.get_grants(session, [sale.grant_id for _, sale in sold]) if grant.voided_ncr == grant.amount_ncr} if sold else set()
    found: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for tenant_id, sale in sold:
        if sale.grant_id not in unused:
            found[tenant_id].append((SOLD, sale.at_us, of_minor(sale.price_minor, currencies[tenant_id])))
    for tenant_id, at_us, net_minor in invoices.credited_within(session, currencies, days.start_us, days.end_us):
        found[tenant_id].append((CREDITED, at_us, of_minor(net_minor, currencies[tenant_id])))
    return found


def _held(session: Session, tenant: Tenant, days: Days, terms: dict[tuple[str, int], PlanTerms]) -> list[tuple[Subscription, PlanTerms]]:
    found = plans.subscriptions_within(session, tenant.id, days.start_us - FEE_US_MAX, days.end_us)
    return [(one, terms[one.plan, one.version]) for one in found]


def _fees(tenant: Tenant, held: Iterable[tuple[Subscription, PlanTerms]], days: Days, given: dict[tuple[str, int], int]) -> list[Fee]:
    return [
        Fee(
            subscription=one.id,
            plan=one.plan,
            start_us=start_us,
            end_us=end_us,
            amount=of_minor(plan.monthly_fee_minor, plan.currency),
            currency=plan.currency,
            credits_ncr=given[one.id, start_us],
        )
        for one, plan, start_us, end_us in periods_of(held, tenant.timezone, days.start_us, days.end_us)
        if plan.monthly_fee_minor
    ]


def _gpus(session: Session, span: Span, now_us: int) -> dict[str, list[GpuCost]]:
    """Return the GPUs to be paid for within the span, by backend."""
    cuts = _cuts(span)
    found: dict[str, list[GpuCost]] = {}
    for gpu in store.all_gpus(session):
        if windows(gpu, cuts, now_us):
            found.setdefault(gpu.backend, []).append(gpu)
    return found


def _add_gpu(session: Session, asked: _Asked, gpu: GpuCost, weights: Weights) -> None:
    """Split the bill day by day. Its days are UTC's, the use's are the tenants' own: the bill of 3 November goes to what they did on their 3 November."""
    open_ = windows(gpu, _cuts(asked.span), asked.now_us)
    cuts = [open_[0][1], *(end_us for _day, _start_us, end_us in open_)]
    busy = busy_us(store.running(session, gpu.backend, cuts[0], cuts[-1]), cuts)
    for (day, start_us, end_us), ran_us in zip(open_, busy, strict=True):
        idle, parts = share_gpu(bill(gpu, start_us, end_us), (ran_us, end_us - start_us), weights.get((gpu.id, day), {}))
        for place, part in parts:
            if asked.tenant_id in (None, place.tenant):
                asked.report.add(USE, place, gpu.currency, Figures(gpus=part))
        if asked.tenant_id is None:
            asked.report.add(IDLE, Place(backend=gpu.backend, day=day), gpu.currency, Figures(gpus=idle))


def _cuts(span: Span) -> list[int]:
    return [midnight(day, "UTC") for day in (*span, span.end_day)]


def _stated(session: Session, found: Iterable[str], currency: str, span: Span) -> Rates:
    last_day = span.day((span.end_day - span.first_day).days - 1)
    stated = {}
    for base in found:
        if base == currency:
            continue
        rate = store.exchange_rate(session, base, currency, last_day)
        if rate is None:
            raise Invalid(
                "currency",
                f"currency: nobody has stated what {base} is worth in {currency} by {last_day}; state it: weir fx set {base} {currency} RATE --day {last_day}",
            )
        stated[base] = (parse_pico(rate[1]), rate[0])
    return Rates(currency, stated)
