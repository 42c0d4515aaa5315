"""/admin/tenants/{tenant_id}/close: a tenant is closed, for good. Until its instant has come, DELETE /admin/tenants/{tenant_id}/next-plan takes it back."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from billing.money import format_credits
from billing.operations import closing
from gateway.auth.rehearsal import ChangingDesk
from gateway.config.forms import Form
from gateway.wire.instants import from_us
from gateway.wire.problems import problem_router

router = problem_router("/tenants/{tenant_id}/close")


class Close(Form):
    """When."""

    when: Literal["now", "period-end"] = Field("now", description="now, or when the tenant's period ends")


class ClosingOut(BaseModel):
    """What was closed: the keys that go with it, the plan that ends, the credits that are left, and all of it in words."""

    tenant_id: str
    closes_at: datetime
    keys: int
    plan_id: str | None
    plan_version: int | None
    remaining: str
    said: str


@router.post("", summary="Close a tenant")
def close(tenant_id: str, body: Close, desk: ChangingDesk) -> ClosingOut:
    """Close a tenant for good: its requests are refused, its keys are revoked, its subscription ends. What it used is invoiced all the same."""
    done = closing.close_tenant(desk.database, tenant_id, desk.now_us(), when=body.when)
    desk.changed()
    return ClosingOut(
        tenant_id=done.tenant_id,
        closes_at=from_us(done.at_us),
        keys=done.keys,
        plan_id=done.plan.plan if done.plan else None,
        plan_version=done.plan.version if done.plan else None,
        remaining=format_credits(done.remaining_ncr),
        said=closing.in_words(done),
    )
