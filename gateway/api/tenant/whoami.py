"""/tenant/whoami: who the caller is, of which tenant, on which plan."""

from datetime import datetime

from pydantic import BaseModel

from billing.operations import own
from gateway.auth.roles import TENANT_ROLES, may
from gateway.auth.tenant_side import OwnDesk
from gateway.wire.instants import from_us
from gateway.wire.problems import problem_router

router = problem_router("/whoami")


class MemberOut(BaseModel):
    """One of a tenant's own people, the tenant, and what the role may do, area by area."""

    actor: str
    kind: str
    roles: list[str]
    may: dict[str, list[str]]
    tenant_id: str
    tenant_name: str
    state: str
    currency: str
    timezone: str
    plan_id: str | None
    period_start: datetime | None
    period_end: datetime | None


@router.get("", summary="Show who I am for my tenant")
def show(desk: OwnDesk) -> MemberOut:
    """Show the caller's roles and tenant."""
    tenant, standing = own.show(desk.scope, desk.now_us())
    identity, current, period = desk.identity, standing.current, standing.period
    return MemberOut(
        actor=identity.actor,
        kind=identity.kind,
        roles=sorted(identity.tenant_roles),
        may=may(identity.tenant_roles, TENANT_ROLES),
        tenant_id=tenant.id,
        tenant_name=tenant.name,
        state=tenant.state,
        currency=tenant.currency,
        timezone=tenant.timezone,
        plan_id=None if current is None else current.plan,
        period_start=None if period is None else from_us(period.start_us),
        period_end=None if period is None else from_us(period.end_us),
    )
