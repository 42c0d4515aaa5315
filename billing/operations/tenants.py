"""Tenants: create, list, suspend. Each function is one transaction. Moving to another plan is in `subscriptions`, closing in `closing`."""

from sqlmodel import Session

from billing.audit.store import record
from billing.credits import store as accounts
from billing.db import Database
from billing.errors import Conflict, Invalid, NotFound
from billing.grants import periods
from billing.money import exponent
from billing.operations.pages import Page, check_limit, cut
from billing.plans import store as plans
from billing.plans.terms import PlanVersion
from billing.tenants import store
from billing.tenants.tenant import CLOSED, STATES, Tenant, check_name, check_slug

SORTS = tuple(store.TENANT_SORTS) + tuple(f"-{sort}" for sort in store.TENANT_SORTS)

STATE_ACTIONS = {"active": "tenant.resume", "suspended": "tenant.suspend"}


def create_tenant(db: Database, *, id: str, name: str, plan: str, currency: str = "USD", timezone: str = "UTC", now_us: int) -> Tenant:
    """Create an active tenant on the newest version of a plan; its first month begins now, or with its first request where the plan says so.

    Raises `Invalid` (slug, currency, zone, a plan in another currency), `NotFound` (plan) and `Conflict` (id taken).
    """
    check_slug("id", id)
    exponent(currency)
    periods.zone(timezone)
    tenant = Tenant(id=id, name=check_name(name.strip() or id), state="active", currency=currency, timezone=timezone, created_us=now_us)
    with db.write() as session:
        store.note_change(session, id, now_us)
        if store.get_tenant(session, id) is not None:
            raise Conflict(f"tenant `{id}` exists already; choose another id")
        version = plan_for(session, plan, tenant)
        store.insert_tenant(session, tenant)
        accounts.lock(session, [id])  # opens it
        plans.subscribe(session, id, version, now_us)
        after = {"tenant": tenant, "plan": plan, "plan_version": version.version}
        record(session, now_us, action="tenant.create", tenant_id=id, subject=id, before=None, after=after)
    return tenant


def get_tenant(db: Database, tenant_id: str) -> Tenant:
    """Return one tenant. Raises `NotFound`."""
    with db.read() as session:
        return require_tenant(session, tenant_id)


def has_tenant(db: Database, tenant_id: str) -> bool:
    """Tell whether there is such a tenant."""
    with db.read() as session:
        return store.get_tenant(session, tenant_id) is not None


def list_tenants(db: Database) -> list[Tenant]:
    """Return every tenant, by id."""
    with db.read() as session:
        return store.all_tenants(session)


def page_tenants(
    db: Database,
    *,
    limit: int,
    after: str = "",
    sort: str = "id",
    state: str | None = None,
    plan: str | None = None,
    text: str = "",
    now_us: int,
) -> Page[Tenant]:
    """Return a page of the tenants, in a fixed number of queries that read no more than the page.

    `sort`: id, name or created, downwards with a - before it; `state` and `plan` are those of now, `text` is part of an id or a name.
    Raises `Invalid` (limit, sort, state), and `NotFound` for a plan, or a tenant to go on after, that is not there.
    """
    check_limit(limit)
    if sort not in SORTS:
        raise Invalid("sort", f"sort: `{sort[:80]}` is not one; one of {', '.join(SORTS)}")
    if state is not None and state not in (*STATES, CLOSED):
        raise Invalid("state", f"state: `{state[:80]}` is not one; one of {', '.join((*STATES, CLOSED))}")
    with db.read() as session:
        if plan is not None and plans.latest_version(session, plan) is None:
            raise NotFound("plan", plan)
        among = None if plan is None else plans.on_plan(plan, now_us)
        last = _position(session, sort, after) if after else ()
        found = store.tenants_page(session, limit=limit + 1, now_us=now_us, sort=sort, after=last, state=state, text=text, among=among)
    return cut(found, limit, lambda tenant: tenant.id)


def _position(session: Session, sort: str, tenant_id: str) -> tuple[str | int, ...]:
    fields = store.TENANT_SORTS[sort.removeprefix("-")]
    if fields == ("id",):
        return (tenant_id,)  # needs nobody of that id
    tenant = require_tenant(session, tenant_id)
    return tuple(getattr(tenant, field) for field in fields)


def set_state(db: Database, tenant_id: str, state: str, now_us: int) -> Tenant:
    """Make a tenant `active` or `suspended`; a suspended one is refused until it is active again. Raises `Invalid`, `NotFound`, `Conflict` (closed)."""
    if state not in STATES:
        raise Invalid("state", f"state: `{state}` is not one; write {' or '.join(STATES)}")
    with db.write() as session:
        store.note_change(session, tenant_id, now_us)
        before = require_open(session, tenant_id, now_us)
        store.set_state(session, tenant_id, state)
        session.expire_all()
        after = require_tenant(session, tenant_id)
        record(session, now_us, action=STATE_ACTIONS[state], tenant_id=tenant_id, subject=tenant_id, before=before, after=after)
        return after


def require_tenant(session: Session, tenant_id: str) -> Tenant:
    """Return one tenant in a session that is open. Raises `NotFound`."""
    tenant = store.get_tenant(session, tenant_id)
    if tenant is None:
        raise NotFound("tenant", tenant_id)
    return tenant


def require_open(session: Session, tenant_id: str, now_us: int) -> Tenant:
    """Return one tenant that is not closed, in a session that is open. Raises `NotFound`, `Conflict`."""
    tenant = require_tenant(session, tenant_id)
    if tenant.closed(now_us):
        raise Conflict(f"tenant `{tenant_id}` is closed, for good; create another one")
    return tenant


def plan_for(session: Session, plan: str, tenant: Tenant) -> PlanVersion:
    """Return the newest version of a plan that a tenant may be moved to. Raises `NotFound`, and `Invalid` for one priced in another currency."""
    version = plans.latest_version(session, plan)
    if version is None:
        raise NotFound("plan", plan)
    return check_currency(version, tenant)


def check_currency(version: PlanVersion, tenant: Tenant) -> PlanVersion:
    """Return a plan's version that a tenant may be on, else raise `Invalid`: it is priced in another currency than the tenant is billed in."""
    terms = version.terms
    if terms.currency != tenant.currency and (terms.monthly_fee_minor or terms.credit_price is not None):
        raise Invalid(
            "plan_id",
            f"plan: `{terms.plan}` is priced in {terms.currency} and tenant `{tenant.id}` is billed in {tenant.currency}; "
            f"give another plan, or create the tenant in {terms.currency}",
        )
    return version
