"""/tenant/projects: the parts of the tenant, and what each used of its credits in this period."""

from pydantic import BaseModel

from billing.money import format_credits
from billing.operations import own
from gateway.auth.tenant_side import OwnDesk
from gateway.wire.problems import problem_router

router = problem_router("/projects")


class OwnProject(BaseModel):
    """A project. `used` of its `ceiling` in this period, in credits, decimal text; `keys` are those in use."""

    name: str
    ceiling: str | None
    used: str | None
    keys: int


@router.get("", summary="List my tenant's projects")
def index(desk: OwnDesk) -> list[OwnProject]:
    """List the projects by name."""
    return [
        OwnProject(
            name=share.project.name,
            ceiling=None if share.project.ceiling_ncr is None else format_credits(share.project.ceiling_ncr),
            used=None if share.used_ncr is None else format_credits(share.used_ncr),
            keys=share.keys,
        )
        for share in own.list_projects(desk.scope, desk.now_us())
    ]
