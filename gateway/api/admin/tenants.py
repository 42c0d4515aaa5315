"""/admin/tenants: who is served, on which plan."""

from datetime import datetime
from typing import Annotated, Literal, Self

from fastapi import Query
from pydantic import AliasChoices, BaseModel, Field, model_validator

from billing.operations import tenants
from billing.tenants.tenant import Tenant
from gateway.auth.admin import AdminDesk, Desk
from gateway.config.forms import Currency, Form, Slug
from gateway.wire.instants import from_us
from gateway.wire.problems import problem_router

router = problem_router("/tenants")


class TenantNew(Form):
    """A tenant to create. Its own `id` may also be called `tenant_id`, as it is wherever something else refers to it."""

    id: Slug = Field(validation_alias=AliasChoices("id", "tenant_id"))
    plan_id: Slug
    name: str = Field("", max_length=200)
    currency: Currency = "USD"
    timezone: str = Field("UTC", description="whose calendar its days and months follow, like Europe/Berlin")


class TenantChange(Form):
    """What to change of a tenant: its state, its plan (from now on, with its months counted from now), or both."""

    state: Literal["active", "suspended"] | None = None
    plan_id: Slug | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.state is None and self.plan_id is None:
            raise ValueError("nothing to change: give `state` or `plan_id`")
        return self


class TenantOut(BaseModel):
    """A tenant."""

    id: str
    name: str
    state: Literal["active", "suspended"]
    plan_id: str | None
    plan_version: int | None
    currency: str
    timezone: str
    created_at: datetime


@router.post("", summary="Create a tenant", status_code=201)
def create(body: TenantNew, desk: AdminDesk) -> TenantOut:
    """Create a tenant on the newest version of a plan; its first month begins now."""
    made = tenants.create_tenant(
        desk.database, id=body.id, name=body.name, plan=body.plan_id, currency=body.currency, timezone=body.timezone, now_us=desk.now_us()
    )
    desk.changed()
    return _out(desk, made)


@router.get("", summary="List tenants")
def index(desk: AdminDesk, after: str = "", limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[TenantOut]:
    """List tenants by id; the next page begins `after` the last id of this one."""
    page = [tenant for tenant in tenants.list_tenants(desk.database) if tenant.id > after][:limit]
    return [_out(desk, tenant) for tenant in page]


@router.get("/{tenant_id}", summary="Show a tenant")
def show(tenant_id: str, desk: AdminDesk) -> TenantOut:
    """Show one tenant."""
    return _out(desk, tenants.get_tenant(desk.database, tenant_id))


@router.patch("/{tenant_id}", summary="Suspend, resume or move a tenant")
def change(tenant_id: str, body: TenantChange, desk: AdminDesk) -> TenantOut:
    """Suspend a tenant, make it active again, or move it to the newest version of a plan: a new month begins now, the old allowance ends."""
    if body.plan_id is not None:
        tenants.change_plan(desk.database, tenant_id=tenant_id, plan=body.plan_id, now_us=desk.now_us())
    if body.state is not None:
        tenants.set_state(desk.database, tenant_id=tenant_id, state=body.state, now_us=desk.now_us())
    desk.changed()
    return _out(desk, tenants.get_tenant(desk.database, tenant_id))


def _out(desk: Desk, tenant: Tenant) -> TenantOut:
    subscription = tenants.current_subscription(desk.database, tenant.id, desk.now_us())
    return TenantOut(
        id=tenant.id,
        name=tenant.name,
        state="active" if tenant.state == "active" else "suspended",
        plan_id=subscription.plan if subscription else None,
        plan_version=subscription.version if subscription else None,
        currency=tenant.currency,
        timezone=tenant.timezone,
        created_at=from_us(tenant.created_us),
    )
