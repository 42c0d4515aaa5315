"""Closing tenants' billing periods, and looking at them.

A period takes usage until its end and the grace have passed; then it is closed: what it came to is frozen, what was booked late of earlier ones is
found and stands with it, and its invoice is there as a draft. Whoever closes is alone at it, and holds the tenants' accounts meanwhile, so that no
flush books beside it.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

import msgspec
from sqlalchemy import text
from sqlmodel import Session

from billing.audit.store import record
from billing.credits import store as accounts
from billing.db import LONG_TIMEOUT_MS, Database
from billing.errors import BillingError
from billing.grants import store as grants
from billing.grants.allowance import ensure_allowance
from billing.grants.grant import Grant
from billing.invoices import store as invoices
from billing.invoices.company import GRACE_HOURS
from billing.invoices.document import DRAFT, Document
from billing.invoices.draft import Basis, Fee, Sale, draft
from billing.invoices.store import Invoice
from billing.ledger import store as ledger
from billing.ledger.postings import ROLLOVER
from billing.operations.tenants import require_tenant
from billing.periods import store
from billing.periods.facts import Correction, Facts, Totals, in_order, late, state
from billing.periods.spans import Run, Span, runs_of, span_at, spans
from billing.periods.store import Closed, Cursor, Cut
from billing.plans import store as plans
from billing.plans.terms import PlanVersion, Subscription
from billing.tenants import store as tenants
from billing.tenants.tenant import Tenant

PERIODS_LOCK = 0x5745495200000009  # PostgreSQL advisory lock of whoever closes periods, until it commits
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
NEVER_US = 2**62
OPEN, ENDED, CLOSED = "open", "draft", "closed"

log = logging.getLogger(__name__)


class Period(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's period: `open` until it ends, `draft` while it takes late usage until `closes_us`, then `closed`. `invoice_id` once it has an invoice."""

    tenant_id: str
    timezone: str
    start_us: int
    end_us: int
    state: str
    closes_us: int
    closed_us: int | None = None
    close_seq: int | None = None
    sha256: str | None = None
    events: int | None = None


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant with what its periods follow from."""

    tenant: Tenant
    subscriptions: tuple[Subscription, ...]
    runs: tuple[Run, ...]

    def span(self, at_us: int) -> Span | None:
        """Return the period that an instant falls into."""
        return span_at(self.runs, self.tenant.timezone, at_us)

    def cuts(self, span: Span) -> list[Cut]:
        """Divide a period where subscriptions begin and end."""
        marks = {span.since_us, span.end_us}
        for one in self.subscriptions:
            marks |= {at_us for at_us in (one.started_us, one.ended_us) if at_us is not None and span.since_us < at_us < span.end_us}
        edges = sorted(marks)
        return [Cut(self.tenant.id, self._in_force(first), first, after) for first, after in pairwise(edges)]

    def _in_force(self, at_us: int) -> str | None:
        """Return the subscription in force at an instant, or else the last one before it: a gateway that has not heard of a change yet serves by that."""
        begun = [one for one in self.subscriptions if one.started_us <= at_us and one.ended_us != one.started_us]
        return max(begun, key=lambda one: (one.started_us, one.id)).id if begun else None


def grace_us(session: Session) -> int:
    """Return how long after its end a period takes late usage, in microseconds."""
    company = invoices.get_company(session)
    return (GRACE_HOURS if company is None else company.grace_hours) * HOUR_US


def close_due(session: Session, now_us: int, *, limit: int, tenant_id: str | None = None) -> int:
    """Close periods whose end and grace have passed, the first to end first, one a tenant and at most `limit`; return how many tenants were looked at.

    A tenant whose period cannot be invoiced is logged, stays open and is looked at again in an hour; the others go on.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": PERIODS_LOCK})
        session.execute(text(f"SET LOCAL statement_timeout = {LONG_TIMEOUT_MS}"))  # a large tenant's month takes longer to add up than a request may wait
    begun = store.without_cursor(session, limit, tenant_id)
    due = store.due(session, now_us - grace_us(session), limit, tenant_id)
    held = holders(session, [*begun, *(cursor.tenant_id for cursor in due)])
    store.put_cursor(session, [_next(held[name], 0, now_us) for name in begun])
    waiting = [_next(held[cursor.tenant_id], 0, now_us) for cursor in due if cursor.start_us is None]
    store.put_cursor(session, waiting)
    ended = [(held[cursor.tenant_id], span) for cursor in due if (span := _ended(held[cursor.tenant_id], cursor)) is not None]
    if ended:
        _close(session, ended, now_us)
    return len(begun) + len(due)


