"""/tenant/keys: the tenant's keys, which its managers list, issue and revoke; a secret is in the answer that issued it and nowhere else."""

from datetime import datetime
from typing import Annotated

from fastapi import Query
from pydantic import AwareDatetime, BaseModel, Field

from billing.money import format_credits, parse_credits
from billing.operations import own
from billing.tenants.tenant import Key
from gateway.auth.tenant_side import OwnDesk
from gateway.config.forms import Credits, Form
from gateway.wire.instants import from_us, to_us
from gateway.wire.problems import problem_router

router = problem_router("/keys")


class OwnKeyNew(Form):
    """A key that calls models. Limits left out are the plan's alone, a project that is not there is made."""

    name: str = Field("", max_length=200)
    project: str | None = Field(None, max_length=200)
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    ceiling: Credits | None = Field(None, description="the most of the tenant's credits that it may use in a period")
    expires_at: AwareDatetime | None = None


class OwnKey(BaseModel):
    """What is known of a key: one that calls models has no `role`. `hint` is its last characters, `used` what it used of its `ceiling` in this period."""

    id: str
    role: str | None
    name: str
    hint: str
    project: str | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    ceiling: str | None
    used: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class OwnKeyIssued(OwnKey):
    """A key with its secret, for the only time."""

    secret: str


@router.get("", summary="List my tenant's keys")
def index(desk: OwnDesk, after: str = "", limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[OwnKey]:
    """List keys, oldest first, revoked ones too. The next page begins `after` the last id."""
    found = own.list_keys(desk.scope)
    start = next((index + 1 for index, key in enumerate(found) if key.id == after), 0)
    page = found[start : start + limit]
    used = own.ceiling_use(desk.scope, page, desk.now_us())
    return [_out(key, used.get(key.id)) for key in page]


@router.post("", summary="Issue a key of my tenant", status_code=201)
def issue(body: OwnKeyNew, desk: OwnDesk) -> OwnKeyIssued:
    """Issue a key that calls models. Keep `secret`: it cannot be shown again."""
    wish = own.Wish(
        name=body.name,
        project=body.project,
        requests_per_minute=body.requests_per_minute,
        tokens_per_minute=body.tokens_per_minute,
        ceiling_ncr=None if body.ceiling is None else parse_credits(body.ceiling),
        expires_us=None if body.expires_at is None else to_us(body.expires_at),
    )
    issued = own.issue_key(desk.scope, desk.hasher, wish, desk.now_us())
    desk.changed()
    return OwnKeyIssued(**_out(issued.key, None).model_dump(), secret=issued.secret)


@router.delete("/{key_id}", summary="Revoke a key of my tenant")
def revoke(key_id: str, desk: OwnDesk) -> OwnKey:
    """Revoke a key for good; it is refused everywhere within a second."""
    revoked = own.revoke_key(desk.scope, key_id, desk.now_us())
    desk.changed()
    return _out(revoked, None)


def _out(key: Key, used_ncr: int | None) -> OwnKey:
    return OwnKey(
        id=key.id,
        role=key.role,
        name=key.name,
        hint=key.hint,
        project=key.project,
        requests_per_minute=key.requests_per_minute,
        tokens_per_minute=key.tokens_per_minute,
        ceiling=None if key.ceiling_ncr is None else format_credits(key.ceiling_ncr),
        used=None if used_ncr is None else format_credits(used_ncr),
        created_at=from_us(key.created_us),
        expires_at=None if key.expires_us is None else from_us(key.expires_us),
        revoked_at=None if key.revoked_us is None else from_us(key.revoked_us),
    )
