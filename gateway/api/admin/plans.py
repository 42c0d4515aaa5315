"""/admin/plans: what a tenant is promised. A plan is never changed, only given a new version."""

from datetime import datetime

from billing.operations import plans
from billing.plans.terms import PlanVersion
from gateway.auth.admin import AdminDesk
from gateway.config.forms import PlanForm, Slug, plan_figures
from gateway.wire.instants import from_us
from gateway.wire.problems import problem_router

router = problem_router("/plans")


class PlanOut(PlanForm):
    """One version of a plan, and how many tenants are on it now."""

    id: str
    version: int
    tenants: int
    created_at: datetime


@router.put("/{plan_id}", summary="Write a plan or its next version")
def put(plan_id: Slug, body: PlanForm, desk: AdminDesk) -> PlanOut:
    """Write a plan, or its next version. Tenants keep the version they are on until they are moved."""
    version = plans.set_plan(desk.database, body.terms(plan_id), desk.now_us())
    desk.changed()
    return _out(version, {})


@router.get("", summary="List plans")
def index(desk: AdminDesk, all_versions: bool = False) -> list[PlanOut]:
    """List the newest version of every plan, or every version."""
    counts = plans.count_subscribers(desk.database, desk.now_us())
    return [_out(version, counts) for version in plans.list_plans(desk.database, all_versions=all_versions)]


@router.get("/{plan_id}", summary="Show a plan")
def show(plan_id: str, desk: AdminDesk) -> PlanOut:
    """Show the newest version of a plan."""
    return _out(plans.get_plan(desk.database, plan_id), plans.count_subscribers(desk.database, desk.now_us()))


def _out(version: PlanVersion, counts: dict[tuple[str, int], int]) -> PlanOut:
    plan = version.terms.plan
    return PlanOut(
        **plan_figures(version.terms), id=plan, version=version.version, tenants=counts.get((plan, version.version), 0), created_at=from_us(version.created_us)
    )
