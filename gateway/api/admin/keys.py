"""/admin/keys: issue (the secret is in that one answer and nowhere else), list, revoke."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import Query
from pydantic import AwareDatetime, BaseModel, Field

from billing.operations import keys
from billing.tenants.tenant import Key
from gateway.auth.admin import AdminDesk
from gateway.config.forms import Form, Slug
from gateway.wire.instants import from_us, to_us
from gateway.wire.problems import problem_router

router = problem_router("/keys")


class KeyNew(Form):
    """A key to issue. A tenant's names its tenant; an admin's has none. Limits left out are the plan's alone."""

    kind: Literal["tenant", "admin"] = "tenant"
    tenant_id: Slug | None = None
    name: str = Field("", max_length=200)
    project: str | None = Field(None, max_length=200)
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    expires_at: AwareDatetime | None = None


class KeyOut(BaseModel):
    """What is known of a key. `hint` is its last characters."""

    id: str
    kind: str
    tenant_id: str | None
    name: str
    hint: str
    project: str | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class KeyIssued(KeyOut):
    """A key with its secret, for the only time."""

    secret: str


@router.post("", summary="Issue a key", status_code=201)
def issue(body: KeyNew, desk: AdminDesk) -> KeyIssued:
    """Issue a key. Keep `secret`: it cannot be shown again."""
    issued = keys.issue_key(
        desk.database,
        desk.hasher,
        tenant_id=body.tenant_id,
        kind=body.kind,
        name=body.name,
        project=body.project,
        requests_per_minute=body.requests_per_minute,
        tokens_per_minute=body.tokens_per_minute,
        expires_us=None if body.expires_at is None else to_us(body.expires_at),
        now_us=desk.now_us(),
    )
    desk.changed()
    return KeyIssued(**_out(issued.key).model_dump(), secret=issued.secret)


@router.get("", summary="List keys")
def index(desk: AdminDesk, tenant_id: str | None = None, after: str = "", limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[KeyOut]:
    """List keys, oldest first, revoked ones too: of one tenant, or all with the admins'. The next page begins `after` the last id."""
    found = keys.list_keys(desk.database, tenant_id)
    start = next((index + 1 for index, key in enumerate(found) if key.id == after), 0)
    return [_out(key) for key in found[start : start + limit]]


@router.delete("/{key_id}", summary="Revoke a key")
def revoke(key_id: str, desk: AdminDesk) -> KeyOut:
    """Revoke a key for good; it is refused everywhere within a second."""
    revoked = keys.revoke_key(desk.database, key_id, desk.now_us())
    desk.changed()
    return _out(revoked)


def _out(key: Key) -> KeyOut:
    return KeyOut(
        id=key.id,
        kind=key.kind,
        tenant_id=key.tenant_id,
        name=key.name,
        hint=key.hint,
        project=key.project,
        requests_per_minute=key.requests_per_minute,
        tokens_per_minute=key.tokens_per_minute,
        created_at=from_us(key.created_us),
        expires_at=None if key.expires_us is None else from_us(key.expires_us),
        revoked_at=None if key.revoked_us is None else from_us(key.revoked_us),
    )
