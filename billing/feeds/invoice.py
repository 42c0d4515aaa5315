"""An invoice that was issued, as each kind of destination takes it. Pure.

A webhook gets the whole document; Stripe an invoice item for each line that costs something, and for each tax, so that its invoice comes to the same total.
"""

from collections.abc import Iterator
from urllib.parse import urlencode

import msgspec

from billing.alerts.webhook import INVOICE_ISSUED, INVOICE_VOID, WAITING, Delivery, Webhook, message_body, message_id
from billing.feeds.destination import OPENMETER, STRIPE
from billing.invoices.document import Document, Line


def deliveries_of(webhook: Webhook, document: Document, now_us: int, *, customer: str | None = None, void: bool = False) -> Iterator[Delivery]:
    """Yield the messages of an issued invoice or credit note to a destination; made twice, they have the same ids. `customer`: who the tenant is in Stripe.

    `void`: it is void now, and what was told of it is taken back.
    """
    if webhook.kind == OPENMETER:
        return
    kind = INVOICE_VOID if void else INVOICE_ISSUED
    about = f"{webhook.id} {kind} {document.number}"
    if webhook.kind != STRIPE:
        data = {"invoice": msgspec.to_builtins(document)}
        yield _delivery(webhook, document, about, message_body(kind, now_us if void else document.issued_us or now_us, data), now_us)
        return
    sign, said = (-1, "void: ") if void else (1, "")
    for line in document.lines:
        if line.amount_minor:
            yield _delivery(
                webhook, document, f"{about} line {line.seq}", _item(document, customer or "", said + _described(line), sign * line.amount_minor), now_us
            )
    for tax in document.taxes:
        if tax.tax_minor:
            text = f"{said}{document.number}: tax {tax.percent} %"
            yield _delivery(webhook, document, f"{about} tax {tax.category} {tax.percent}", _item(document, customer or "", text, sign * tax.tax_minor), now_us)


def _described(line: Line) -> str:
    return f"{line.description} ({line.first_day} until {line.end_day})"


def _item(document: Document, customer: str, text: str, amount_minor: int) -> str:
    form = {
        "customer": customer,
        "amount": str(amount_minor),
        "currency": document.currency.lower(),
        "description": text[:500],
        "metadata[weir_invoice]": document.number or "",
        "metadata[weir_tenant]": document.tenant_id,
    }
    return urlencode(form)


def _delivery(webhook: Webhook, document: Document, about: str, body: str, now_us: int) -> Delivery:
    return Delivery(
        id=message_id(about),
        webhook_id=webhook.id,
        tenant_id=document.tenant_id,
        type=INVOICE_ISSUED,
        body=body,
        state=WAITING,
        created_us=now_us,
        due_us=now_us,
    )
