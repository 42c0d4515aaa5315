"""/admin/credits: a tenant's balance, grant by grant, as the books have it now."""

from datetime import datetime

from pydantic import BaseModel

from billing.money import format_credits
from billing.operations import usage
from gateway.auth.admin import AdminDesk
from gateway.wire.instants import from_us
from gateway.wire.problems import problem_router

router = problem_router("/credits")


class GrantLeft(BaseModel):
    """A grant in effect, and what is left of it. `key_id`, `project`, `models`: only their requests may use it; null: any."""

    id: str
    kind: str
    credits: str
    remaining: str
    expires_at: datetime | None
    key_id: str | None
    project: str | None
    models: list[str] | None


class BalanceOut(BaseModel):
    """A tenant's credits, decimal text. `past_credits` was served past them in this period; `past_credits_invoiced` of it is invoiced."""

    tenant_id: str
    plan_id: str | None
    plan_version: int | None
    on_exhausted: str | None
    limit: str
    used: str
    remaining: str
    debt: str
    past_credits: str
    past_credits_invoiced: str
    period_began_at: datetime | None
    resets_at: datetime | None
    grants: list[GrantLeft]


@router.get("/{tenant_id}", summary="Show a tenant's balance")
def show(tenant_id: str, desk: AdminDesk) -> BalanceOut:
    """Show a tenant's balance. Requests that run now, or ended within the last moments, are not in it yet."""
    found = usage.balance(desk.database, tenant_id, desk.now_us())
    return BalanceOut(
        tenant_id=found.tenant_id,
        plan_id=found.plan,
        plan_version=found.plan_version,
        on_exhausted=found.on_exhausted,
        limit=format_credits(found.limit_ncr),
        used=format_credits(found.used_ncr),
        remaining=format_credits(found.remaining_ncr),
        debt=format_credits(found.debt_ncr),
        past_credits=format_credits(found.excess_ncr + found.overage_ncr),
        past_credits_invoiced=format_credits(found.overage_ncr),
        period_began_at=None if found.period_start_us is None else from_us(found.period_start_us),
        resets_at=None if found.reset_us is None else from_us(found.reset_us),
        grants=[_left(grant) for grant in found.grants],
    )


def _left(grant: usage.GrantStanding) -> GrantLeft:
    return GrantLeft(
        id=grant.id,
        kind=grant.kind,
        credits=format_credits(grant.amount_ncr),
        remaining=format_credits(grant.remaining_ncr),
        expires_at=None if grant.expires_us is None else from_us(grant.expires_us),
        key_id=grant.key_id,
        project=grant.project,
        models=None if grant.models is None else list(grant.models),
    )
