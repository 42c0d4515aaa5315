"""/tenant/grants: the credits that the tenant was given, each with its own life."""

from datetime import datetime
from typing import Annotated

from fastapi import Query
from pydantic import BaseModel

from billing.grants.grant import Grant
from billing.money import format_credits
from billing.operations import own
from gateway.auth.tenant_side import OwnDesk
from gateway.wire.instants import from_us
from gateway.wire.problems import problem_router

router = problem_router("/grants")


class OwnGrant(BaseModel):
    """A grant in credits, decimal text: `credits` = `remaining` + `used` + `expired` + `voided`.

    `key_id`, `project`, `models`: only their requests may use it; null: any.
    """

    id: str
    kind: str
    credits: str
    remaining: str
    used: str
    expired: str
    voided: str
    effective_at: datetime
    expires_at: datetime | None
    key_id: str | None
    project: str | None
    models: list[str] | None


@router.get("", summary="List my tenant's grants")
def index(desk: OwnDesk, after: str = "", limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[OwnGrant]:
    """List grants in the order they are used up, void and expired ones too. The next page begins `after` the last id."""
    found = own.list_grants(desk.scope)
    start = next((index + 1 for index, grant in enumerate(found) if grant.id == after), 0)
    return [_out(grant) for grant in found[start : start + limit]]


def _out(grant: Grant) -> OwnGrant:
    return OwnGrant(
        id=grant.id,
        kind=grant.kind,
        credits=format_credits(grant.amount_ncr),
        remaining=format_credits(grant.remaining_ncr),
        used=format_credits(grant.used_ncr),
        expired=format_credits(grant.expired_ncr),
        voided=format_credits(grant.voided_ncr),
        effective_at=from_us(grant.effective_us),
        expires_at=None if grant.expires_us is None else from_us(grant.expires_us),
        key_id=grant.key_id,
        project=grant.project,
        models=None if grant.models is None else list(grant.models),
    )
