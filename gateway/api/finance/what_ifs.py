"""/finance/what-ifs: a month as it would have been billed on another plan, at other rates, or both."""

from pydantic import BaseModel, Field

from billing.margins.amounts import in_major
from billing.money import format_credits, format_exact
from billing.operations.whatif import Bill, what_if
from gateway.auth.admin import AdminDesk
from gateway.wire.problems import problem_router

router = problem_router("/what-ifs")


class BillOut(BaseModel):
    """What a period costs. total = fee + overage_amount, before lines are rounded; credits = the next four."""

    total: str
    fee: str
    overage_amount: str
    credits: str
    from_credits: str
    overage_credits: str
    excess_credits: str
    refused_credits: str = Field(description="what a plan that blocks would not have served")


class PeriodOut(BaseModel):
    """One tenant's period [first_day, end_day) of its own calendar. `running`: it is not over, and both are bills so far."""

    tenant_id: str
    first_day: str
    end_day: str
    running: bool
    currency: str
    requests: int
    books: BillOut
    then: BillOut
    difference: str


class UnpricedOut(BaseModel):
    """What the rates have no price for; it would be charged nothing."""

    model: str
    bucket: str
    units: int


class WhatIfOut(BaseModel):
    """The periods that begin in the month; `left_out` are tenants that are invoiced in another currency than the plan's."""

    periods: list[PeriodOut]
    left_out: list[str]
    unpriced: list[UnpricedOut]


@router.get("", summary="Bill a month anew on another plan or at other rates")
def index(desk: AdminDesk, month: str, plan_id: str | None = None, version_id: int | None = None, tenant_id: str | None = None) -> WhatIfOut:
    """Bill the periods that begin in a month (2026-11) anew: on the newest version of a plan, at a version of rates (proposed or published), or both."""
    found = what_if(desk.database, month, plan=plan_id, version_id=version_id, tenant_id=tenant_id, now_us=desk.now_us())
    periods = [
        PeriodOut(
            tenant_id=one.tenant_id,
            first_day=one.first_day,
            end_day=one.end_day,
            running=one.running,
            currency=one.currency,
            requests=one.books.requests,
            books=_bill(one.books),
            then=_bill(one.other),
            difference=format_exact(in_major(one.other.total - one.books.total)),
        )
        for one in found.outcomes
    ]
    unpriced = [UnpricedOut(model=model, bucket=bucket, units=units) for model, bucket, units in found.unpriced]
    return WhatIfOut(periods=periods, left_out=list(found.left_out), unpriced=unpriced)


def _bill(bill: Bill) -> BillOut:
    return BillOut(
        total=format_exact(in_major(bill.total)),
        fee=format_exact(in_major(bill.fee)),
        overage_amount=format_exact(in_major(bill.overage)),
        credits=format_credits(bill.charge_ncr),
        from_credits=format_credits(bill.from_credits_ncr),
        overage_credits=format_credits(bill.overage_ncr),
        excess_credits=format_credits(bill.excess_ncr),
        refused_credits=format_credits(bill.refused_ncr),
    )