def closing(session: Session, ended: Sequence[tuple[Holder, Span]], now_us: int) -> list[Facts]:
    """Work out what periods come to as the books have them now, one for each tenant, in their order; nothing is written."""
    names = [holder.tenant.id for holder, _span in ended]
    before = store.last_closed(session, names)
    uses = store.uses(session, [cut for holder, span in ended for cut in holder.cuts(span)])
    counts, looked = store.booked(session, names), store.cursors(session, names)
    given, repaid, owed = grants.grants_of(session, names), ledger.repaid(session, names), accounts.totals_of(session, names)
    found = []
    for holder, span in ended:
        name = holder.tenant.id
        mine = in_order(use for cut in holder.cuts(span) for use in uses.get(cut, ()))
        seen = looked[name].seen if name in looked else {}
        odd = sum(use.requests for use in mine) != counts.get(name, {}).get(span.start_us, 0)  # some are counted in a neighbouring month
        news = odd or any(events != seen.get(start_us, 0) for start_us, events in counts.get(name, {}).items() if start_us < span.start_us)
        corrections = _corrections(session, holder, span) if news and name in before else ()
        debt = owed[name].debt_ncr if name in owed else 0
        totals = _totals(given.get(name, []), span.end_us, repaid.get(name, 0), debt)
        used = sum(use.covered_ncr for use in mine) + sum(use.covered_ncr for one in corrections for use in one.uses)
        statement = state(before[name].facts.statement if name in before else None, totals, used)
        found.append(
            Facts(tenant_id=name, start_us=span.start_us, end_us=span.end_us, uses=mine, corrections=corrections, statement=statement)
        )  # fmt: skip
    return found


def holders(session: Session, names: Iterable[str]) -> dict[str, Holder]:
    """Return tenants with what their periods follow from, by id."""
    listed = sorted(set(names))
    held = plans.ever_held(session, listed)
    found = {}
    for name, tenant in tenants.tenants_named(session, listed).items():
        subscriptions = tuple(held.get(name, ()))
        found[name] = Holder(tenant=tenant, subscriptions=subscriptions, runs=runs_of(subscriptions, tenant.timezone, tenant.created_us))
    return found


def write_draft(session: Session, holder: Holder, facts: Facts) -> Document:
    """Write the invoice of a period as things are now: its facts, who the tenant and the company are on paper. Raises `Conflict` where it cannot be priced."""
    tenant = holder.tenant
    in_force = next((one for one in holder.subscriptions if one.started_us <= facts.start_us and (one.ended_us is None or facts.start_us < one.ended_us)), None)
    versions = {one.id: _version(session, one) for one in holder.subscriptions}
    return draft(
        Basis(
            tenant=tenant,
            profile=tenants.get_profile(session, tenant),
            company=invoices.get_company(session),
            facts=facts,
            fees=() if in_force is None else _fees(versions[in_force.id]),
            sales=_sales(session, facts),
            versions=versions,
        )
    )


