"""/admin/keys: issue (the secret is in that one answer and nowhere else), list, limit, revoke."""

from datetime import datetime
from typing import Annotated, Literal, Self

from fastapi import Query, Request, Response
from msgspec import UNSET, UnsetType
from pydantic import AwareDatetime, BaseModel, Field, model_validator

from billing.money import format_credits, parse_credits
from billing.operations import keys
from billing.tenants.tenant import Key
from gateway.auth.admin import AdminDesk, Desk
from gateway.auth.roles import OPERATORS
from gateway.config.forms import Credits, Form, Slug
from gateway.wire.instants import from_us, to_us
from gateway.wire.pages import show_next
from gateway.wire.problems import problem_router

router = problem_router("/keys")


class KeyNew(Form):
    """A key to issue. A tenant's names its tenant; an admin's has none. Limits left out are the plan's alone, a project that is not there is made.

    `tenant` keys call models under /v1; `staff` keys open /tenant for their tenant's own people; `admin` keys open /admin and /finance.
    """

    kind: Literal["tenant", "staff", "admin"] = "tenant"
    role: Literal["owner", "admin", "finance", "viewer", "manager", "member"] | None = Field(
        None, description="admin: owner (absent), admin, finance or viewer; staff: manager or member; a key that calls models has none"
    )
    tenant_id: Slug | None = None
    name: str = Field("", max_length=200)
    project: str | None = Field(None, max_length=200)
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    ceiling: Credits | None = Field(
        None, description="the most of the tenant's credits that it may use in a period; past them it is as a tenant past its credits"
    )
    expires_at: AwareDatetime | None = None


class KeyLimits(Form):
    """Limits to change: a number sets one, null lifts it, one left out stays."""

    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    ceiling: Credits | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("nothing to change: give `requests_per_minute`, `tokens_per_minute` or `ceiling`")
        return self


class KeyOut(BaseModel):
    """What is known of a key. `hint` is its last characters, `used` what it used of its `ceiling` in this period (null without one)."""

    id: str
    kind: str
    role: str | None
    tenant_id: str | None
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


class KeyIssued(KeyOut):
    """A key with its secret, for the only time."""

    secret: str


@router.post("", summary="Issue a key", status_code=201)
def issue(body: KeyNew, desk: AdminDesk) -> KeyIssued:
    """Issue a key. Keep `secret`: it cannot be shown again. Operators' keys are issued and revoked by owners alone."""
    if body.kind == "admin":
        desk.require(OPERATORS)
    issued = keys.issue_key(
        desk.database,
        desk.hasher,
        tenant_id=body.tenant_id,
        kind=body.kind,
        role=body.role,
        name=body.name,
        project=body.project,
        requests_per_minute=body.requests_per_minute,
        tokens_per_minute=body.tokens_per_minute,
        ceiling_ncr=None if body.ceiling is None else parse_credits(body.ceiling),
        expires_us=None if body.expires_at is None else to_us(body.expires_at),
        now_us=desk.now_us(),
    )
    desk.changed()
    return KeyIssued(**_out(issued.key, None).model_dump(), secret=issued.secret)


@router.get("", summary="List keys")
def index(
    desk: AdminDesk,
    request: Request,
    response: Response,
    *,
    tenant_id: str | None = None,
    project: str | None = None,
    revoked: Annotated[bool | None, Query(description="only those that are, or are not; left out: both")] = None,
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[KeyOut]:
    """List keys, oldest first: of one tenant, or all with the admins'. The next page begins `after` the last id, and a `Link` with `rel="next"` names it."""
    page = keys.page_keys(desk.database, limit=limit, tenant_id=tenant_id, after=after, project=project, revoked=revoked)
    show_next(request, response, page.after)
    used = keys.ceiling_use(desk.database, page.items, desk.now_us())
    return [_out(key, used.get(key.id)) for key in page.items]


@router.patch("/{key_id}", summary="Change a key's limits")
def change(key_id: str, body: KeyLimits, desk: AdminDesk) -> KeyOut:
    """Change a key's limits; running gateways follow within a second."""
    _require_for(desk, key_id)
    given = body.model_fields_set
    ceiling: int | UnsetType | None = UNSET
    if "ceiling" in given:
        ceiling = None if body.ceiling is None else parse_credits(body.ceiling)
    changed = keys.limit_key(
        desk.database,
        key_id,
        requests_per_minute=body.requests_per_minute if "requests_per_minute" in given else UNSET,
        tokens_per_minute=body.tokens_per_minute if "tokens_per_minute" in given else UNSET,
        ceiling_ncr=ceiling,
        now_us=desk.now_us(),
    )
    desk.changed()
    return _out(changed, keys.ceiling_use(desk.database, [changed], desk.now_us()).get(key_id))


@router.delete("/{key_id}", summary="Revoke a key")
def revoke(key_id: str, desk: AdminDesk) -> KeyOut:
    """Revoke a key for good; it is refused everywhere within a second."""
    _require_for(desk, key_id)
    revoked = keys.revoke_key(desk.database, key_id, desk.now_us())
    desk.changed()
    return _out(revoked, None)


def _require_for(desk: Desk, key_id: str) -> None:
    if keys.get_key(desk.database, key_id).kind == "admin":
        desk.require(OPERATORS)


def _out(key: Key, used_ncr: int | None) -> KeyOut:
    return KeyOut(
        id=key.id,
        kind=key.kind,
        role=key.role,
        tenant_id=key.tenant_id,
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
