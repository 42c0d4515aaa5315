"""/admin/projects: the parts of a tenant that its keys belong to, and their ceilings."""

from datetime import datetime
from typing import Annotated

from fastapi import Query, Request, Response
from pydantic import BaseModel, Field

from billing.money import format_credits, parse_credits
from billing.operations import projects
from billing.operations.projects import Share
from gateway.auth.admin import AdminDesk
from gateway.config.forms import Credits, Form
from gateway.wire.instants import from_us
from gateway.wire.pages import show_next
from gateway.wire.problems import problem_router

router = problem_router("/projects")


class ProjectSet(Form):
    """A project as it shall be; without a ceiling it may use what its tenant has."""

    ceiling: Credits | None = Field(None, description="the most of the tenant's credits that its keys may use in a period, together")


class ProjectOut(BaseModel):
    """A project; `used` is what it used of the tenant's credits in this period, `keys` how many are not revoked."""

    tenant_id: str
    name: str
    ceiling: str | None
    used: str | None
    keys: int
    created_at: datetime


@router.get("", summary="List projects")
def index(
    desk: AdminDesk, request: Request, response: Response, *, tenant_id: str, after: str = "", limit: Annotated[int, Query(ge=1, le=1000)] = 1000
) -> list[ProjectOut]:
    """List a tenant's projects by name. The next page begins `after` the last name, and a `Link` with `rel="next"` names it."""
    page = projects.page_projects(desk.database, tenant_id, limit=limit, after=after, now_us=desk.now_us())
    show_next(request, response, page.after)
    return [_out(share) for share in page.items]


@router.put("/{tenant_id}/{name:path}", summary="Write a project")
def write(tenant_id: str, name: str, body: ProjectSet, desk: AdminDesk) -> ProjectOut:
    """Write a project: it is made where it is not there, and has this ceiling from now on. Running gateways follow within a second."""
    ceiling_ncr = None if body.ceiling is None else parse_credits(body.ceiling)
    projects.set_project(desk.database, tenant_id, name, ceiling_ncr=ceiling_ncr, now_us=desk.now_us())
    desk.changed()
    return _out(projects.get_project(desk.database, tenant_id, name, desk.now_us()))


def _out(share: Share) -> ProjectOut:
    project = share.project
    return ProjectOut(
        tenant_id=project.tenant_id,
        name=project.name,
        ceiling=None if project.ceiling_ncr is None else format_credits(project.ceiling_ncr),
        used=None if share.used_ncr is None else format_credits(share.used_ncr),
        keys=share.keys,
        created_at=from_us(project.created_us),
    )
