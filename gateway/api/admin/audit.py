"""/admin/audit: who changed what, when, from what to what. It is only read here; every other admin route writes it."""

import json
from datetime import datetime
from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import AwareDatetime, BaseModel, Field

from billing.audit.chain import Entry
from billing.operations import audit
from gateway.auth.admin import AdminDesk
from gateway.wire.instants import from_us, to_us
from gateway.wire.problems import problem_router

router = problem_router("/audit")


class EntryOut(BaseModel):
    """A change. `before` and `after` are the thing as the books have it: `*_ncr` nano-credits, `*_us` UTC epoch microseconds."""

    id: int = Field(description="1, 2, 3, ... without a gap, in the order in which the changes were made")
    at: datetime
    actor: str = Field(examples=["key:key_0123456789abcdef", "cli:anna", "weir"])
    action: str = Field(examples=["grant.add"])
    tenant_id: str | None
    subject: str = Field(description="the id of what was changed")
    before: Any = Field(description="null: it was not there")
    after: Any = Field(description="null: it is gone")
    prev_hash: str
    hash: str


class HeadOut(BaseModel):
    """The end of the chain: note `head` elsewhere, and give it to `weir audit verify --head` later. `id` 0: nothing was changed yet."""

    id: int
    hash: str
    head: str


@router.get("", summary="List changes")
def index(
    desk: AdminDesk,
    *,
    tenant_id: str | None = None,
    actor: str | None = None,
    action: Annotated[str | None, Query(description="one, like grant.add, or all of a noun, like grant")] = None,
    since: AwareDatetime | None = None,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
    limit: Annotated[int, Query(ge=1, le=audit.LIST_MAX)] = 100,
) -> list[EntryOut]:
    """List changes, the newest first; the next page is `before` the last id of this one."""
    since_us = None if since is None else to_us(since)
    found = audit.list_entries(desk.database, tenant_id=tenant_id, actor=actor, action=action, since_us=since_us, before=before, limit=limit)
    return [_out(entry) for entry in found]


@router.get("/head", summary="Show the end of the chain")
def head(desk: AdminDesk) -> HeadOut:
    """Show the last entry's number and hash, to be noted where nobody who can write the database can write."""
    found = audit.get_head(desk.database)
    return HeadOut(id=found.seq, hash=found.hash, head=str(found))


@router.get("/{seq}", summary="Show a change")
def show(seq: Annotated[int, Path(ge=1, le=2**63 - 1)], desk: AdminDesk) -> EntryOut:
    """Show one change."""
    return _out(audit.get_entry(desk.database, seq))


def _out(entry: Entry) -> EntryOut:
    return EntryOut(
        id=entry.seq,
        at=from_us(entry.at_us),
        actor=entry.actor,
        action=entry.action,
        tenant_id=entry.tenant_id,
        subject=entry.subject,
        before=None if entry.before is None else json.loads(entry.before),
        after=None if entry.after is None else json.loads(entry.after),
        prev_hash=entry.prev_hash,
        hash=entry.hash,
    )
