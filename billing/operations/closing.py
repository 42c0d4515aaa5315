"""Closing a tenant, for good: it is served no more, its keys are revoked and its subscription ends; what is in the books stays for its invoices."""

import msgspec
from sqlmodel import Session

from billing.audit.store import record
from billing.credits import store as accounts
from billing.db import Database
from billing.errors import Conflict, Invalid
from billing.grants import store as grants
from billing.grants.allowance import current_period
from billing.grants.periods import wall_clock
from billing.money import format_credits
from billing.operations.tenants import require_tenant
from billing.plans import store as plans
from billing.plans.terms import Subscription
from billing.tenants import store
from billing.tenants.tenant import Tenant

NOW, PERIOD_END = "now", "period-end"
WHEN = (NOW, PERIOD_END)


class Closing(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant that is closed from `at_us` on: the keys it has, the plan it leaves and a change of plan that never comes, and its credits as they are now."""

    tenant_id: str
    timezone: str
    at_us: int
    at_end: bool
    keys: int
    plan: Subscription | None
    cancelled: Subscription | None
    remaining_ncr: int


def close_tenant(db: Database, tenant_id: str, now_us: int, *, when: str = NOW) -> Closing:
    """Close a tenant `now`, or at its `period-end`, until when `cancel_change` takes it back. Its credits stay in the books, unused.

    Raises `Invalid` (when), `NotFound`, and `Conflict` for one that is closed, or to be closed at that instant already.
    """
    if when not in WHEN:
        raise Invalid("when", f"when: `{when}` is neither; write {' or '.join(WHEN)}")
    with db.write() as session:
        store.note_change(session, tenant_id, now_us)
        tenant = require_tenant(session, tenant_id)
        accounts.lock(session, [tenant_id])  # no draw writes an allowance meanwhile
        closing = _decide(session, tenant, when, now_us)
        plans.end(session, tenant_id, closing.at_us)
        store.set_closing(session, tenant_id, closing.at_us)
        if not closing.at_end:
            store.finish_closing(session, tenant_id)
        record(session, now_us, action="tenant.close", tenant_id=tenant_id, subject=tenant_id, before=tenant, after=closing)
    return closing


def in_words(closing: Closing) -> str:
    """Say in a sentence or two what closing a tenant does, before it or after."""
    keys = f"{closing.keys} key{'' if closing.keys == 1 else 's'}"
    if closing.at_end:
        said = f"tenant {closing.tenant_id} is closed when its period ends, {wall_clock(closing.at_us, closing.timezone)}, with its {keys}"
    else:
        plan = "" if closing.plan is None else f" and plan {closing.plan.plan} version {closing.plan.version} ends"
        said = f"tenant {closing.tenant_id} is closed now, for good: {keys} {'is' if closing.keys == 1 else 'are'} revoked{plan}"
    if closing.cancelled is not None:
        said += f"; the change to plan {closing.cancelled.plan} never comes"
    left = "" if closing.remaining_ncr <= 0 else f"; {format_credits(closing.remaining_ncr)} credits are left{' now' if closing.at_end else ' unused'}"
    return f"{said}{left}; what it used is invoiced all the same"


def _decide(session: Session, tenant: Tenant, when: str, now_us: int) -> Closing:
    if tenant.closed(now_us):
        raise Conflict(f"tenant `{tenant.id}` is closed already")
    current, coming = plans.subscription_at(session, tenant.id, now_us), plans.next_subscription(session, tenant.id, now_us)
    at_us = now_us
    if when == PERIOD_END:
        found = current_period(session, tenant.id, now_us)
        if found is None:
            raise Invalid("when", f"when: tenant `{tenant.id}` is in no period that could end; write {NOW}")
        at_us = found[1].end_us
        if tenant.closes_us == at_us:
            raise Conflict(f"tenant `{tenant.id}` is to be closed at that instant already")
    return Closing(
        tenant_id=tenant.id,
        timezone=tenant.timezone,
        at_us=at_us,
        at_end=when == PERIOD_END,
        keys=len(store.active_keys(session, tenant.id, now_us)),
        plan=current,
        cancelled=coming,
        remaining_ncr=sum(grant.remaining_ncr for grant in grants.current_grants(session, tenant.id, now_us)),
    )
