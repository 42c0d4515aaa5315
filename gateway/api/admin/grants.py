"""/admin/grants: credits given beside the plan's monthly allowance, each with its own life."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import Query, Request, Response
from pydantic import AwareDatetime, BaseModel, Field

from billing.grants.grant import Grant
from billing.money import format_credits, parse_credits, parse_money
from billing.operations import grants
from billing.operations.tenants import get_tenant
from gateway.auth.admin import AdminDesk
from gateway.auth.rehearsal import ChangingDesk
from gateway.config.forms import Form, PositiveCredits, PublicName, Slug
from gateway.wire.instants import from_us, to_us
from gateway.wire.pages import show_next
from gateway.wire.problems import problem_router

router = problem_router("/grants")


class GrantNew(Form):
    """Credits to give. Name an `id` where the call may be made twice: the second is a conflict, and gives nothing."""

    tenant_id: Slug
    credits: PositiveCredits
    kind: Literal["topup", "promotion", "adjustment"] = "topup"
    id: str | None = Field(None, min_length=1, max_length=100)
    priority: int | None = Field(None, ge=-1000, le=1000, description="lower burns first; absent: by kind")
    effective_at: AwareDatetime | None = None
    expires_at: AwareDatetime | None = None
    price: str | None = Field(None, description="sells them: a line on the invoice, in the tenant's currency", examples=["49.00"])
    note: str = Field("", max_length=500)
    key_id: str | None = Field(None, description="only requests of this key may use it")
    project: str | None = Field(None, description="only requests of this project's keys may use it")
    models: list[PublicName] | None = Field(None, min_length=1, max_length=100, description="only requests for these models may use it")


class GrantOut(BaseModel):
    """A grant, and what became of it, in credits, decimal text: `credits` = `remaining` + `used` + `expired` + `voided`."""

    id: str
    tenant_id: str
    kind: str
    credits: str
    remaining: str
    used: str
    expired: str
    voided: str
    priority: int
    effective_at: datetime
    expires_at: datetime | None
    voided_at: datetime | None
    note: str
    key_id: str | None
    project: str | None
    models: list[str] | None


@router.post("", summary="Give a tenant credits", status_code=201)
def create(body: GrantNew, desk: ChangingDesk) -> GrantOut:
    """Give a tenant credits, or sell it some."""
    made = grants.add_grant(
        desk.database,
        tenant_id=body.tenant_id,
        amount_ncr=parse_credits(body.credits),
        kind=body.kind,
        id=body.id,
        priority=body.priority,
        effective_us=None if body.effective_at is None else to_us(body.effective_at),
        expires_us=None if body.expires_at is None else to_us(body.expires_at),
        note=body.note,
        key_id=body.key_id,
        project=body.project,
        models=body.models,
        price_minor=None if body.price is None else parse_money(body.price, get_tenant(desk.database, body.tenant_id).currency, "price"),
        now_us=desk.now_us(),
    )
    desk.changed()
    return _out(made)


@router.get("", summary="List grants")
def index(
    desk: AdminDesk,
    request: Request,
    response: Response,
    *,
    tenant_id: str | None = None,
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[GrantOut]:
    """List a tenant's grants in the order they are used up, or all grants by id; void and expired ones too.

    The next page begins `after` the last id, and a `Link` with `rel="next"` names it.
    """
    page = grants.page_grants(desk.database, tenant_id, limit=limit, after=after)
    show_next(request, response, page.after)
    return [_out(grant) for grant in page.items]


@router.delete("/{grant_id}", summary="Void a grant")
def void(grant_id: str, desk: ChangingDesk) -> GrantOut:
    """Take back what is left of a grant; what was used stays used."""
    voided = grants.void_grant(desk.database, grant_id, desk.now_us())
    desk.changed()
    return _out(voided)


def _out(grant: Grant) -> GrantOut:
    return GrantOut(
        id=grant.id,
        tenant_id=grant.tenant_id,
        kind=grant.kind,
        credits=format_credits(grant.amount_ncr),
        remaining=format_credits(grant.remaining_ncr),
        used=format_credits(grant.used_ncr),
        expired=format_credits(grant.expired_ncr),
        voided=format_credits(grant.voided_ncr),
        priority=grant.priority,
        effective_at=from_us(grant.effective_us),
        expires_at=None if grant.expires_us is None else from_us(grant.expires_us),
        voided_at=None if grant.voided_us is None else from_us(grant.voided_us),
        note=grant.note,
        key_id=grant.key_id,
        project=grant.project,
        models=None if grant.models is None else list(grant.models),
    )
