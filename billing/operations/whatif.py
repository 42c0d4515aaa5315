"""A month as it would have been billed: on another plan, at the rates of another version, or both. It only reads."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
from sqlmodel import Session

from billing.db import Database
from billing.errors import Invalid, NotFound
from billing.grants import store as grants
from billing.grants.grant import Grant
from billing.grants.periods import day_of
from billing.margins.amounts import of_minor
from billing.margins.fee import periods_of
from billing.margins.span import in_zone, month_of
from billing.margins.whatif import Bill, Credits, Rerate, Rerating, replay
from billing.operations.tenants import require_tenant
from billing.plans import store as plans
from billing.plans.terms import PlanTerms, Subscription
from billing.rates import store as rates
from billing.rates.version import Change
from billing.tenants import store as tenants
from billing.tenants.tenant import Tenant
from billing.usage import store as events
from billing.usage.event import UsageEvent

__all__ = ["Bill", "Outcome", "WhatIf", "what_if"]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant's period [first_day, end_day) in its own calendar: as the books have it, and as it would have been. `running`: it is not over."""

    tenant_id: str
    first_day: str
    end_day: str
    running: bool
    currency: str
    books: Bill
    other: Bill


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """The periods that begin in a month. `left_out`: tenants in another currency than the plan's. `unpriced`: (model, bucket, units) without a price."""

    outcomes: tuple[Outcome, ...]
    left_out: tuple[str, ...]
    unpriced: tuple[tuple[str, str, int], ...]


class _Span(NamedTuple):
    """A period of a tenant, under the subscription that it began with."""

    tenant: Tenant
    subscription: Subscription
    terms: PlanTerms
    start_us: int
    end_us: int

    @property
    def first_us(self) -> int:
        """From when on requests belong to it: the first one of all begins a moment before the period that it begins."""
        return self.subscription.started_us if self.start_us == self.subscription.anchor_us else self.start_us


def what_if(db: Database, month: str, *, plan: str | None = None, version_id: int | None = None, tenant_id: str | None = None, now_us: int) -> WhatIf:
    """Bill the periods that begin in a month (each tenant's own) anew, on the newest version of a plan, at a version of rates, or both.

    Charges, the order of requests and what was used are the books'; a request that was refused, or would have been asked otherwise, nobody knows.
    Raises `Invalid` (month, neither plan nor rates, a tenant in another currency) and `NotFound` (plan, version of rates, tenant).
    """
    span = month_of(month)
    if plan is None and version_id is None:
        raise Invalid("plan", "plan: say what is to be otherwise: a plan, a version of rates (weir rate versions), or both")
    with db.read(long=True, snapshot=True) as session:
        terms = None if plan is None else _plan(session, plan)
        rerate = Rerating({} if version_id is None else _changes(session, version_id))
        wanted = tenants.all_tenants(session) if tenant_id is None else [require_tenant(session, tenant_id)]
        fits = [tenant for tenant in wanted if terms is None or tenant.currency == terms.currency]
        if tenant_id is not None and not fits:
            raise Invalid("plan", f"plan: `{plan}` is in {terms.currency if terms else ''}, and tenant `{tenant_id}` is invoiced in {wanted[0].currency}")
        known = {(version.terms.plan, version.version): version.terms for version in plans.all_versions(session)}
        outcomes: list[Outcome] = []
        for tenant in fits:
            days = in_zone(span, tenant.timezone)
            within = plans.subscriptions_within(session, tenant.id, days.start_us, max(days.end_us, now_us))
            held = [(one, known[one.plan, one.version]) for one in within]
            spans = [_Span(tenant, *one) for one in periods_of(held, tenant.timezone, days.start_us, days.end_us)]
            outcomes += [_outcome(session, one, held, terms, rerate, now_us=now_us) for one in spans if one.start_us >= days.start_us]
    left_out = tuple(tenant.id for tenant in wanted if tenant not in fits)
    unpriced = tuple((model, bucket, units) for (model, bucket), units in sorted(rerate.unpriced.items()))
    return WhatIf(outcomes=tuple(outcomes), left_out=left_out, unpriced=unpriced)


def _outcome(session: Session, span: _Span, held: Sequence[tuple[Subscription, PlanTerms]], plan: PlanTerms | None, rerate: Rerate, *, now_us: int) -> Outcome:
    tenant = span.tenant
    there = grants.eligible_grants(session, [tenant.id], span.start_us, span.end_us - 1).get(tenant.id, [])
    taken = events.cover_within(session, [("", tenant.id, span.first_us, span.end_us)])[""]
    credits = Credits(
        taken_ncr=taken,
        unused_ncr=sum(grant.remaining_ncr + grant.expired_ncr for grant in there),
        more_ncr=0 if plan is None else _more(session, span, plan, there, now_us),
    )
    found = events.events_between(session, span.first_us, span.end_us, tenant.id)
    books, other = replay(_served(found, held), credits, plan=plan, rerate=rerate)
    fees = (span.terms, plan or span.terms)
    books.fee, other.fee = (of_minor(terms.monthly_fee_minor, terms.currency) for terms in fees)
    first_day, end_day = (day_of(at_us, tenant.timezone).isoformat() for at_us in (span.start_us, span.end_us))
    return Outcome(
        tenant_id=tenant.id, first_day=first_day, end_day=end_day, running=now_us < span.end_us, currency=tenant.currency, books=books, other=other,
    )  # fmt: skip


def _more(session: Session, span: _Span, plan: PlanTerms, there: Iterable[Grant], now_us: int) -> int:
    """Return what a plan gives for the period more than was given (ncr): to the tenant, and to each key that had a seat, or else to each there is."""
    given = [grant for grant in there if grant.kind == "plan" and grant.expires_us == span.end_us]
    seats = sum(grant.key_id is not None for grant in given) or len(tenants.active_keys(session, span.tenant.id, now_us))
    was = sum(grant.amount_ncr for grant in given) if given else span.terms.allowance_ncr + seats * span.terms.seat_allowance_ncr
    return plan.allowance_ncr + seats * plan.seat_allowance_ncr - was


def _served(found: Iterable[tuple[UsageEvent, int]], held: Sequence[tuple[Subscription, PlanTerms]]) -> Iterator[tuple[UsageEvent, PlanTerms | None]]:
    """Give each request with the plan that it was served on."""
    for event, _covered_ncr in found:
        at_us = event.started_us
        yield event, next((terms for one, terms in held if one.started_us <= at_us and (one.ended_us is None or at_us < one.ended_us)), None)


def _plan(session: Session, plan: str) -> PlanTerms:
    version = plans.latest_version(session, plan)
    if version is None:
        raise NotFound("plan", plan)
    return version.terms


def _changes(session: Session, version_id: int) -> dict[str, Change]:
    version = rates.get_version(session, version_id)
    if version is None or version.book != "rates":
        raise NotFound("version of rates", str(version_id))
    return {change.model: change for change in version.changes}
