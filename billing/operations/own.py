"""What a tenant's own people see and do: their tenant's, and no other's. Each function is one transaction over a `TenantScope`.

Another tenant's key or event is not found, like one that never was. Who may issue keys could give credits away where a plan gives some to each key,
so there only an operator issues them.
"""

from collections.abc import Iterable

import msgspec
from sqlmodel import Session

from billing.errors import Conflict, NotFound
from billing.grants.grant import Grant
from billing.invoices.store import Invoice
from billing.operations import company, events, exports, grants, invoices, keys, projects, subscriptions, tenants, usage
from billing.operations.events import FoundEvent
from billing.operations.exports import Export
from billing.operations.invoices import Shown
from billing.operations.keys import IssuedKey
from billing.operations.projects import Share
from billing.operations.subscriptions import Standing
from billing.operations.usage import Balance
from billing.plans import store as plans
from billing.tenants import store
from billing.tenants.keys import KeyHasher
from billing.tenants.scope import TenantScope
from billing.tenants.tenant import Key, Tenant
from billing.usage.daily import DailyUsage

KEYS_MAX = 1000  # in use at once; an operator may issue more


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """A key that somebody wants for their tenant; what is left out is without limit, but for the plan's."""

    name: str = ""
    project: str | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    ceiling_ncr: int | None = None
    expires_us: int | None = None


def show(scope: TenantScope, now_us: int) -> tuple[Tenant, Standing]:
    """Return the tenant, and which plan it is on. Raises `NotFound`."""
    return tenants.get_tenant(scope.database, scope.tenant_id), subscriptions.standing(scope.database, scope.tenant_id, now_us)


def balance(scope: TenantScope, now_us: int) -> Balance:
    """Return the tenant's credits. Raises `NotFound`."""
    return usage.balance(scope.database, scope.tenant_id, now_us)


def usage_of(scope: TenantScope, month: str) -> list[DailyUsage]:
    """Return a month's use (2026-11) by day and model. Raises `Invalid` (month) and `NotFound`."""
    return usage.usage_rows(scope.database, month, scope.tenant_id)


def event(scope: TenantScope, event_id: str) -> FoundEvent:
    """Return one request as it was booked. Raises `NotFound`, for another tenant's too."""
    found = events.find_event(scope.database, event_id)
    if found.event.tenant_id != scope.tenant_id:
        raise NotFound("usage event", event_id)
    return found


def list_projects(scope: TenantScope, now_us: int) -> list[Share]:
    """Return the tenant's projects with their use. Raises `NotFound`."""
    return projects.list_projects(scope.database, scope.tenant_id, now_us)


def list_grants(scope: TenantScope) -> list[Grant]:
    """Return the tenant's grants in burn order, over ones too. Raises `NotFound`."""
    return grants.list_grants(scope.database, scope.tenant_id)


def list_keys(scope: TenantScope) -> list[Key]:
    """Return the tenant's keys, oldest first, revoked ones and its staff's too. Raises `NotFound`."""
    return keys.list_keys(scope.database, scope.tenant_id)


def ceiling_use(scope: TenantScope, listed: Iterable[Key], now_us: int) -> dict[str, int | None]:
    """Return, by key id, what those keys of the tenant that have a ceiling used of its credits in this period (ncr)."""
    return keys.ceiling_use(scope.database, [key for key in listed if key.tenant_id == scope.tenant_id], now_us)


def issue_key(scope: TenantScope, hasher: KeyHasher, wish: Wish, now_us: int) -> IssuedKey:
    """Issue a key of the tenant's that calls models. Raises `Invalid`, and `Conflict` where an operator has to do it."""
    return keys.issue_key(
        scope.database,
        hasher,
        tenant_id=scope.tenant_id,
        **msgspec.structs.asdict(wish),
        now_us=now_us,
        allowed=lambda session: _may_issue(session, scope, now_us),
    )


def revoke_key(scope: TenantScope, key_id: str, now_us: int) -> Key:
    """Revoke one of the tenant's keys for good. Raises `NotFound`, for another tenant's too, and `Conflict` for one that is revoked."""
    return keys.revoke_key(scope.database, key_id, now_us, tenant_id=scope.tenant_id)


def list_invoices(scope: TenantScope, *, after: str = "", limit: int = 100) -> list[Invoice]:
    """Return the tenant's invoices and credit notes that were issued, by id, the page after an id. Raises `NotFound`."""
    found = invoices.list_invoices(scope.database, tenant_id=scope.tenant_id, after=after, limit=limit)
    return [invoice for invoice in found if invoice.number is not None]


def invoice(scope: TenantScope, name: str) -> Shown:
    """Return one that was issued, by its id or number. Raises `NotFound`, for another tenant's and for a draft too."""
    found = invoices.show_invoice(scope.database, name)
    if found.invoice.tenant_id != scope.tenant_id or found.invoice.number is None:
        raise NotFound("invoice", name)
    return found


def invoice_paper(scope: TenantScope, name: str) -> Export:
    """Return one that was issued as a PDF. Raises `NotFound`, for another tenant's and for a draft too."""
    found, sender = invoice(scope, name), company.get_company(scope.database)
    pair = (found.document, found.invoice.state)
    return exports.invoice_file([pair], str(found.invoice.number), form="pdf", logo=None if sender is None else sender.logo)


def _may_issue(session: Session, scope: TenantScope, now_us: int) -> None:
    if tenants.require_tenant(session, scope.tenant_id).state != "active":
        raise Conflict("your tenant is suspended; no keys are issued until it is active again")
    found = plans.subscribed(session, scope.tenant_id, now_us)
    if found is not None and found[1].terms.seat_allowance_ncr:
        raise Conflict("your plan gives credits to each key, so keys are issued by the gateway's operators: ask them for one")
    if len(store.active_keys(session, scope.tenant_id, now_us)) >= KEYS_MAX:
        raise Conflict(f"your tenant has {KEYS_MAX} keys in use; revoke some, or ask the gateway's operators")
