"""An hour of a tenant's use as each kind of destination takes it. Pure.

What is told of an hour is never taken back: what came in late is told as a message of its own, with the difference. Credits are exact decimal text.
Stripe's meters take whole numbers, so it is told thousandths of a credit, and what is less than one is carried to the tenant's next message.
"""

from collections.abc import Iterable
from urllib.parse import urlencode

import msgspec

from billing.alerts.webhook import USAGE_HOURLY, WAITING, Delivery, Webhook, instant, message_body, message_id
from billing.feeds.destination import OPENMETER, STRIPE, WEBHOOK
from billing.meter import BUCKETS
from billing.money import NCR_PER_CREDIT, format_credits
from billing.usage.daily import UNIT_COLUMNS

MILLI_NCR = NCR_PER_CREDIT // 1000
HOUR_US = 3_600_000_000


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of one model and project within one hour: how many, how many of them nobody reported the usage of, their units, and ncr."""

    model: str
    project: str | None
    requests: int
    unreported: int
    units: dict[str, int]
    charge_ncr: int
    cover_ncr: int
    excess_ncr: int
    overage_ncr: int


class Hour(msgspec.Struct, frozen=True, kw_only=True):
    """What is new of a tenant's hour (UTC), within one day of its calendar; `total` are its requests told with this, `late`: some were told before."""

    tenant_id: str
    day_us: int
    hour_us: int
    uses: tuple[Use, ...]
    total: int
    late: bool


def difference(now: Use, told: Use | None) -> Use | None:
    """Return what a use grew by since it was told; None where it did not. Events are never removed, so no figure shrinks."""
    if told is None:
        return now
    if now.requests == told.requests:
        return None
    figures = ("requests", "unreported", "charge_ncr", "cover_ncr", "excess_ncr", "overage_ncr")
    units = {bucket: count - told.units.get(bucket, 0) for bucket, count in now.units.items()}
    return Use(model=now.model, project=now.project, units=units, **{name: getattr(now, name) - getattr(told, name) for name in figures})


def delivery_of(webhook: Webhook, hour: Hour, now_us: int, *, customer: str | None = None, carry_ncr: int = 0) -> tuple[Delivery | None, int]:
    """Return the message of an hour to a destination, and what is carried to the next one (ncr; Stripe only). No message where there is nothing to count.

    `customer` is who the tenant is in Stripe. Made twice, it has the same id.
    """
    name = message_id(f"{webhook.id} {USAGE_HOURLY} {hour.tenant_id} {hour.day_us} {hour.hour_us} {hour.total}")
    if webhook.kind == STRIPE:
        options = webhook.options or {}
        measured = carry_ncr + sum(use.charge_ncr if options["measure"] == "used" else use.overage_ncr for use in hour.uses)
        value, carry_ncr = divmod(measured, MILLI_NCR)
        if not value:
            return None, carry_ncr
        body = _meter_event(options["meter"], name, hour.hour_us, customer or "", value)
    else:
        body = {WEBHOOK: _body, OPENMETER: _cloud_events}[webhook.kind](webhook, hour, name)
    message = Delivery(
        id=name,
        webhook_id=webhook.id,
        tenant_id=hour.tenant_id,
        type=USAGE_HOURLY,
        body=body,
        state=WAITING,
        created_us=now_us,
        due_us=now_us,
    )
    return message, carry_ncr


def _body(_webhook: Webhook, hour: Hour, _name: str) -> str:
    span = {"start": instant(hour.hour_us), "end": instant(hour.hour_us + HOUR_US)}
    data = {"tenant": hour.tenant_id, **span, "late": hour.late, "lines": [_figures(use) for use in hour.uses]}
    return message_body(USAGE_HOURLY, hour.hour_us, data)


def _cloud_events(webhook: Webhook, hour: Hour, name: str) -> str:
    source = (webhook.options or {})["source"]
    events = [
        {
            "specversion": "1.0",
            "id": f"{name}.{number}",
            "source": source,
            "type": "weir.usage",
            "subject": hour.tenant_id,
            "time": instant(hour.hour_us),
            "datacontenttype": "application/json",
            "data": _figures(use),
        }
        for number, use in enumerate(hour.uses)
    ]
    return msgspec.json.encode(events).decode()


def _meter_event(meter: str, name: str, hour_us: int, customer: str, value: int) -> str:
    form = {
        "event_name": meter,
        "payload[stripe_customer_id]": customer,
        "payload[value]": str(value),
        "identifier": name,
        "timestamp": str(hour_us // 1_000_000),
    }
    return urlencode(form)


def _figures(use: Use) -> dict[str, object]:
    units = {UNIT_COLUMNS[bucket]: use.units.get(bucket, 0) for bucket in BUCKETS}
    credits_ = {"credits": use.charge_ncr, "excess_credits": use.excess_ncr, "overage_credits": use.overage_ncr}
    figures = {"model": use.model, "project": use.project, "requests": use.requests, "unreported_requests": use.unreported}
    return {**figures, **units, **{name: format_credits(ncr) for name, ncr in credits_.items()}}


def hours_of(tenant_id: str, day_us: int, now: Iterable[tuple[int, Use]], told: dict[tuple[int, str, str | None], Use]) -> list[Hour]:
    """Return what is new of a day, an hour at a time in order: `now` are (hour_us, use) as the books have them, `told` what was told of them before."""
    fresh: dict[int, list[Use]] = {}
    totals: dict[int, int] = {}
    known = {hour_us for hour_us, _model, _project in told}
    for hour_us, use in now:
        totals[hour_us] = totals.get(hour_us, 0) + use.requests
        more = difference(use, told.get((hour_us, use.model, use.project)))
        if more is not None:
            fresh.setdefault(hour_us, []).append(more)
    return [
        Hour(tenant_id=tenant_id, day_us=day_us, hour_us=hour_us, uses=tuple(uses), total=totals[hour_us], late=hour_us in known)
        for hour_us, uses in sorted(fresh.items())
    ]
