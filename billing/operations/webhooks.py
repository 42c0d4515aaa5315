"""Webhooks and other destinations: add (a secret is shown once), list, remove, test; what was sent to them, and sending it again.

Each function is one transaction.
"""

import secrets
from urllib.parse import urlsplit

import msgspec
from sqlmodel import Session

from billing.alerts import store
from billing.alerts.store import Claimed
from billing.alerts.webhook import Delivery, Webhook, check_events, check_url, ping_of, secret_text, signing_key
from billing.audit.store import record
from billing.db import Database
from billing.errors import Conflict, Invalid, NotFound
from billing.feeds import store as feeds
from billing.feeds.destination import STRIPE, WEBHOOK, check_customer, check_destination
from billing.operations.pages import Page, check_limit, cut
from billing.operations.tenants import require_tenant
from billing.tenants.keys import KeyHasher
from billing.tenants.store import note_change

LIST_MAX = 1000


class AddedWebhook(msgspec.Struct, frozen=True, kw_only=True):
    """A new endpoint, a webhook with its signing secret: hand it to the receiver and forget it."""

    webhook: Webhook
    secret: str | None


def add_webhook(
    db: Database,
    hasher: KeyHasher,
    *,
    url: str,
    tenant_id: str | None = None,
    events: tuple[str, ...] | None = None,
    allow_http: bool = False,
    kind: str = WEBHOOK,
    options: dict[str, str] | None = None,
    now_us: int,
) -> AddedWebhook:
    """Register an endpoint, of one tenant's events or (None) of every tenant's. Raises `Invalid` (URL, events, kind and its options), `NotFound`, `Conflict`.

    `kind` is whose interface the URL has; `options` are of that kind (`billing.feeds.destination`).
    """
    check_url(url, allow_http=allow_http)
    chosen = check_events(events)
    kept = check_destination(kind, chosen, options or {}) or None
    webhook = Webhook(id=f"wh_{secrets.token_hex(8)}", url=url, tenant_id=tenant_id, events=chosen, created_us=now_us, kind=kind, options=kept)
    with db.write() as session:
        note_change(session, tenant_id, now_us)
        if tenant_id is not None:
            require_tenant(session, tenant_id)
        alike = [one for one in store.all_webhooks(session) if one.url == url and one.tenant_id == tenant_id and one.disabled_us is None]
        same = [one for one in alike if kind == WEBHOOK or one.events == chosen]
        if kind == STRIPE and not same:
            billed = (one for one in store.all_webhooks(session) if one.kind == STRIPE and one.url == url and one.disabled_us is None)
            same = [one for one in billed if None in (one.tenant_id, tenant_id) or one.tenant_id == tenant_id]
        if same:
            raise Conflict(f"webhook `{same[0].id}` has this URL and tenant already, and would be told the same twice; remove it first")
        store.insert_webhook(session, webhook)
        record(session, now_us, action="webhook.add", tenant_id=tenant_id, subject=webhook.id, before=None, after=_recorded(webhook))
    return AddedWebhook(webhook=webhook, secret=secret_text(signing_key(hasher, webhook.id)) if kind == WEBHOOK else None)


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
        found = store.get_webhook(session, webhook_id)  # again: somebody may have been before us
        if found is None:
            raise NotFound("webhook", webhook_id)
        store.delete_webhook(session, webhook_id)
        record(session, now_us, action="webhook.remove", tenant_id=found.tenant_id, subject=webhook_id, before=_recorded(found), after=None)
        feeds.forget(session, webhook_id)
    return found


def queue_test(db: Database, webhook_id: str, now_us: int, *, until_us: int | None = None) -> Claimed:
    """Put a test message into the outbox, claimed by the caller until `until_us`, or for whoever sends. Raises `NotFound`, `Conflict` (it is disabled)."""
    with db.write() as session:
        found = store.get_webhook(session, webhook_id)
        if found is None:
            raise NotFound("webhook", webhook_id)
        if found.disabled_us is not None:
            raise Conflict(f"webhook `{webhook_id}` is disabled: it answered 410 Gone; remove it, and add it again")
        if found.kind != WEBHOOK:
            raise Conflict(f"`{webhook_id}` is {found.kind}, which has no message that would mean nothing; see `weir webhook deliveries {webhook_id}`")
        ping = ping_of(found, secrets.token_hex(8), now_us)
        if until_us is not None:
            ping = msgspec.structs.replace(ping, due_us=until_us, tries=1, tried_us=now_us)
        store.enqueue(session, [ping])
        record(session, now_us, action="webhook.test", tenant_id=found.tenant_id, subject=webhook_id, before=None, after={"message": ping.id})
    return Claimed(ping, found.url, found.kind)


def list_deliveries(db: Database, webhook_id: str | None = None, *, limit: int = 100) -> list[Delivery]:
    """Return the latest messages, to one endpoint or to all, newest first, with what became of each. Raises `Invalid`, `NotFound`."""
    if not 1 <= limit <= LIST_MAX:
        raise Invalid("limit", f"limit: {limit} is not between 1 and {LIST_MAX}")
    with db.read() as session:
        if webhook_id is not None and store.get_webhook(session, webhook_id) is None:
            raise NotFound("webhook", webhook_id)
        return store.deliveries(session, webhook_id, limit)


def send_again(db: Database, delivery_id: str, now_us: int) -> Delivery:
    """Have a message that failed sent once more, under the same id. Raises `NotFound` where none of that id has failed."""
    with db.write() as session:
        found = store.again(session, delivery_id, now_us)
        if found is None:
            raise NotFound("failed message", delivery_id)
        record(session, now_us, action="webhook.retry", tenant_id=found.tenant_id, subject=found.webhook_id, before=None, after={"message": delivery_id})
    return found


def set_stripe_customer(db: Database, tenant_id: str, customer: str | None, now_us: int) -> None:
    """Say who a tenant is in Stripe; None: nobody, it is told nothing more of it. Raises `Invalid`, `NotFound`, `Conflict` (another tenant is)."""
    if customer is not None:
        check_customer(customer)
    with db.write() as session:
        note_change(session, tenant_id, now_us)
        require_tenant(session, tenant_id)
        other = None if customer is None else feeds.tenant_of_customer(session, customer)
        if other not in (None, tenant_id):
            raise Conflict(f"customer `{customer}` in {STRIPE.title()} is tenant `{other}` already; two tenants cannot be billed as one")
        before = feeds.customer(session, tenant_id)
        feeds.set_customer(session, tenant_id, customer)
        told = [None if name is None else {"customer": name} for name in (before, customer)]
        record(session, now_us, action="tenant.stripe-customer", tenant_id=tenant_id, subject=tenant_id, before=told[0], after=told[1])


def _recorded(webhook: Webhook) -> Webhook:
    """Return an endpoint as the audit log may keep it for ever: many receivers take whoever knows the path and query of their URL."""
    parts = urlsplit(webhook.url)
    return msgspec.structs.replace(webhook, url=f"{parts.scheme}://{parts.netloc}/...")
