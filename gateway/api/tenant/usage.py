"""/tenant/usage: what the tenant used, by day and model, and request by request."""

from datetime import datetime

from pydantic import BaseModel, Field

from billing.meter import BUCKETS
from billing.money import format_credits, format_exact
from billing.operations import own
from gateway.auth.tenant_side import OwnDesk
from gateway.wire.instants import from_us
from gateway.wire.problems import problem_router

router = problem_router("/usage")


class OwnUsage(BaseModel):
    """Use of one model on one day of the tenant's own calendar. `units`: tokens and pieces by bucket; amounts are decimal text."""

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


class OwnEvent(BaseModel):
    """One request, as it was booked: credits = paid_from_credits + past_credits. Amounts are decimal text."""

    id: str
    key_id: str
    project: str | None
    model: str
    endpoint: str
    started_at: datetime
    ended_at: datetime
    status: int
    outcome: str
    lane: str
    stream: bool
    source: str
    queue_ms: int
    ttft_us: int | None
    units: dict[str, int]
    credits: str
    paid_from_credits: str
    past_credits: str
    past_credits_invoiced: str


@router.get("", summary="List my tenant's use of a month")
def index(month: str, desk: OwnDesk) -> list[OwnUsage]:
    """List a month's use (2026-11); days and month by the tenant's time zone."""
    return [
        OwnUsage(
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
        for line in own.usage_of(desk.scope, month)
    ]


@router.get("/events/{event_id}", summary="Show one of my tenant's requests")
def show(event_id: str, desk: OwnDesk) -> OwnEvent:
    """Show one request, by the `x-weir-event` of its answer. What ended within the last moments is not booked yet."""
    found = own.event(desk.scope, event_id)
    event = found.event
    return OwnEvent(
        **{name: getattr(event, name) for name in OwnEvent.model_fields if hasattr(event, name)},
        started_at=from_us(event.started_us),
        ended_at=from_us(event.ended_us),
        units={bucket: count for bucket in BUCKETS if (count := getattr(event.meter, bucket)) is not None},
        credits=format_credits(event.charge_ncr),
        paid_from_credits=format_credits(event.cover_ncr),
        past_credits=format_credits(found.past_ncr),
        past_credits_invoiced=format_credits(found.invoiced_ncr),
    )
