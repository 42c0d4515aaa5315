"""Every month's allowance is its own grant, written when somebody first looks at the month; no job resets anything.

A grant's id says which subscription and which period it is for, so writing it is idempotent: `plan:<subscription>:<start_us>`, with
`:<key>` behind it where it is a seat's. A period has its allowance once: a change of plan in its course adds the difference, pro rata
(`operations.subscriptions`). What the plan lets go on of the period before moves into a grant `rollover:<subscription>:<start_us>`.
"""

from collections.abc import Sequence

import msgspec
from sqlmodel import Session

from billing.grants import periods, store
from billing.grants.grant import PRIORITY_DEFAULT, Grant
from billing.grants.periods import Period
from billing.ledger import store as ledger
from billing.ledger.postings import rollover_posting
from billing.plans import store as plans
from billing.plans.terms import PlanTerms, Subscription
from billing.tenants import store as tenants


class Due(msgspec.Struct):
    """What a period comes with and is not written yet. `taken` (ncr, by id) leaves `sources`, grants of the period before, for the rollover."""

    grants: list[Grant]
    rollover: Grant | None = None
    taken: dict[str, int] = msgspec.field(default_factory=dict)
    sources: list[Grant] = msgspec.field(default_factory=list)


def ensure_allowance(session: Session, tenant_id: str, now_us: int, *, activate: bool = True) -> list[Grant]:
    """Write what the tenant's period at `now_us` comes with and is not written yet; return what was written.

    A subscription that waits for its first request begins now, unless `activate` is False: then nothing is written for it. Idempotent, and safe
    in several processes; whoever calls it holds the tenant's credit account, since a rollover takes from grants. At most 4 queries where
    everything is there, however many keys the tenant has. Writes nothing for a tenant without a subscription then, or on a plan that gives none.
    """
    found = plans.subscribed(session, tenant_id, now_us)
    if found is None:
        return []
    subscription, version = found
    if subscription.anchor_us is None:
        if not activate:
            return []
        subscription = msgspec.structs.replace(subscription, anchor_us=plans.activate(session, subscription.id, now_us))
    due = _due(session, subscription, version.terms, now_us)
    moved = [] if due.rollover is None else [due.rollover]
    if not due.grants and not moved:
        return []
    inserted = store.insert_grants(session, [*due.sources, *due.grants, *moved])  # of the sources only what nobody looked at in its time
    if due.rollover is not None and due.rollover.id in inserted:
        store.take(session, due.taken)
        ledger.post(session, [*ledger.issues(due.sources), rollover_posting(due.rollover.id, tenant_id, now_us, due.taken)])
    return [grant for grant in (*moved, *due.grants) if grant.id in inserted]


def due_grants(session: Session, tenant_id: str, now_us: int) -> list[Grant]:
    """Return what the tenant's period at `now_us` comes with and is not written yet, as if it began now where it waits for its first request. Reads only."""
    found = plans.subscribed(session, tenant_id, now_us)
    if found is None:
        return []
    subscription, version = found
    if subscription.anchor_us is None:
        subscription = msgspec.structs.replace(subscription, anchor_us=now_us)
    due = _due(session, subscription, version.terms, now_us)
    return due.grants if due.rollover is None else [due.rollover, *due.grants]


def awaits_use(session: Session, tenant_id: str, now_us: int) -> bool:
    """Tell whether the tenant's months have not begun: its plan lets them begin with its first request. Reads only."""
    subscription = plans.subscription_at(session, tenant_id, now_us)
    return subscription is not None and subscription.anchor_us is None


def current_period(session: Session, tenant_id: str, now_us: int) -> tuple[Subscription, Period] | None:
    """Return the tenant's subscription at `now_us` with the period it is in; None without one, and for one that waits for its first request. Reads only."""
    subscription = plans.subscription_at(session, tenant_id, now_us)
    tenant = tenants.get_tenant(session, tenant_id)
    if subscription is None or subscription.anchor_us is None or tenant is None:
        return None
    return subscription, period_of(subscription, tenant.timezone, now_us)


def period_of(subscription: Subscription, timezone: str, now_us: int) -> Period:
    """Return the period of a subscription at an instant; what is before its anchor (a first request begins a moment before its draw) counts to the first."""
    assert subscription.anchor_us is not None, "the caller has looked: its months have begun"
    return periods.period_at(subscription.anchor_us, timezone, max(now_us, subscription.anchor_us))


