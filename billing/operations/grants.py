"""Grants: give credits, take back what is left of them, list them. Each function is one transaction."""

import re
import secrets
from collections.abc import Iterable

import msgspec
from sqlmodel import Session

from billing.audit.store import record
from billing.credits import store as accounts
from billing.db import Database
from billing.errors import Conflict, Invalid, NotFound
from billing.grants import store
from billing.grants.grant import BY_ITSELF, KINDS, PRIORITY_DEFAULT, Grant
from billing.invoices import store as invoices
from billing.invoices.draft import Sale
from billing.ledger import store as ledger
from billing.ledger.postings import VOID, end_posting
from billing.money import NCR_MAX
from billing.operations.pages import Page, check_limit, cut
from billing.operations.tenants import require_open
from billing.tenants import store as tenants

AMOUNT_NCR_MAX = NCR_MAX // 1000  # a thousand of the largest grants still add up in 64 bits
PRICE_MINOR_MAX = 10**15
ID_CHARS_MAX = 100
NOTE_CHARS_MAX = 500
MODELS_MAX = 100
_MODEL = re.compile(r"[!-~]{1,256}")


def add_grant(
    db: Database,
    *,
    tenant_id: str,
    amount_ncr: int,
    kind: str = "topup",
    id: str | None = None,
    priority: int | None = None,
    effective_us: int | None = None,
    expires_us: int | None = None,
    note: str = "",
    key_id: str | None = None,
    project: str | None = None,
    models: Iterable[str] | None = None,
    price_minor: int | None = None,
    now_us: int,
) -> Grant:
    """Give a tenant credits, usable from `effective_us` (now by default) until `expires_us` (for ever by default).

    `price_minor` sells them: so much, in minor units of the tenant's currency, is a line on the invoice of the period that runs.

    `key_id`, `project` and `models` narrow down which requests may use them, all that are given together. A caller that may ask twice gives an
    id of its own: the second time is a `Conflict`. Raises `Invalid` (kind, amount, a grant that nobody could use, a key or a project that the tenant
    has not, an id that the allowances use) and `NotFound` (tenant).
    """
    grant = Grant(
        id=f"{kind}_{secrets.token_hex(8)}" if id is None else id,
        tenant_id=tenant_id,
        kind=kind,
        amount_ncr=amount_ncr,
        remaining_ncr=amount_ncr,
        priority=PRIORITY_DEFAULT.get(kind, 0) if priority is None else priority,
        effective_us=now_us if effective_us is None else effective_us,
        expires_us=expires_us,
        voided_us=None,
        created_us=now_us,
        note=note,
        key_id=key_id,
        project=project,
        models=None if models is None else tuple(sorted(set(models))),
    )
    _check(grant, now_us)
    if price_minor is not None and not 0 < price_minor <= PRICE_MINOR_MAX:
        raise Invalid("price", f"price: {price_minor} is out of range; more than 0 and at most {PRICE_MINOR_MAX} in minor units; leave it out for a gift")
    with db.write() as session:
        tenants.note_change(session, tenant_id, now_us)
        require_open(session, tenant_id, now_us)
        _check_seat(session, grant, now_us)
        if not store.insert_grant(session, grant):
            raise Conflict(f"grant `{grant.id}` exists already; nothing was given a second time")
        ledger.post(session, ledger.issues([grant]))
        if price_minor is not None:
            sale = Sale(grant_id=grant.id, amount_ncr=amount_ncr, price_minor=price_minor, at_us=now_us, note=note)
            invoices.add_sale(session, sale, tenant_id)
        record(session, now_us, action="grant.add", tenant_id=tenant_id, subject=grant.id, before=None, after=grant)
    return grant


def void_grant(db: Database, grant_id: str, now_us: int) -> Grant:
    """Take back what is left of a grant; what was used stays used. Raises `NotFound`, and `Conflict` for one that is void or over."""
    with db.write() as session:
        found = store.get_grant(session, grant_id)
        tenants.note_change(session, found.tenant_id if found else None, now_us)
        if found is None:
            raise NotFound("grant", grant_id)
        if found.expires_us is not None and found.expires_us <= now_us:
            raise Conflict(f"grant `{grant_id}` has expired; there is nothing left to take back")
        return void_in(session, found, now_us)


def list_grants(db: Database, tenant_id: str | None = None) -> list[Grant]:
    """Return the grants of one tenant, or all, in burn order; expired and void ones too. Raises `NotFound` for an unknown tenant."""
    with db.read() as session:
        if tenant_id is not None and tenants.get_tenant(session, tenant_id) is None:
            raise NotFound("tenant", tenant_id)
        return store.all_grants(session, tenant_id)