def close_tenant(db: Database, tenant_id: str, now_us: int) -> int:
    """Close the periods of one tenant that are due now; return how many times it was looked at. Raises `NotFound`."""
    done = 0
    while True:
        with db.write() as session:
            tenants.note_change(session, tenant_id, now_us)  # first, as in every admin write: whoever comes the other way round would be in a deadlock
            require_tenant(session, tenant_id)
            before = store.cursor(session, tenant_id)
            if not close_due(session, now_us, limit=1, tenant_id=tenant_id):
                return done
            after = store.cursor(session, tenant_id)
            steps = [None if one is None else {"start_us": one.start_us, "end_us": one.end_us} for one in (before, after)]
            record(session, now_us, action="period.close", tenant_id=tenant_id, subject=tenant_id, before=steps[0], after=steps[1])
            done += 1


def list_periods(db: Database, tenant_id: str, now_us: int) -> list[Period]:
    """Return a tenant's periods that have begun, oldest first. Raises `NotFound`."""
    with db.read() as session:
        tenant = require_tenant(session, tenant_id)
        holder, grace = holders(session, [tenant_id])[tenant_id], grace_us(session)
        found = [_closed(tenant, one, grace) for one in store.all_closed(session, tenant_id, limit=10_000)]
        after_us = found[-1].end_us if found else None
        for span in spans(holder.runs, tenant.timezone, now_us, after_us=after_us):
            how = OPEN if now_us < span.end_us else ENDED
            found.append(
                Period(tenant_id=tenant_id, timezone=tenant.timezone, start_us=span.start_us, end_us=span.end_us, state=how, closes_us=span.end_us + grace)
            )
        return found


def _close(session: Session, ended: Sequence[tuple[Holder, Span]], now_us: int) -> None:
    accounts.lock(session, [holder.tenant.id for holder, _span in ended])
    for holder, span in ended:
        _roll_over(session, holder, span)
    names = [holder.tenant.id for holder, _span in ended]
    cursors, counts = store.cursors(session, names), store.booked(session, names)
    ready: list[tuple[Holder, Facts, Document]] = []
    for (holder, _span), facts in zip(ended, closing(session, ended, now_us), strict=True):
        try:
            ready.append((holder, facts, write_draft(session, holder, facts)))
        except BillingError as error:
            log.error("the period of tenant `%s` stays open, it cannot be invoiced: %s", holder.tenant.id, error)
            later_us = now_us - grace_us(session) + HOUR_US  # when it counts as ended again
            store.put_cursor(session, [Cursor(holder.tenant.id, facts.start_us, later_us, cursors[holder.tenant.id].seen)])
    store.insert_closed(session, [facts for _holder, facts, _document in ready], now_us)
    for _holder, facts, document in ready:
        invoices.settle_sales(session, facts.tenant_id, facts.start_us, facts.end_us)
        if document.lines:
            invoices.insert_invoice(session, _row(session, facts, document, now_us))
    store.put_cursor(session, [_next(holder, facts.end_us, now_us, counts.get(facts.tenant_id, {})) for holder, facts, _document in ready])


def _row(session: Session, facts: Facts, document: Document, now_us: int) -> Invoice:
    name = document.id
    while invoices.get_invoice(session, name) is not None:  # two periods that began on one day
        name += "b"
    return Invoice(
        id=name,
        tenant_id=facts.tenant_id,
        kind=document.kind,
        state=DRAFT,
        start_us=facts.start_us,
        end_us=facts.end_us,
        currency=document.currency,
        net_minor=document.net_minor,
        tax_minor=document.tax_minor,
        total_minor=document.total_minor,
        created_us=now_us,
    )


def _sales(session: Session, facts: Facts) -> tuple[Sale, ...]:
    """Return what was sold and is on no earlier invoice; what was voided before any of it was used is no sale."""
    sold = invoices.sales(session, facts.tenant_id, facts.start_us, facts.end_us)
    unused = {grant.id for grant in grants.get_grants(session, [sale.grant_id for sale in sold]) if grant.voided_ncr == grant.amount_ncr} if sold else set()
    return tuple(sale for sale in sold if sale.grant_id not in unused)


def _fees(version: PlanVersion) -> tuple[Fee, ...]:
    terms = version.terms
    return (Fee(plan=terms.plan, version=version.version, fee_minor=terms.monthly_fee_minor),) if terms.monthly_fee_minor else ()


