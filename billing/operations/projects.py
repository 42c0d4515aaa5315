"""Projects: the parts of a tenant that its keys belong to, each with a share of the tenant's credits. Each function is one transaction."""

import msgspec
from sqlmodel import Session

from billing.audit.store import record
from billing.credits import store as accounts
from billing.db import Database
from billing.grants.allowance import current_period
from billing.operations.tenants import require_tenant
from billing.tenants import store
from billing.tenants.tenant import Project, check_ceiling, check_project


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """A project with what its requests used of the tenant's credits in the period that is now (ncr; None: the tenant has no period), and its keys in use."""

    project: Project
    used_ncr: int | None
    keys: int


def set_project(db: Database, tenant_id: str, name: str, *, ceiling_ncr: int | None, now_us: int) -> Project:
    """Give a project its ceiling of credits a period, or none; a project that is not there is made. Raises `Invalid`, `NotFound` (tenant)."""
    check_project(name)
    check_ceiling(ceiling_ncr)
    wanted = Project(tenant_id=tenant_id, name=name, ceiling_ncr=ceiling_ncr, created_us=now_us)
    with db.write() as session:
        store.note_change(session, tenant_id, now_us)
        require_tenant(session, tenant_id)
        if store.add_project(session, wanted):
            record(session, now_us, action="project.create", tenant_id=tenant_id, subject=name, before=None, after=wanted)
            return wanted
        before = store.get_project(session, tenant_id, name)
        store.set_project_ceiling(session, tenant_id, name, ceiling_ncr)
        found = store.get_project(session, tenant_id, name)
        record(session, now_us, action="project.set", tenant_id=tenant_id, subject=name, before=before, after=found)
    assert found is not None, "the insert was refused because it is there, and projects are never deleted"
    return found


def list_projects(db: Database, tenant_id: str, now_us: int) -> list[Share]:
    """Return the projects of a tenant by name, each with its use of the period that is now. Raises `NotFound`."""
    with db.read() as session:
        require_tenant(session, tenant_id)
        projects = store.all_projects(session, tenant_id)
        used = used_now(session, tenant_id, [f"project:{project.name}" for project in projects], now_us)
        keys = [key.project for key in store.all_keys(session, tenant_id) if key.revoked_us is None]
    return [Share(project=project, used_ncr=used[f"project:{project.name}"], keys=keys.count(project.name)) for project in projects]


def used_now(session: Session, tenant_id: str, spans: list[str], now_us: int) -> dict[str, int | None]:
    """Return what keys ("key:<id>") and projects ("project:<name>") used of a tenant's credits in the period that is now (ncr).

    None for a tenant without a period. What was served past the credits is not in it: a ceiling is of credits.
    """
    period = current_period(session, tenant_id, now_us)
    if period is None:
        return dict.fromkeys(spans)
    return dict(accounts.sums_of(session, tenant_id, spans, period[1].start_us))
