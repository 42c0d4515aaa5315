"""Puts into the outbox what destinations are told, in the transaction of whoever calls.

Use is told an hour at a time, some minutes after its end, and what was booked later as a difference; so each event is told once, whatever happens between.
Which it is stands beside the messages and is committed with them.
"""

from sqlmodel import Session

from billing.alerts import store as outbox
from billing.alerts.webhook import INVOICE_ISSUED, USAGE_HOURLY, Delivery, Webhook
from billing.feeds import invoice, store
from billing.feeds.destination import STRIPE
from billing.feeds.store import Day
from billing.feeds.use import HOUR_US, Use, delivery_of, hours_of
from billing.invoices.document import Document
from billing.usage import store as events
from billing.usage.store import DAY_US_MAX

LAG_US = 15 * 60_000_000  # after an hour's end: by then nearly all of its requests are booked
BACK_US = 34 * 86_400_000_000  # Stripe takes nothing older than 35 days


def tell_use(session: Session, webhook: Webhook, now_us: int, limit: int) -> int:
    """Put what is new of at most `limit` days of tenants into the outbox for a destination; return how many days were looked at. 0: nothing is new."""
    if webhook.disabled_us is not None or USAGE_HOURLY not in (webhook.events or ()):
        return 0
    floor_us = (now_us - LAG_US) // HOUR_US * HOUR_US
    since_us = max(webhook.created_us - DAY_US_MAX, now_us - BACK_US)
    days = store.due_days(session, webhook, since_us=since_us, floor_us=floor_us, limit=limit)
    for day in days:
        _tell_day(session, webhook, day, floor_us, now_us)
    return len(days)


def tell_invoice(session: Session, document: Document, now_us: int) -> int:
    """Put an invoice that was just issued into the outbox for every destination that wants invoices; return how many messages it made.

    Stripe is told only of tenants it knows: one that becomes known later is invoiced there from then on.
    """
    messages: list[Delivery] = []
    for webhook in outbox.all_webhooks(session):
        if webhook.disabled_us is not None or INVOICE_ISSUED not in (webhook.events or ()) or webhook.tenant_id not in (None, document.tenant_id):
            continue
        customer = store.customer(session, document.tenant_id) if webhook.kind == STRIPE else None
        if webhook.kind != STRIPE or customer is not None:
            messages += invoice.deliveries_of(webhook, document, now_us, customer=customer)
    outbox.enqueue(session, messages)
    return len(messages)


def tell_void(session: Session, document: Document, now_us: int) -> int:
    """Take an invoice back that was told and is void: Stripe gets each item once more with the other sign, a webhook `invoice.void`. Return how many."""
    messages: list[Delivery] = []
    for webhook in outbox.all_webhooks(session):
        if webhook.disabled_us is not None or INVOICE_ISSUED not in (webhook.events or ()) or webhook.tenant_id not in (None, document.tenant_id):
            continue
        customer = store.customer(session, document.tenant_id) if webhook.kind == STRIPE else None
        if webhook.kind != STRIPE or (customer is not None and webhook.created_us <= (document.issued_us or 0)):
            messages += invoice.deliveries_of(webhook, document, now_us, customer=customer, void=True)
    outbox.enqueue(session, messages)
    return len(messages)


def _tell_day(session: Session, webhook: Webhook, day: Day, floor_us: int, now_us: int) -> None:
    first_us = -(-webhook.created_us // HOUR_US) * HOUR_US  # of what was before it came a destination is not told
    settled, now = 0, []
    for line in events.hours(session, day.tenant_id, day.day_us, floor_us):
        settled += line.requests
        if line.hour_us >= first_us:
            now.append((line.hour_us, Use(**{name: getattr(line, name) for name in Use.__struct_fields__})))
    told = store.told(session, webhook.id, day.tenant_id, day.day_us)
    carry_ncr = before_ncr = store.carry(session, webhook.id, day.tenant_id)
    messages: list[Delivery] = []
    for hour in hours_of(day.tenant_id, day.day_us, now, told):
        message, carry_ncr = delivery_of(webhook, hour, now_us, customer=day.customer, carry_ncr=carry_ncr)
        messages += [] if message is None else [message]
    outbox.enqueue(session, messages)
    store.tell(session, webhook.id, day, [(hour_us, use) for hour_us, use in now if told.get((hour_us, use.model, use.project)) != use])
    if carry_ncr != before_ncr:
        store.set_carry(session, webhook.id, day.tenant_id, carry_ncr)
    store.note_day(session, webhook.id, day, events=settled, looked_us=floor_us)
