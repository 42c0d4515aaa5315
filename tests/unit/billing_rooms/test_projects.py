"""Projects and the ceilings of keys and projects: made, changed, refused, and in the change feed, on both engines."""

from collections.abc import Callable
from typing import Any

import pytest

from billing.credits import store as accounts
from billing.credits.store import Sum
from billing.db import Database
from billing.errors import Conflict, Invalid, NotFound
from billing.grants.allowance import current_period
from billing.operations import keys, plans, projects, tenants
from billing.plans.terms import PlanTerms
from billing.tenants import store
from billing.tenants.keys import KeyHasher
from billing.tenants.tenant import CEILING_NCR_MAX

NOW = 1_790_000_000_000_000
CREDIT = 10**9
HASHER = KeyHasher(b"pepper for the tests")


@pytest.fixture
def acme(db: Database) -> Database:
    """A database with tenants `acme` and `beta`."""
    plans.set_plan(db, PlanTerms(plan="free", allowance_ncr=100 * CREDIT), NOW)
    for tenant in ("acme", "beta"):
        tenants.create_tenant(db, id=tenant, name=tenant, plan="free", now_us=NOW)
    return db


def issue(db: Database, tenant: str = "acme", **more: Any) -> str:
    return keys.issue_key(db, HASHER, tenant_id=tenant, now_us=NOW, **more).id


def ceilings(db: Database, tenant: str = "acme") -> dict[str, int]:
    with db.read() as session:
        return store.ceilings(session, tenant)


def used(db: Database, tenant: str, **spans: int) -> None:
    """Book cover in the period that is now, as a flush does."""
    with db.write() as session:
        period = current_period(session, tenant, NOW)
        assert period is not None
        given = [(span.replace("_", ":", 1), cover) for span, cover in spans.items()]
        accounts.add_sums(session, [Sum(tenant_id=tenant, span=span, start_us=period[1].start_us, events=1, cover_ncr=cover) for span, cover in given])


def test_a_key_makes_its_project_once_and_a_project_keeps_its_ceiling(acme: Database) -> None:
    projects.set_project(acme, "acme", "search", ceiling_ncr=5 * CREDIT, now_us=NOW)
    issue(acme, project="search")
    issue(acme, project="chat")
    issue(acme, project="chat")
    found = [(share.project.name, share.project.ceiling_ncr, share.keys) for share in projects.list_projects(acme, "acme", NOW)]
    assert found == [("chat", None, 2), ("search", 5 * CREDIT, 1)]
    assert projects.list_projects(acme, "beta", NOW) == []


def test_ceilings_are_those_of_the_tenants_keys_and_projects_that_have_one(acme: Database) -> None:
    capped, _free, revoked = issue(acme, ceiling_ncr=7), issue(acme), issue(acme, ceiling_ncr=9)
    issue(acme, "beta", ceiling_ncr=11)
    projects.set_project(acme, "acme", "search", ceiling_ncr=0, now_us=NOW)
    projects.set_project(acme, "acme", "chat", ceiling_ncr=None, now_us=NOW)
    projects.set_project(acme, "beta", "search", ceiling_ncr=13, now_us=NOW)
    keys.revoke_key(acme, revoked, NOW)
    assert ceilings(acme) == {f"key:{capped}": 7, "project:search": 0}
    projects.set_project(acme, "acme", "search", ceiling_ncr=None, now_us=NOW)
    keys.limit_key(acme, capped, ceiling_ncr=None, now_us=NOW)
    assert ceilings(acme) == {}


def test_a_keys_limits_change_one_by_one(acme: Database) -> None:
    key = issue(acme, requests_per_minute=60, tokens_per_minute=1000, ceiling_ncr=5)
    assert keys.limit_key(acme, key, requests_per_minute=None, now_us=NOW).requests_per_minute is None
    changed = keys.limit_key(acme, key, ceiling_ncr=8, now_us=NOW)
    assert (changed.requests_per_minute, changed.tokens_per_minute, changed.ceiling_ncr) == (None, 1000, 8)
    assert [found for found in keys.list_keys(acme, "acme") if found.id == key] == [changed]


