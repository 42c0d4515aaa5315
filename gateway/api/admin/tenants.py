"""/admin/tenants: who is served, on which plan."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from fastapi import Query, Request, Response
from pydantic import AliasChoices, BaseModel, Field, model_validator

from billing.operations import subscriptions, tenants
from billing.tenants.tenant import Tenant
from gateway.auth.admin import AdminDesk, Desk
from gateway.auth.rehearsal import ChangingDesk
from gateway.config.forms import Currency, Form, Slug
from gateway.wire.instants import from_us
from gateway.wire.pages import show_next
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
    """What to change of a tenant: its state, its plan, or both. The anchor of its months stays."""

    state: Literal["active", "suspended"] | None = None
    plan_id: Slug | None = None
    when: str | None = Field(
        None,
        description="of `plan_id`: now, period-end, or the day in the tenant's zone on which a later period begins; absent: now, but a plan with fewer credits "
        "when the period ends",
        examples=["2027-01-10"],
    )

    @model_validator(mode="before")
    @classmethod
    def _keeps_its_calendar(cls, given: Any) -> Any:
        if isinstance(given, dict) and (fixed := {"timezone", "currency"} & given.keys()):
            raise ValueError(f"{min(fixed)} is chosen when a tenant is created and stays: its days, months and invoices are counted in it")
        return given

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.state is None and self.plan_id is None:
            raise ValueError("nothing to change: give `state` or `plan_id`")
        if self.when is not None and self.plan_id is None:
            raise ValueError("when: says when to move to `plan_id`, which is missing")
        return self


class NextPlan(BaseModel):
    """A change of plan that is to come."""

    plan_id: str
    plan_version: int
    starts_at: datetime


class TenantOut(BaseModel):
    """A tenant."""

    id: str
    name: str
    state: Literal["active", "suspended", "closed"]
    closes_at: datetime | None = Field(description="since when it is closed, or from when on it will be")
    plan_id: str | None
    plan_version: int | None
    period_start: datetime | None = Field(description="absent until the first request, where the plan's months begin with it")
    period_end: datetime | None
    next_plan: NextPlan | None
    currency: str
    timezone: str
    created_at: datetime


class TenantMoved(TenantOut):
    """A tenant after a change; `said` is what a change of its plan does, in words."""

    said: str | None


@router.post("", summary="Create a tenant", status_code=201)
def create(body: TenantNew, desk: AdminDesk) -> TenantOut:
    """Create a tenant on the newest version of a plan; its first month begins now, or with its first request where the plan says so."""
    made = tenants.create_tenant(
        desk.database, id=body.id, name=body.name, plan=body.plan_id, currency=body.currency, timezone=body.timezone, now_us=desk.now_us()
    )
    desk.changed()
    return _out(desk, made)


@router.get("", summary="List tenants")
def index(
    desk: AdminDesk,
    request: Request,
    response: Response,
    *,
    state: Literal["active", "suspended", "closed"] | None = None,
    plan_id: Annotated[str | None, Query(description="on this plan now, on any of its versions")] = None,
    text: Annotated[str, Query(description="a part of the id or the name, in any case", max_length=200)] = "",
    sort: Annotated[Literal["id", "name", "created", "-id", "-name", "-created"], Query(description="downwards with a - before it; ties by id")] = "id",
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[TenantOut]:
    """List tenants; the next page begins `after` the last id of this one, and where there is one, a `Link` with `rel="next"` names it."""
    now_us = desk.now_us()
    page = tenants.page_tenants(desk.database, limit=limit, after=after, sort=sort, state=state, plan=plan_id, text=text, now_us=now_us)
    show_next(request, response, page.after)
    found = subscriptions.page_standings(desk.database, page.items, now_us)
    return [TenantOut(**_figures(tenant, found[tenant.id], now_us)) for tenant in page.items]


@router.get("/{tenant_id}", summary="Show a tenant")
def show(tenant_id: str, desk: AdminDesk) -> TenantOut:
    """Show one tenant."""
    return _out(desk, tenants.get_tenant(desk.database, tenant_id))


@router.patch("/{tenant_id}", summary="Suspend, resume or move a tenant")
def change(tenant_id: str, body: TenantChange, desk: ChangingDesk) -> TenantMoved:
    """Suspend a tenant, make it active again, or move it to the newest version of a plan: more credits come at once, fewer when its period ends.

    A change that is still to come is replaced; naming the plan version that the tenant is on takes it back.
    """
    said = None
    if body.plan_id is not None:
        said = subscriptions.in_words(subscriptions.change_plan(desk.database, tenant_id, body.plan_id, desk.now_us(), when=body.when))
    if body.state is not None:
        tenants.set_state(desk.database, tenant_id=tenant_id, state=body.state, now_us=desk.now_us())
    desk.changed()
    return TenantMoved(**_out(desk, tenants.get_tenant(desk.database, tenant_id)).model_dump(), said=said)


@router.delete("/{tenant_id}/next-plan", summary="Take back a change of plan")
def stay(tenant_id: str, desk: ChangingDesk) -> TenantOut:
    """Take back the change of plan, or the closing, that is to come."""
    subscriptions.cancel_change(desk.database, tenant_id, desk.now_us())
    desk.changed()
    return _out(desk, tenants.get_tenant(desk.database, tenant_id))


def _out(desk: Desk, tenant: Tenant) -> TenantOut:
    now_us = desk.now_us()
    return TenantOut(**_figures(tenant, subscriptions.standing(desk.database, tenant.id, now_us), now_us))


def _figures(tenant: Tenant, found: subscriptions.Standing, now_us: int) -> dict[str, Any]:
    coming = found.next
    return {
        "id": tenant.id,
        "name": tenant.name,
        "state": tenant.state_at(now_us),
        "closes_at": None if tenant.closes_us is None else from_us(tenant.closes_us),
        "plan_id": found.current.plan if found.current else None,
        "plan_version": found.current.version if found.current else None,
        "period_start": from_us(found.period.start_us) if found.period else None,
        "period_end": from_us(found.period.end_us) if found.period else None,
        "next_plan": NextPlan(plan_id=coming.plan, plan_version=coming.version, starts_at=from_us(coming.started_us)) if coming else None,
        "currency": tenant.currency,
        "timezone": tenant.timezone,
        "created_at": from_us(tenant.created_us),
    }
