"""Projects: the parts of a tenant that its keys belong to, each with a share of the tenant's credits. Each function is one transaction."""

from collections.abc import Sequence

import msgspec
from sqlmodel import Session

from billing.audit.store import record
from billing.credits import store as accounts
from billing.db import Database
from billing.errors import NotFound
from billing.operations.pages import Page, check_limit, cut
from billing.operations.subscriptions import standings
from billing.operations.tenants import require_open, require_tenant
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
        require_open(session, tenant_id, now_us)
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
        return _shares(session, tenant_id, store.all_projects(session, tenant_id), now_us)


def page_projects(db: Database, tenant_id: str, *, limit: int, after: str = "", now_us: int) -> Page[Share]:
    """Return a page of a tenant's projects by name, those after one. Raises `Invalid` (limit) and `NotFound`."""
    check_limit(limit)
    with db.read() as session:
        require_tenant(session, tenant_id)
        found = _shares(session, tenant_id, store.projects_page(session, tenant_id, limit=limit + 1, after=after), now_us)
    return cut(found, limit, lambda share: share.project.name)


def get_project(db: Database, tenant_id: str, name: str, now_us: int) -> Share:
    """Return one project with its use of the period that is now. Raises `NotFound`."""
    with db.read() as session:
        require_tenant(session, tenant_id)
        found = store.get_project(session, tenant_id, name)
        if found is None:
            raise NotFound("project", name)
        return _shares(session, tenant_id, [found], now_us)[0]


def used_by(session: Session, spans: Sequence[tuple[str, str]], now_us: int) -> dict[tuple[str, str], int | None]:
    """Return what keys (tenant, "key:<id>") and projects (tenant, "project:<name>") used of their tenants' credits in the period that is now (ncr).

    None for a tenant without a period. What was served past the credits is not in it: a ceiling is of credits. Three queries, however many they are.
    """
    tenants = list(store.tenants_named(session, {tenant_id for tenant_id, _span in spans}).values())
    periods = {tenant_id: found.period for tenant_id, found in standings(session, tenants, now_us).items()}
    begun = [(tenant_id, span, period.start_us) for tenant_id, span in spans if (period := periods.get(tenant_id)) is not None]
    return dict.fromkeys(spans) | accounts.sums_at(session, begun)


def _shares(session: Session, tenant_id: str, projects: Sequence[Project], now_us: int) -> list[Share]:
    used = used_by(session, [(tenant_id, f"project:{project.name}") for project in projects], now_us)
    keys = store.keys_in_projects(session, tenant_id, [project.name for project in projects])
    return [Share(project=project, used_ncr=used[tenant_id, f"project:{project.name}"], keys=keys.get(project.name, 0)) for project in projects]
