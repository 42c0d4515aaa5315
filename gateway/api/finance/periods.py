"""/finance/periods: the months tenants are billed by, and closing those that are due."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from billing.operations import periods
from gateway.auth.admin import AdminDesk
from gateway.config.forms import Slug
from gateway.wire.instants import from_us
from gateway.wire.problems import problem_router

router = problem_router("/periods")


class PeriodOut(BaseModel):
    """A period: `open` until it ends, `draft` until `closes_at` while it takes late usage, then `closed`, and never changed."""

    tenant_id: str
    start_at: datetime
    end_at: datetime
    state: Literal["open", "draft", "closed"]
    closes_at: datetime
    closed_at: datetime | None
    close_seq: int | None = Field(description="the order of closing over all tenants")
    requests: int | None
    sha256: str | None


class ClosedOut(BaseModel):
    """How many periods of a tenant were closed."""

    closed: int


@router.get("/{tenant_id}", summary="List a tenant's periods")
def index(tenant_id: Slug, desk: AdminDesk) -> list[PeriodOut]:
    """List a tenant's periods that have begun, oldest first."""
    return [
        PeriodOut(
            tenant_id=one.tenant_id,
            start_at=from_us(one.start_us),
            end_at=from_us(one.end_us),
            state=one.state,
            closes_at=from_us(one.closes_us),
            closed_at=None if one.closed_us is None else from_us(one.closed_us),
            close_seq=one.close_seq,
            requests=one.events,
            sha256=one.sha256,
        )
        for one in periods.list_periods(desk.database, tenant_id, desk.now_us())
    ]


@router.post("/{tenant_id}/close", summary="Close a tenant's due periods")
def close(tenant_id: Slug, desk: AdminDesk) -> ClosedOut:
    """Close the periods of a tenant whose end and grace have passed, without waiting for the job that does it."""
    return ClosedOut(closed=periods.close_tenant(desk.database, tenant_id, desk.now_us()))