def page_grants(db: Database, tenant_id: str | None = None, *, limit: int, after: str = "") -> Page[Grant]:
    """Return a page of the grants of one tenant in burn order, or of all by their ids; expired and void ones too.

    Raises `Invalid` (limit) and `NotFound` (tenant, a grant to go on after).
    """
    check_limit(limit)
    with db.read() as session:
        if tenant_id is not None and tenants.get_tenant(session, tenant_id) is None:
            raise NotFound("tenant", tenant_id)
        last = store.get_grant(session, after) if after else None
        if after and last is None:
            raise NotFound("grant", after)
        found = store.grants_page(session, tenant_id, limit=limit + 1, after=last)
    return cut(found, limit, lambda grant: grant.id)


def get_grant(db: Database, grant_id: str) -> Grant:
    """Return one grant. Raises `NotFound`."""
    with db.read() as session:
        found = store.get_grant(session, grant_id)
    if found is None:
        raise NotFound("grant", grant_id)
    return found


def void_in(session: Session, grant: Grant, now_us: int) -> Grant:
    """Void a grant within a transaction, and post what was left back to where it was issued from. Raises `Conflict` for one that is void."""
    accounts.lock(session, [grant.tenant_id])  # no flush takes from the grant meanwhile
    fresh = store.get_grant(session, grant.id)
    if fresh is None or not store.void(session, grant.id, now_us):
        raise Conflict(f"grant `{grant.id}` is void already")
    ledger.post(session, ledger.issues([fresh]))
    if fresh.remaining_ncr:
        ledger.post(session, [end_posting(VOID, fresh.id, fresh.tenant_id, now_us, fresh.remaining_ncr)])
    voided = msgspec.structs.replace(fresh, voided_us=now_us, remaining_ncr=0, voided_ncr=fresh.voided_ncr + fresh.remaining_ncr)
    record(session, now_us, action="grant.void", tenant_id=grant.tenant_id, subject=grant.id, before=fresh, after=voided)
    return voided


def _check_seat(session: Session, grant: Grant, now_us: int) -> None:
    """Refuse a key or a project that is not the tenant's, and a scope that no request could have."""
    tenant = grant.tenant_id
    if grant.project is not None and tenants.get_project(session, tenant, grant.project) is None:
        raise Invalid("project", f"project: tenant `{tenant}` has no project `{grant.project[:80]}`", command=f"weir project list {tenant}")
    if grant.key_id is None:
        return
    key = tenants.get_key(session, grant.key_id)
    if key is None or key.tenant_id != tenant:
        raise Invalid("key_id", f"key: tenant `{tenant}` has no key `{grant.key_id[:80]}`", command=f"weir key list {tenant}")
    if key.revoked_us is not None or (key.expires_us is not None and key.expires_us <= max(now_us, grant.effective_us)):
        raise Invalid("key_id", f"key: `{grant.key_id}` is revoked, or expires before the grant begins; nobody could use the grant")
    if grant.project not in (None, key.project):
        what = f"is of project `{key.project}`" if key.project else "is of no project"
        raise Invalid("project", f"project: key `{grant.key_id}` {what}, not of `{grant.project}`; name one of the two, nobody could use the grant")


def _check(grant: Grant, now_us: int) -> None:
    if grant.kind not in KINDS or grant.kind in BY_ITSELF:
        given = ", ".join(kind for kind in KINDS if kind not in BY_ITSELF)
        raise Invalid("kind", f"kind: `{grant.kind}` is not one to give; one of {given} (a plan's allowance comes by itself)")
    if not 1 <= grant.amount_ncr <= AMOUNT_NCR_MAX:
        raise Invalid("amount", f"amount: {grant.amount_ncr} ncr is out of range; more than 0 and at most {AMOUNT_NCR_MAX // 10**9} credits")
    if not 1 <= len(grant.id) <= ID_CHARS_MAX or not grant.id.isprintable() or grant.id.startswith(("plan:", "rollover:")):
        raise Invalid("id", f"id: `{grant.id[:80]}` is not usable; 1 to {ID_CHARS_MAX} printable characters, not beginning with plan: or rollover:")
    if not -1000 <= grant.priority <= 1000:
        raise Invalid("priority", f"priority: {grant.priority} is out of range; between -1000 and 1000, lower burns first")
    if grant.expires_us is not None and grant.expires_us <= now_us:
        raise Invalid("expires_us", "expires: this instant has passed; nobody could use the grant")
    if grant.expires_us is not None and grant.expires_us <= grant.effective_us:
        raise Invalid("expires_us", "expires: the grant ends before it begins; its end must come after its start")
    if grant.effective_us < now_us:
        raise Invalid("effective_us", "effective: this instant has passed; a grant begins now or later")
    if len(grant.note) > NOTE_CHARS_MAX or not grant.note.isprintable():
        raise Invalid("note", f"note: at most {NOTE_CHARS_MAX} printable characters")
    if grant.models is not None and not 1 <= len(grant.models) <= MODELS_MAX:
        raise Invalid("models", f"models: {len(grant.models)} of them; name 1 to {MODELS_MAX}, or leave it out for every model")
    if (wrong := next((model for model in grant.models or () if _MODEL.fullmatch(model) is None), None)) is not None:
        raise Invalid("models", f"models: `{wrong[:80]}` is no model's name; 1 to 256 visible ASCII characters without spaces")
