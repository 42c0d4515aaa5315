"""What was used and what is left: a tenant's balance, and a month's lines. All of it only reads."""

import msgspec
from sqlmodel import Session

from billing.credits import store as accounts
from billing.credits.burndown import usable
from billing.credits.store import PERIOD
from billing.db import Database
from billing.grants import store as grants
from billing.grants.allowance import due_grants, period_of
from billing.grants.grant import Grant, burn_key
from billing.operations.month import daily_lines, tenants_of
from billing.operations.tenants import require_tenant
from billing.plans import store as plans
from billing.usage.daily import DailyUsage


class GrantStanding(msgspec.Struct, frozen=True, kw_only=True):
    """One grant in effect: what it gave and what is left of it (ncr), until when, and whose requests may use it (None: any)."""

    id: str
    kind: str
    amount_ncr: int
    remaining_ncr: int
    effective_us: int
    expires_us: int | None
    note: str
    key_id: str | None = None
    project: str | None = None
    models: tuple[str, ...] | None = None


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's credits as the books have them at one instant (ncr). Requests that are running, or not booked yet, are not in it.

    limit = what the grants in effect gave; remaining = what is left of them less the debt, below 0 only by debt; used = limit - remaining.
    `excess_ncr` and `overage_ncr` are what this period's requests used past the credits: given away, and to be invoiced.
    """

    tenant_id: str
    plan: str | None
    plan_version: int | None
    on_exhausted: str | None
    grants: tuple[GrantStanding, ...]
    limit_ncr: int
    used_ncr: int
    remaining_ncr: int
    debt_ncr: int
    excess_ncr: int
    overage_ncr: int
    period_start_us: int | None
    reset_us: int | None

    @property
    def scoped_ncr(self) -> int:
        """The part of what is left that only requests of some key, project or models may use."""
        return sum(grant.remaining_ncr for grant in self.grants if (grant.key_id, grant.project, grant.models) != (None, None, None))


def balance(db: Database, tenant_id: str, now_us: int) -> Balance:
    """Return a tenant's balance. A month nobody has used yet shows its allowance, written or not. Raises `NotFound`."""
    with db.read() as session:
        return read_balance(session, tenant_id, now_us)


def read_balance(session: Session, tenant_id: str, now_us: int) -> Balance:
    """Return a tenant's balance within a session of the caller's. Raises `NotFound`."""
    tenant = require_tenant(session, tenant_id)
    current = _grants_in_effect(session, tenant_id, now_us)
    debt = accounts.get(session, tenant_id).debt_ncr
    subscription, version = plans.subscribed(session, tenant_id, now_us) or (None, None)
    begun = subscription is not None and subscription.anchor_us is not None
    span = period_of(subscription, tenant.timezone, now_us) if subscription is not None and begun else None
    past = accounts.sum_of(session, tenant_id, PERIOD, 0 if span is None else span.start_us)
    limit = sum(grant.amount_ncr for grant in current)
    remaining = sum(grant.remaining_ncr for grant in current) - debt
    return Balance(
        tenant_id=tenant_id,
        plan=None if version is None else version.terms.plan,
        plan_version=None if version is None else version.version,
        on_exhausted=None if version is None else version.terms.on_exhausted,
        grants=tuple(GrantStanding(**{field: getattr(grant, field) for field in GrantStanding.__struct_fields__}) for grant in current),
        limit_ncr=limit,
        used_ncr=limit - remaining,
        remaining_ncr=remaining,
        debt_ncr=debt,
        excess_ncr=past.excess_ncr,
        overage_ncr=past.overage_ncr,
        period_start_us=None if span is None else span.start_us,
        reset_us=None if span is None else span.end_us,
    )


def usage_rows(db: Database, month: str, tenant_id: str | None = None) -> list[DailyUsage]:
    """Return a month's use by tenant, day and model, of one tenant or of all; month and days by each tenant's own zone.

    Raises `Invalid` (month, written YYYY-MM) and `NotFound` (tenant).
    """
    with db.read(long=True) as session:
        return list(daily_lines(session, tenants_of(session, month, tenant_id), month))


def _grants_in_effect(session: Session, tenant_id: str, now_us: int) -> list[Grant]:
    current = grants.current_grants(session, tenant_id, now_us)
    due = [grant for grant in due_grants(session, tenant_id, now_us) if usable(grant, now_us)]
    return sorted([*current, *due], key=burn_key)
