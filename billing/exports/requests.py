"""The drill-down export: one row per request, with the id that its answer carried. The requests behind a line sum to the line."""

from collections.abc import Iterable
from decimal import Decimal

import msgspec

from billing.files.days import instant
from billing.files.grid import Column, Grid, Row, columns
from billing.meter import BUCKETS
from billing.money import format_exact, price_of
from billing.usage.daily import UNIT_COLUMNS
from billing.usage.event import UsageEvent, excess_ncr, overage_ncr

COLUMNS = (
    *columns(("tenant", "day", "event", "started", "ended", "key", "project", "model", "backend", "upstream_model", "endpoint")),
    Column("status", "count"),
    *columns(("outcome", "lane", "service_tier", "source")),
    *columns(("attempts", "queue_ms"), "count"),
    *columns((UNIT_COLUMNS[bucket] for bucket in BUCKETS), "count"),
    Column("rate", "count"),
    *columns(("credits", "covered_credits", "debt_credits", "excess_credits", "overage_credits"), "credits", total=True),
    Column("currency"),
    Column("overage_amount", "amount", total=True),
)


class Request(msgspec.Struct, frozen=True, gc=False):
    """A usage event as the books have it: what grants paid of it, on which day of its tenant it began, and what a credit of overage then cost."""

    event: UsageEvent
    covered_ncr: int
    day: str
    currency: str
    credit_price: Decimal | None


def grid(requests: Iterable[Request], about: dict[str, str], made_us: int) -> Grid:
    """Lay requests out as rows. A kind of unit that nobody reported is empty; 0 says that there were none."""
    return Grid(name="requests", columns=COLUMNS, rows=map(_row, requests), about=about, made_us=made_us, currency="currency")


def _row(request: Request) -> Row:
    event, over = request.event, overage_ncr(request.event)
    amount = format_exact(price_of(over, request.credit_price)) if over and request.credit_price is not None else "0"
    return (
        event.tenant_id, request.day, event.id, instant(event.started_us), instant(event.ended_us), event.key_id, event.project, event.model,
        event.backend, event.upstream_model, event.endpoint, event.status, event.outcome, event.lane, event.service_tier, event.source,
        event.attempts, event.queue_ms, *msgspec.structs.astuple(event.meter), event.rate_id,
        event.charge_ncr, request.covered_ncr, event.cover_ncr - request.covered_ncr, excess_ncr(event), over, request.currency, amount,
    )  # fmt: skip
