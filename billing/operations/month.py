"""A calendar month of many tenants as daily lines and single requests, straight from the books. Reads within a session of the caller's.

The database adds up: what comes out are as many rows as there are lines, however many requests they stand for.
"""

from collections.abc import Iterable, Iterator
from decimal import Decimal
from functools import lru_cache
from itertools import groupby, islice, pairwise

import msgspec
from sqlmodel import Session

from billing.errors import Invalid
from billing.grants import periods
from billing.money import value_of
from billing.operations.tenants import require_tenant
from billing.plans import store as plans
from billing.plans.terms import PlanVersion, Subscription
from billing.tenants import store as tenants
from billing.tenants.tenant import Tenant
from billing.usage import store as events
from billing.usage.daily import DailyUsage, Span, SpanSum, lines_of
from billing.usage.event import UsageEvent

_TENANTS_AT_ONCE = 100


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests of a month: of one tenant or of all, of one model or project, on days of the tenant's calendar, `from_day` to `to_day` inclusive.

    A project that is "" stands for requests without one.
    """

    month: str
    tenant_id: str | None = None
    from_day: str | None = None
    to_day: str | None = None
    model: str | None = None
    project: str | None = None


def tenants_of(session: Session, month: str, tenant_id: str | None) -> list[Tenant]:
    """Return one tenant or all, by id. Raises `Invalid` (month) and `NotFound` (tenant)."""
    periods.month_span(month, "UTC")  # a wrong month is refused also when there is no tenant yet
    found = [require_tenant(session, tenant_id)] if tenant_id is not None else tenants.all_tenants(session)
    return sorted(found, key=lambda tenant: tenant.id)


def version_of(session: Session, subscription: Subscription) -> PlanVersion:
    """Return the version of a plan that a subscription is to."""
    version = plans.get_version(session, subscription.plan, subscription.version)
    assert version is not None, "a subscription names a version that exists: a foreign key"
    return version


def days_of(month: str, timezone: str) -> dict[str, tuple[int, int]]:
    """Return a month's days in a zone, each with [start_us, end_us): 23 to 25 hours where the clock changes."""
    return _days(month, timezone)


def spans_of(session: Session, tenant: Tenant, month: str) -> tuple[Span, ...]:
    """Cut a tenant's month into its days, and a day in which the plan changes at the change."""
    start_us, end_us = periods.month_span(month, tenant.timezone)
    days = _days(month, tenant.timezone)
    plan = [(one, version_of(session, one).terms) for one in plans.subscriptions_within(session, tenant.id, start_us, end_us)]
    changes = {at_us for one, _terms in plan for at_us in (one.started_us, one.ended_us) if at_us is not None and start_us < at_us < end_us}
    named = {first_us: day for day, (first_us, _after_us) in days.items()}
    spans, day = [], ""
    for first_us, after_us in pairwise([*sorted(changes | set(named)), end_us]):
        day = named.get(first_us, day)
        terms = next((terms for one, terms in plan if one.started_us <= first_us and (one.ended_us is None or first_us < one.ended_us)), None)
        price = None if terms is None or terms.credit_price is None else Decimal(terms.credit_price)
        spans.append(
            Span(first_us, after_us, day, price, Decimal(0) if terms is None else value_of(terms.monthly_fee_minor, terms.allowance_ncr, terms.currency))
        )
    return tuple(spans)


def daily_lines(session: Session, listed: Iterable[Tenant], month: str, *, by_project: bool = False) -> Iterator[DailyUsage]:
    """Yield tenants' lines of a month, in the tenants' order; those whose months are cut alike are added up in one statement, some at a time."""
    cut = ((tenant, spans_of(session, tenant, month)) for tenant in listed)
    for _starts, group in groupby(cut, key=lambda pair: (pair[1][0].start_us, *(span.end_us for span in pair[1]))):
        while batch := list(islice(group, _TENANTS_AT_ONCE)):
            spans = batch[0][1]
            sums: dict[str, list[SpanSum]] = {}
            for one in events.span_sums(session, [tenant.id for tenant, _spans in batch], [span.start_us for span in spans], spans[-1].end_us):
                sums.setdefault(one.tenant_id, []).append(one)
            for tenant, own in batch:
                yield from lines_of(tenant.id, tenant.currency, own, sums.get(tenant.id, []), by_project=by_project)


def requests(session: Session, wanted: Wanted) -> Iterator[tuple[UsageEvent, int, Tenant, Span]]:
    """Yield (event, covered_ncr, tenant, span) of the requests that are wanted, by tenant, start and id. Raises `Invalid` and `NotFound`."""
    for tenant in tenants_of(session, wanted.month, wanted.tenant_id):
        spans = [span for span in spans_of(session, tenant, wanted.month) if _is_wanted(wanted, span.day)]
        if not spans:
            raise Invalid("from_day", f"from_day: no day of {wanted.month} lies from {wanted.from_day} to {wanted.to_day}; days are written like 2026-11-03")
        left = iter(spans)
        span = next(left)
        for event, covered_ncr in events.events_between(session, spans[0].start_us, spans[-1].end_us, tenant.id, model=wanted.model, project=wanted.project):
            while event.started_us >= span.end_us:
                span = next(left)
            yield event, covered_ncr, tenant, span


def _is_wanted(wanted: Wanted, day: str) -> bool:
    return (wanted.from_day is None or wanted.from_day <= day) and (wanted.to_day is None or day <= wanted.to_day)


@lru_cache(maxsize=256)
def _days(month: str, timezone: str) -> dict[str, tuple[int, int]]:
    at_us, end_us = periods.month_span(month, timezone)
    found = {}
    while at_us < end_us:
        found[periods.day_of(at_us, timezone).isoformat()] = span = periods.day_span(at_us, timezone)
        at_us = span[1]
    return found
