"""/admin/usage: what was used, by tenant, day and model, and request by request."""

from datetime import datetime

from pydantic import BaseModel, Field

from billing.meter import BUCKETS
from billing.money import format_credits, format_exact
from billing.operations import usage
from billing.operations.events import find_event
from billing.usage.daily import DailyUsage
from gateway.auth.admin import AdminDesk
from gateway.config.prices import rate_figures
from gateway.wire.instants import from_us
from gateway.wire.problems import problem_router

router = problem_router("/usage")


class UsageOut(BaseModel):
    """One tenant's use of one model on one day of its own calendar. `units`: tokens and pieces by bucket; amounts are decimal text."""

    tenant_id: str
    day: str
    model: str
    requests: int
    unreported_requests: int = Field(description="of them: counted by us, since the model server did not say")
    units: dict[str, int]
    credits: str = Field(description="the use's worth at the rate; the next four sum to it")
    covered_credits: str = Field(description="paid by grants")
    debt_credits: str = Field(description="to be paid by the next grants")
    excess_credits: str = Field(description="served past the credits in the slow lane: nobody owes it")
    overage_credits: str = Field(description="served past the credits in the fast lane: invoiced")
    currency: str
    overage_amount: str


@router.get("", summary="List a month's use")
def index(month: str, desk: AdminDesk, tenant_id: str | None = None) -> list[UsageOut]:
    """List a month's use (2026-11), of one tenant or of all; days and month by each tenant's own time zone."""
    return [_out(line) for line in usage.usage_rows(desk.database, month, tenant_id)]


class EventOut(BaseModel):
    """One request, as it was booked. `units`: what was reported or counted, by bucket; `prices` are those of its rate. Amounts are decimal text.

    credits = paid_from_credits + past_credits. `debt` is the part of `paid_from_credits` that the next grants pay; `past_credits_invoiced` the
    part of `past_credits` that is invoiced, the rest of which nobody owes.
    """

    id: str
    tenant_id: str
    key_id: str
    project: str | None
    model: str
    backend: str
    upstream_model: str
    endpoint: str
    started_at: datetime
    ended_at: datetime
    status: int
    outcome: str
    lane: str
    stream: bool
    source: str
    attempts: int
    queue_ms: int
    ttft_us: int | None
    units: dict[str, int]
    rate_id: int | None
    prices: dict[str, str]
    credits: str
    paid_from_credits: str
    debt: str
    past_credits: str
    past_credits_invoiced: str


@router.get("/events/{event_id}", summary="Show one usage event")
def show(event_id: str, desk: AdminDesk) -> EventOut:
    """Show one request's usage event in full, by the `x-weir-event` of its answer. What ended within the last moments is not booked yet."""
    found = find_event(desk.database, event_id)
    event = found.event
    given = {name: getattr(event, name) for name in EventOut.model_fields if hasattr(event, name)}
    return EventOut(
        **given,
        started_at=from_us(event.started_us),
        ended_at=from_us(event.ended_us),
        units={bucket: count for bucket in BUCKETS if (count := getattr(event.meter, bucket)) is not None},
        prices=rate_figures(found.prices),
        credits=format_credits(event.charge_ncr),
        paid_from_credits=format_credits(event.cover_ncr),
        debt=format_credits(event.cover_ncr - found.covered_ncr),
        past_credits=format_credits(found.past_ncr),
        past_credits_invoiced=format_credits(found.invoiced_ncr),
    )


def _out(line: DailyUsage) -> UsageOut:
    return UsageOut(
        tenant_id=line.tenant_id,
        day=line.day,
        model=line.model,
        requests=line.requests,
        unreported_requests=line.unreported,
        units={bucket: count for bucket, count in line.units.items() if count},
        credits=format_credits(line.charge_ncr),
        covered_credits=format_credits(line.covered_ncr),
        debt_credits=format_credits(line.debt_ncr),
        excess_credits=format_credits(line.excess_ncr),
        overage_credits=format_credits(line.overage_ncr),
        currency=line.currency,
        overage_amount=format_exact(line.overage_exact),
    )
