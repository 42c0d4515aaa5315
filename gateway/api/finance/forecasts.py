"""/finance/forecasts: what the periods that run now are going to use and cost."""

from pydantic import BaseModel, Field

from billing.money import format_credits, format_money
from billing.operations.forecasts import Expected, forecasts
from gateway.auth.admin import AdminDesk
from gateway.wire.problems import problem_router

router = problem_router("/forecasts")


class ExpectedOut(BaseModel):
    """A whole period when what is to come is as much as this; `total` is its invoice without tax."""

    credits: str
    past_credits: str = Field(description="invoiced, served slowly or refused, as the plan says")
    total: str


class ForecastOut(BaseModel):
    """A tenant's period [first_day, end_day). The three estimates are null where no day is over yet; `method` says how they were made."""

    tenant_id: str
    plan_id: str
    on_exhausted: str
    first_day: str
    end_day: str
    currency: str
    credits: str
    past_credits: str
    credits_left: str
    fee: str
    expected: ExpectedOut | None
    low: ExpectedOut | None
    high: ExpectedOut | None
    exhausted_day: str | None = Field(description="when the credits are expected to be used up; null: not in this period, or nobody knows")
    method: str


@router.get("", summary="Forecast the periods that run now")
def index(desk: AdminDesk, tenant_id: str | None = None) -> list[ForecastOut]:
    """Forecast use, the day on which the credits are used up, and the invoice, of one tenant or of all."""
    return [
        ForecastOut(
            tenant_id=one.tenant_id,
            plan_id=one.plan,
            on_exhausted=one.on_exhausted,
            first_day=one.first_day,
            end_day=one.end_day,
            currency=one.currency,
            credits=format_credits(one.used_ncr),
            past_credits=format_credits(one.past_ncr),
            credits_left=format_credits(one.left_ncr),
            fee=format_money(one.fee_minor, one.currency),
            expected=_expected(one.expected, one.currency),
            low=_expected(one.low, one.currency),
            high=_expected(one.high, one.currency),
            exhausted_day=one.exhausted_day,
            method=one.method,
        )
        for one in forecasts(desk.database, tenant_id=tenant_id, now_us=desk.now_us())
    ]


def _expected(one: Expected | None, currency: str) -> ExpectedOut | None:
    if one is None:
        return None
    return ExpectedOut(credits=format_credits(one.used_ncr), past_credits=format_credits(one.past_ncr), total=format_money(one.total_minor, currency))