def plan_grant(subscription: Subscription, period: Period, amount_ncr: int, now_us: int, *, key_id: str | None = None, note: str = "") -> Grant:
    """Make the grant that a subscription gives for a period, to the tenant or to one of its keys; usable from when both have begun."""
    first = period.index == 0 and subscription.started_us <= period.start_us  # at first use: also by the request that began it, a moment ago
    return Grant(
        id=f"plan:{subscription.id}:{period.start_us}" + ("" if key_id is None else f":{key_id}"),
        tenant_id=subscription.tenant_id,
        kind="plan",
        amount_ncr=amount_ncr,
        remaining_ncr=amount_ncr,
        priority=PRIORITY_DEFAULT["plan"],
        effective_us=subscription.started_us if first else max(period.start_us, subscription.started_us),
        expires_us=period.end_us,
        voided_us=None,
        created_us=now_us,
        note=note or f"{'allowance' if key_id is None else 'seat'} of plan {subscription.plan} version {subscription.version}",
        key_id=key_id,
    )


def _due(session: Session, subscription: Subscription, terms: PlanTerms, now_us: int) -> Due:
    tenant = tenants.get_tenant(session, subscription.tenant_id)
    assert tenant is not None, "a subscription names a tenant that exists: a foreign key"
    period = period_of(subscription, tenant.timezone, now_us)
    whole = subscription.started_us <= period.start_us  # else a change of plan began it, and gave what there is to give
    there = [grant for grant in store.ending_at(session, tenant.id, period.end_us) if grant.kind == "plan"]
    due = Due(grants=[])
    if terms.seat_allowance_ncr:
        seated = {grant.key_id for grant in there}
        due.grants += [
            plan_grant(subscription, period, terms.seat_allowance_ncr, now_us, key_id=key_id)
            for key_id, created_us in tenants.active_keys(session, tenant.id, now_us)
            if key_id not in seated and (whole or created_us >= subscription.started_us)
        ]
    if terms.allowance_ncr and whole and all(grant.key_id is not None for grant in there):
        due.grants.append(plan_grant(subscription, period, terms.allowance_ncr, now_us))
        if terms.rollover_cap_ncr:
            sources = _plan_grants_before(session, subscription, tenant.timezone, period, now_us)
            _roll_over(due, sources, terms.rollover_cap_ncr, plan_grant(subscription, period, 0, now_us))
    return due


def _roll_over(due: Due, sources: Sequence[Grant], cap_ncr: int, fresh: Grant) -> None:
    """Add to what is due what goes on of the period before, in a grant that lives as the `fresh` one; seats and earlier rollovers end with their period."""
    left_ncr = cap_ncr
    for grant in sources:
        taken = min(left_ncr, grant.remaining_ncr)
        if taken:
            due.taken[grant.id] = taken
            left_ncr -= taken
    if not due.taken:
        return
    due.sources = [grant for grant in sources if grant.id in due.taken]
    moved_ncr = sum(due.taken.values())
    due.rollover = msgspec.structs.replace(
        fresh,
        id=fresh.id.replace("plan:", "rollover:", 1),
        kind="rollover",
        priority=PRIORITY_DEFAULT["rollover"],
        amount_ncr=moved_ncr,
        remaining_ncr=moved_ncr,
        note="left of the period before",
    )


def _plan_grants_before(session: Session, subscription: Subscription, timezone: str, period: Period, now_us: int) -> Sequence[Grant]:
    """Return what the tenant was given by its plan for the period before, in burn order; where nobody looked at that period, what it would have been."""
    if period.index <= 0:
        return []  # nothing comes before the first; a subscription is older than its first request where that begins the months
    found = plans.subscribed(session, subscription.tenant_id, period.start_us - 1)
    if found is None or found[0].anchor_us != subscription.anchor_us:
        return []
    before, version = found
    there = [grant for grant in store.ending_at(session, before.tenant_id, period.start_us) if grant.kind == "plan" and grant.key_id is None]
    if there:
        return [grant for grant in there if grant.voided_us is None]
    span = period_of(before, timezone, period.start_us - 1)
    if before.started_us > span.start_us or not version.terms.allowance_ncr:
        return []
    return [plan_grant(before, span, version.terms.allowance_ncr, now_us)]