def test_what_was_used_is_the_cover_of_this_period(acme: Database) -> None:
    projects.set_project(acme, "acme", "search", ceiling_ncr=5, now_us=NOW)
    key = issue(acme, ceiling_ncr=9)
    used(acme, "acme", project_search=3)
    used(acme, "acme", **{f"key_{key}": 4})
    used(acme, "beta", project_search=90)
    listed = keys.list_keys(acme)
    assert [share.used_ncr for share in projects.list_projects(acme, "acme", NOW)] == [3]
    assert keys.ceiling_use(acme, listed, NOW) == {key: 4}
    later = NOW + 40 * 86_400_000_000
    assert [share.used_ncr for share in projects.list_projects(acme, "acme", later)] == [0]
    assert keys.ceiling_use(acme, listed, later) == {key: 0}


def test_every_change_of_a_ceiling_is_in_the_change_feed(acme: Database) -> None:
    key = issue(acme)
    with acme.read() as session:
        before = store.latest_change(session)
    projects.set_project(acme, "acme", "search", ceiling_ncr=5, now_us=NOW)
    projects.set_project(acme, "acme", "search", ceiling_ncr=6, now_us=NOW)
    keys.limit_key(acme, key, ceiling_ncr=6, now_us=NOW)
    with acme.read() as session:
        assert [(change.seq - before, change.tenant_id) for change in store.changes_since(session, before)] == [(1, "acme"), (2, "acme"), (3, "acme")]


@pytest.mark.parametrize("name", ["", " ", " a", "a ", "a\nb", "x" * 201])
def test_a_project_without_a_usable_name_is_refused(acme: Database, name: str) -> None:
    with pytest.raises(Invalid) as refused:
        projects.set_project(acme, "acme", name, ceiling_ncr=None, now_us=NOW)
    assert refused.value.field == "project"


@pytest.mark.parametrize(
    ("field", "refuse"),
    [
        ("ceiling", lambda db: projects.set_project(db, "acme", "p", ceiling_ncr=-1, now_us=NOW)),
        ("ceiling", lambda db: projects.set_project(db, "acme", "p", ceiling_ncr=CEILING_NCR_MAX + 1, now_us=NOW)),
        ("ceiling", lambda db: issue(db, ceiling_ncr=-1)),
        ("ceiling", lambda db: keys.limit_key(db, issue(db), ceiling_ncr=-1, now_us=NOW)),
        ("ceiling", lambda db: keys.issue_key(db, HASHER, kind="admin", ceiling_ncr=1, now_us=NOW)),
        ("ceiling", lambda db: keys.limit_key(db, keys.issue_key(db, HASHER, kind="admin", now_us=NOW).id, ceiling_ncr=1, now_us=NOW)),
        ("project", lambda db: keys.issue_key(db, HASHER, kind="admin", project="p", now_us=NOW)),
        ("project", lambda db: issue(db, project=" p")),
        ("requests_per_minute", lambda db: keys.limit_key(db, issue(db), requests_per_minute=0, now_us=NOW)),
        ("limits", lambda db: keys.limit_key(db, issue(db), now_us=NOW)),
    ],
)
def test_what_cannot_be_a_limit_is_refused_by_name(acme: Database, field: str, refuse: Callable[[Database], object]) -> None:
    with pytest.raises(Invalid) as refused:
        refuse(acme)
    assert refused.value.field == field


def test_what_is_not_there_or_revoked_is_refused(acme: Database) -> None:
    with pytest.raises(NotFound, match="no tenant"):
        projects.set_project(acme, "nobody", "p", ceiling_ncr=None, now_us=NOW)
    with pytest.raises(NotFound, match="no tenant"):
        projects.list_projects(acme, "nobody", NOW)
    with pytest.raises(NotFound, match="no key"):
        keys.limit_key(acme, "key_none", ceiling_ncr=1, now_us=NOW)
    key = issue(acme)
    keys.revoke_key(acme, key, NOW)
    with pytest.raises(Conflict, match="revoked"):
        keys.limit_key(acme, key, ceiling_ncr=1, now_us=NOW)
