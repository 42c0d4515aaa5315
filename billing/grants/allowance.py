"""Every month's allowance is its own grant, written when somebody first looks at the month; no job resets anything.

The grant's id says which subscription and which period it is for, so writing it is idempotent: `plan:<subscription>:<start_us>`.
"""

from sqlmodel import Session

from billing.grants import periods, store
from billing.grants.grant import PRIORITY_DEFAULT, Grant
from billing.plans import store as plans
from billing.plans.terms import Subscription
from billing.tenants import store as tenants


def ensure_allowance(session: Session, tenant_id: str, now_us: int) -> list[Grant]:
    """Write the allowance of the tenant's period at `now_us` if it is not written yet; return what was written (at most one grant).

    Writes nothing for a tenant without a subscription then, or on a plan whose allowance is 0. Safe in several processes at once.
    """
    grant = due_allowance(session, tenant_id, now_us)
    return [grant] if grant is not None and store.insert_grant(session, grant) else []


def due_allowance(session: Session, tenant_id: str, now_us: int) -> Grant | None:
    """Return the allowance that the tenant's period at `now_us` comes with, whether it is written yet or not; None when it comes with none."""
    period = current_period(session, tenant_id, now_us)
    if period is None:
        return None
    subscription, span = period
    version = plans.get_version(session, subscription.plan, subscription.version)
    if version is None or version.terms.allowance_ncr <= 0:
        return None
    return Grant(
        id=f"plan:{subscription.id}:{span.start_us}",
        tenant_id=tenant_id,
        kind="plan",
        amount_ncr=version.terms.allowance_ncr,
        remaining_ncr=version.terms.allowance_ncr,
        priority=PRIORITY_DEFAULT["plan"],
        effective_us=span.start_us,
        expires_us=span.end_us,
        voided_us=None,
        created_us=now_us,
        note=f"allowance of plan {subscription.plan} version {subscription.version}",
    )


def current_period(session: Session, tenant_id: str, now_us: int) -> tuple[Subscription, periods.Period] | None:
    """Return the tenant's subscription at `now_us` with the period it is in, or None without a subscription. Reads only."""
    subscription = plans.subscription_at(session, tenant_id, now_us)
    tenant = tenants.get_tenant(session, tenant_id)
    if subscription is None or tenant is None:
        return None
    return subscription, periods.period_at(subscription.anchor_us, tenant.timezone, now_us)
