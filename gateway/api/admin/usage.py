"""/admin/usage: what was used, by tenant, day and model."""

from pydantic import BaseModel

from billing.money import format_credits, format_exact
from billing.operations import usage
from billing.usage.daily import DailyUsage
from gateway.auth.admin import AdminDesk
from gateway.wire.problems import problem_router

router = problem_router("/usage")


class UsageOut(BaseModel):
    """One tenant's use of one model on one day of its own calendar. `units`: tokens and pieces by bucket; amounts are decimal text."""

    tenant_id: str
    day: str
    model: str
    requests: int
    unreported_requests: int
    units: dict[str, int]
    credits: str
    covered_credits: str
    debt_credits: str
    excess_credits: str
    overage_credits: str
    currency: str
    overage_amount: str


@router.get("")
def index(month: str, desk: AdminDesk, tenant_id: str | None = None) -> list[UsageOut]:
    """List a month's use (2026-11), of one tenant or of all; days and month by each tenant's own time zone."""
    return [_out(line) for line in usage.usage_rows(desk.database, month, tenant_id)]


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
