"""/tenant/credits: what the tenant has left of its credits in this period."""

from datetime import datetime

from pydantic import BaseModel

from billing.money import format_credits
from billing.operations import own
from gateway.auth.tenant_side import OwnDesk
from gateway.wire.instants import from_us
from gateway.wire.problems import problem_router

router = problem_router("/credits")


class CreditsOut(BaseModel):
    """A tenant's credits, decimal text. `past_credits` was served past them in this period; `past_credits_invoiced` of it is invoiced."""

    plan_id: str | None
    on_exhausted: str | None
    limit: str
    used: str
    remaining: str
    debt: str
    past_credits: str
    past_credits_invoiced: str
    period_began_at: datetime | None
    resets_at: datetime | None


@router.get("", summary="Show my tenant's credits")
def show(desk: OwnDesk) -> CreditsOut:
    """Show the credits. Requests that run now, or ended within the last moments, are not in it yet."""
    found = own.balance(desk.scope, desk.now_us())
    return CreditsOut(
        plan_id=found.plan,
        on_exhausted=found.on_exhausted,
        limit=format_credits(found.limit_ncr),
        used=format_credits(found.used_ncr),
        remaining=format_credits(found.remaining_ncr),
        debt=format_credits(found.debt_ncr),
        past_credits=format_credits(found.excess_ncr + found.overage_ncr),
        past_credits_invoiced=format_credits(found.overage_ncr),
        period_began_at=None if found.period_start_us is None else from_us(found.period_start_us),
        resets_at=None if found.reset_us is None else from_us(found.reset_us),
    )
