"""Webhook endpoints: add (the secret is shown once), list, remove, test; and what was sent to them. Each function is one transaction."""

import secrets

import msgspec
from sqlmodel import Session

from billing.alerts import store
from billing.alerts.store import Claimed
from billing.alerts.webhook import Delivery, Webhook, check_events, check_url, ping_of, secret_text, signing_key
from billing.db import Database
from billing.errors import Conflict, Invalid, NotFound
from billing.operations.pages import Page, check_limit, cut
from billing.operations.tenants import require_tenant
from billing.tenants.keys import KeyHasher
from billing.tenants.store import note_change

LIST_MAX = 1000


class AddedWebhook(msgspec.Struct, frozen=True, kw_only=True):
    """A new endpoint with its signing secret: hand it to the receiver and forget it."""

    webhook: Webhook
    secret: str


def add_webhook(
    db: Database,
    hasher: KeyHasher,
    *,
    url: str,
    tenant_id: str | None = None,
    events: tuple[str, ...] | None = None,
    allow_http: bool = False,
    now_us: int,
) -> AddedWebhook:
    """Register an endpoint, of one tenant's events or (None) of every tenant's. Raises `Invalid` (URL, events), `NotFound` (tenant), `Conflict`."""
    check_url(url, allow_http=allow_http)
    webhook = Webhook(id=f"wh_{secrets.token_hex(8)}", url=url, tenant_id=tenant_id, events=check_events(events), created_us=now_us)
    with db.write() as session:
        note_change(session, tenant_id, now_us)
        if tenant_id is not None:
            require_tenant(session, tenant_id)
        same = [one for one in store.all_webhooks(session) if one.url == url and one.tenant_id == tenant_id and one.disabled_us is None]
        if same:
            raise Conflict(f"webhook `{same[0].id}` has this URL and tenant already, and would be told everything twice; remove it first")
        store.insert_webhook(session, webhook)
    return AddedWebhook(webhook=webhook, secret=secret_text(signing_key(hasher, webhook.id)))


def list_webhooks(db: Database) -> list[Webhook]:
    """Return every endpoint, oldest first."""
    with db.read() as session:
        return store.all_webhooks(session)


def page_webhooks(db: Database, *, limit: int, after: str = "", tenant_id: str | None = None) -> Page[Webhook]:
    """Return a page of the endpoints, of one tenant or of all, oldest first. Raises `Invalid` (limit) and `NotFound` (an endpoint to go on after)."""
    check_limit(limit)
    with db.read() as session:
        last = require_webhook(session, after) if after else None
        found = store.webhooks_page(session, limit=limit + 1, after=last, tenant_id=tenant_id)
    return cut(found, limit, lambda webhook: webhook.id)


def require_webhook(session: Session, webhook_id: str) -> Webhook:
    """Return one endpoint in a session that is open. Raises `NotFound`."""
    found = store.get_webhook(session, webhook_id)
    if found is None:
        raise NotFound("webhook", webhook_id)
    return found


def remove_webhook(db: Database, webhook_id: str, now_us: int) -> Webhook:
    """Remove an endpoint with all that was or would be sent to it. Raises `NotFound`."""
    with db.write() as session:
        found = store.get_webhook(session, webhook_id)
        note_change(session, found.tenant_id if found else None, now_us)
        if found is None:
            raise NotFound("webhook", webhook_id)
        store.delete_webhook(session, webhook_id)
    return found


def queue_test(db: Database, webhook_id: str, now_us: int, *, until_us: int | None = None) -> Claimed:
    """Put a test message into the outbox, claimed by the caller until `until_us`, or for whoever sends. Raises `NotFound`, `Conflict` (it is disabled)."""
    with db.write() as session:
        found = store.get_webhook(session, webhook_id)
        if found is None:
            raise NotFound("webhook", webhook_id)
        if found.disabled_us is not None:
            raise Conflict(f"webhook `{webhook_id}` is disabled: it answered 410 Gone; remove it, and add it again")
        ping = ping_of(found, secrets.token_hex(8), now_us)
        if until_us is not None:
            ping = msgspec.structs.replace(ping, due_us=until_us, tries=1, tried_us=now_us)
        store.enqueue(session, [ping])
    return Claimed(ping, found.url)


def list_deliveries(db: Database, webhook_id: str | None = None, *, limit: int = 100) -> list[Delivery]:
    """Return the latest messages, to one endpoint or to all, newest first, with what became of each. Raises `Invalid`, `NotFound`."""
    if not 1 <= limit <= LIST_MAX:
        raise Invalid("limit", f"limit: {limit} is not between 1 and {LIST_MAX}")
    with db.read() as session:
        if webhook_id is not None and store.get_webhook(session, webhook_id) is None:
            raise NotFound("webhook", webhook_id)
        return store.deliveries(session, webhook_id, limit)
