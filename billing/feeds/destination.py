"""What a destination is: a webhook, Stripe or OpenMeter, what each may be told, and how a request to it looks. Pure.

None holds its credential: a webhook's secret is made of the pepper, Stripe's and OpenMeter's keys are settings of the gateway.
"""

import re

import msgspec

from billing.alerts.webhook import FEEDS, INVOICE_ISSUED, USAGE_HOURLY, Delivery
from billing.errors import Invalid

WEBHOOK, STRIPE, OPENMETER = "webhook", "stripe", "openmeter"
KINDS = (WEBHOOK, STRIPE, OPENMETER)
MEASURES = ("used", "overage")
STRIPE_URL, STRIPE_VERSION = "https://api.stripe.com", "2025-03-31.basil"
STRIPE_PATHS = {USAGE_HOURLY: "/v1/billing/meter_events", INVOICE_ISSUED: "/v1/invoiceitems"}
SOURCE = "weir"
_NAME = re.compile(r"[\x21-\x7e]{1,100}")
_CUSTOMER = re.compile(r"cus_[A-Za-z0-9]{1,60}")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """How a message is sent: what is added to the destination's path, and its headers, without any credential. `credential` names whose is needed."""

    path: str
    headers: tuple[tuple[str, str], ...]
    credential: str | None


def check_destination(kind: str, events: tuple[str, ...] | None, options: dict[str, str]) -> dict[str, str]:
    """Return the options a destination has, defaults filled in. Raises `Invalid` for what its kind cannot be told, or does not take.

    Stripe is told of use or of invoices, not of both: it would bill the same twice. OpenMeter has no invoices to take.
    """
    if kind not in KINDS:
        raise Invalid("kind", f"kind: `{kind}` is not one; one of {', '.join(KINDS)}")
    if kind == WEBHOOK:
        return _options(kind, options, {})
    told = {STRIPE: FEEDS, OPENMETER: (USAGE_HOURLY,)}[kind]
    if events is None or len(events) != 1 or events[0] not in told:
        raise Invalid("events", f"events: {kind} is told of one thing; name {' or '.join(told)}")
    if kind == OPENMETER:
        return _options(kind, options, {"source": SOURCE})
    if events == (INVOICE_ISSUED,):
        return _options(kind, options, {})
    if "meter" not in options:
        raise Invalid("meter", "meter: is missing; name the event of the meter that counts thousandths of a credit in Stripe, like weir_millicredits")
    chosen = _options(kind, options, {"meter": "", "measure": "used"})
    if chosen["measure"] not in MEASURES:
        raise Invalid("measure", f"measure: `{chosen['measure']}` is not one; {MEASURES[0]} (all credits used) or {MEASURES[1]} (past the plan, invoiced)")
    return chosen


def check_customer(customer: str) -> str:
    """Return the text when it can be a customer's id in Stripe, else raise `Invalid`."""
    if _CUSTOMER.fullmatch(customer) is None:
        raise Invalid("customer", f"customer: `{customer[:80]}` is not a customer in Stripe; write its id, like cus_NciAYcXfLnqBoz")
    return customer


def request_of(kind: str, delivery: Delivery) -> Request:
    """Say how a message is sent to a destination of a kind. A webhook is signed by whoever sends it."""
    if kind == STRIPE:
        headers = (("content-type", "application/x-www-form-urlencoded"), ("idempotency-key", delivery.id), ("stripe-version", STRIPE_VERSION))
        return Request(path=STRIPE_PATHS[delivery.type], headers=headers, credential="stripe")
    if kind == OPENMETER:
        return Request(path="", headers=(("content-type", "application/cloudevents-batch+json"),), credential="openmeter")
    return Request(path="", headers=(("content-type", "application/json"),), credential=None)


def _options(kind: str, given: dict[str, str], known: dict[str, str]) -> dict[str, str]:
    for name, value in given.items():
        if name not in known:
            raise Invalid(name, f"{name}: is not an option of {kind} told of this" + (f"; it takes {', '.join(known)}" if known else ""))
        if _NAME.fullmatch(value) is None:
            raise Invalid(name, f"{name}: `{value[:80]}` is not usable; 1 to 100 characters of ASCII, without spaces")
    return known | given