def _roll_over(session: Session, holder: Holder, span: Span) -> None:
    # What a plan lets go on moves when somebody first looks at the next period; where nobody did, it would be said to have expired.
    for one in holder.subscriptions:
        in_force = one.started_us <= span.end_us and (one.ended_us is None or span.end_us < one.ended_us)
        if in_force and one.anchor_us is not None and _version(session, one).terms.rollover_cap_ncr:
            ensure_allowance(session, holder.tenant.id, span.end_us, activate=False)


def _corrections(session: Session, holder: Holder, current: Span) -> tuple[Correction, ...]:
    """Return what was booked late of every closed period before the current one."""
    known: dict[int, list[Facts]] = {}
    told = store.known(session, [holder.tenant.id]).get(holder.tenant.id, [])
    earlier = [(facts, holder.span(facts.start_us) or Span(facts.start_us, facts.end_us)) for facts in told if facts.start_us < current.start_us]
    for facts in told:
        known.setdefault(facts.start_us, []).append(facts)
    found = []
    uses = store.uses(session, [cut for facts, span in earlier for cut in holder.cuts(_as_closed(facts, span))])
    for facts, span in earlier:
        now = [use for cut in holder.cuts(_as_closed(facts, span)) for use in uses.get(cut, ())]
        said = [*facts.uses, *(use for other in told for one in other.corrections if one.start_us == facts.start_us for use in one.uses)]
        if fresh := late(now, said):
            found.append(Correction(start_us=facts.start_us, end_us=facts.end_us, uses=fresh))
    return tuple(found)


def _as_closed(facts: Facts, span: Span) -> Span:
    """Return a closed period as it was closed: its bounds do not move any more."""
    return Span(facts.start_us, facts.end_us, span.first)


def _ended(holder: Holder, cursor: Cursor) -> Span | None:
    """Return the period that a cursor stands at: the first reaches back to the beginning."""
    first = holder.span(0)
    if cursor.start_us is None or first is None or first.start_us == cursor.start_us:
        return None if cursor.start_us is None else first
    return holder.span(cursor.start_us)


def _next(holder: Holder, after_us: int, now_us: int, seen: Mapping[int, int] = MappingProxyType({})) -> Cursor:
    span = holder.span(after_us)
    if span is None:  # its months begin with its first request: looked at again tomorrow
        return Cursor(holder.tenant.id, None, now_us + DAY_US, seen)
    return Cursor(holder.tenant.id, span.start_us, span.end_us, seen)


def _totals(given: Iterable[Grant], end_us: int, repaid_ncr: int, debt_ncr: int) -> Totals:
    granted = expired = voided = 0
    for grant in given:
        gone = grant.voided_us is not None and grant.voided_us < end_us
        if grant.kind != ROLLOVER and (grant.effective_us < end_us or gone):
            granted += grant.amount_ncr
        if gone:
            voided += grant.voided_ncr
        elif grant.expires_us is not None and grant.expires_us <= end_us:
            expired += grant.expired_ncr + grant.remaining_ncr
    return Totals(granted_ncr=granted, expired_ncr=expired, voided_ncr=voided, repaid_ncr=repaid_ncr, debt_ncr=debt_ncr)


def _version(session: Session, subscription: Subscription) -> PlanVersion:
    version = plans.get_version(session, subscription.plan, subscription.version)
    assert version is not None, "a subscription names a version that exists: a foreign key"
    return version


def _closed(tenant: Tenant, one: Closed, grace: int) -> Period:
    facts = one.facts
    return Period(
        tenant_id=tenant.id, timezone=tenant.timezone, start_us=facts.start_us, end_us=facts.end_us, state=CLOSED, closes_us=facts.end_us + grace,
        closed_us=one.closed_us, close_seq=one.close_seq, sha256=one.sha256, events=facts.events,
    )  # fmt: skip
