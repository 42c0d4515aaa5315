"""Lists are read a page at a time: the right things in the right order, in a fixed number of statements that return no more rows than the page."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from billing.alerts.webhook import Webhook
from billing.db import Database
from billing.errors import Invalid, NotFound
from billing.grants.grant import burn_key
from billing.operations import closing, grants, keys, plans, profiles, projects, subscriptions, tenants, webhooks
from billing.operations.pages import Page
from billing.plans.terms import PlanTerms
from billing.tenants.keys import KeyHasher
from tests.clock import START_US

NOW = START_US
HASHER = KeyHasher(b"0123456789abcdef")
CREDIT = 10**9


class Counted:
    """The statements that ran."""

    def __init__(self) -> None:
        self.statements: list[str] = []


@contextmanager
def counting(db: Database) -> Generator[Counted]:
    counted = Counted()

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        counted.statements.append(statement)

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        yield counted
    finally:
        event.remove(db.engine, "before_cursor_execute", note)


def read_all(page: Callable[[str], Page[Any]]) -> list[Any]:
    """Read page after page until there is none."""
    found: list[Any] = []
    after: str | None = ""
    while after is not None:
        one = page(after)
        found += one.items
        after = one.after
    return found


@pytest.fixture
def many(db: Database) -> Database:
    for plan in ("pro", "max"):
        plans.set_plan(db, PlanTerms(plan=plan, allowance_ncr=1000 * CREDIT), NOW)
    for number in range(12):
        name = ("Zeta", "alpha 100%", "Beta_x")[number % 3]
        tenants.create_tenant(db, id=f"t{number:02}", name=name, plan="max" if number % 4 == 0 else "pro", now_us=NOW + number // 2)
    return db


@pytest.mark.parametrize("sort", tenants.SORTS)
@pytest.mark.parametrize("limit", [1, 5, 12, 100])
def test_the_pages_of_every_order_are_the_whole_list_once(many: Database, sort: str, limit: int) -> None:
    pages = read_all(lambda after: tenants.page_tenants(many, limit=limit, after=after, sort=sort, now_us=NOW))
    whole = {tenant.id: tenant for tenant in tenants.list_tenants(many)}
    assert sorted(tenant.id for tenant in pages) == sorted(whole)
    once = tenants.page_tenants(many, limit=1000, sort=sort, now_us=NOW).items
    assert [tenant.id for tenant in pages] == [tenant.id for tenant in once]
    if sort.endswith(("id", "created")):
        key = (lambda tenant: tenant.id) if sort.endswith("id") else (lambda tenant: (tenant.created_us, tenant.id))
        assert pages == sorted(whole.values(), key=key, reverse=sort.startswith("-"))


def test_a_page_costs_the_same_however_many_tenants_there_are(many: Database) -> None:
    def page() -> list[str]:
        with counting(many) as counted:
            found = tenants.page_tenants(many, limit=5, after="t03", sort="name", state="active", plan="pro", text="t", now_us=NOW)
            subscriptions.page_standings(many, found.items, NOW)
            profiles.page_profiles(many, found.items)
        assert len(found.items) <= 5
        return [statement for statement in counted.statements if "SELECT" in statement]

    page()  # the first connection says something of its own
    few = page()
    for number in range(12, 60):
        tenants.create_tenant(many, id=f"t{number:02}", name="Zeta", plan="pro", now_us=NOW)
    more = page()
    assert len(more) == len(few) == 5
    listing = [statement for statement in more if "FROM tenant " in statement.replace("\n", " ") and "ORDER BY" in statement]
    assert [" LIMIT " in statement.replace("\n", " ") for statement in listing] == [True], "and the database returns no more rows than a page has"


def test_tenants_are_found_by_state_plan_and_text(many: Database) -> None:
    def found(**asked: Any) -> list[str]:
        return [tenant.id for tenant in tenants.page_tenants(many, limit=100, now_us=NOW + 10, **asked).items]

    tenants.set_state(many, "t01", "suspended", NOW)
    closing.close_tenant(many, "t02", NOW + 10)
    closing.close_tenant(many, "t03", NOW + 10, when="period-end")
    assert found(state="suspended") == ["t01"]
    assert found(state="closed") == ["t02"]
    assert "t03" in found(state="active") and "t02" not in found(state="active")
    assert found(plan="max") == ["t00", "t04", "t08"]
    assert found(text="00%") == ["t01", "t04", "t07", "t10"], "a % is a %"
    assert found(text="eta_") == ["t02", "t05", "t08", "t11"]
    assert found(text="T11") == ["t11"]
    assert found(text="ALPHA", plan="max") == ["t04"]
    for wrong in ({"sort": "size"}, {"state": "asleep"}):
        with pytest.raises(Invalid):
            found(**wrong)
    for missing in ({"plan": "gold"}, {"sort": "name", "after": "x"}):
        with pytest.raises(NotFound):
            found(**missing)
    with pytest.raises(Invalid):
        tenants.page_tenants(many, limit=1001, now_us=NOW)


def test_pages_of_keys_projects_and_webhooks_are_the_whole_list_once(many: Database) -> None:
    for number in range(7):
        tenant = f"t{number % 2:02}"
        made = keys.issue_key(many, HASHER, tenant_id=tenant, project=f"p{number}", ceiling_ncr=CREDIT, now_us=NOW + number // 3)
        if number == 3:
            keys.revoke_key(many, made.id, NOW + 9)
        webhooks.add_webhook(many, HASHER, url=f"https://example.com/{number}", tenant_id=tenant, now_us=NOW)
    assert read_all(lambda after: keys.page_keys(many, limit=2, after=after)) == keys.list_keys(many)
    assert read_all(lambda after: keys.page_keys(many, limit=2, after=after, tenant_id="t00")) == keys.list_keys(many, "t00")
    assert [key.project for key in keys.page_keys(many, limit=9, revoked=True).items] == ["p3"]
    assert len(keys.page_keys(many, limit=9, revoked=False).items) == 6
    assert [key.tenant_id for key in keys.page_keys(many, limit=9, project="p4").items] == ["t00"]
    shares = read_all(lambda after: projects.page_projects(many, "t01", limit=2, after=after, now_us=NOW))
    assert shares == projects.list_projects(many, "t01", NOW)
    assert [(share.project.name, share.used_ncr, share.keys) for share in shares] == [("p1", 0, 1), ("p3", 0, 0), ("p5", 0, 1)]
    listed: list[Webhook] = read_all(lambda after: webhooks.page_webhooks(many, limit=3, after=after))
    assert listed == webhooks.list_webhooks(many)
    assert len(read_all(lambda after: webhooks.page_webhooks(many, limit=1, after=after, tenant_id="t01"))) == 3
    with counting(many) as counted:
        keys.ceiling_use(many, keys.list_keys(many), NOW)
    assert len([statement for statement in counted.statements if "SELECT" in statement]) == 4, "of keys of two tenants, as of one"


def test_a_tenants_grants_are_paged_in_the_order_they_burn(many: Database) -> None:
    key = keys.issue_key(many, HASHER, tenant_id="t00", project="lab", now_us=NOW).id
    kinds = ("topup", "promotion", "adjustment")
    for number in range(18):
        grants.add_grant(
            many,
            tenant_id="t00" if number else "t01",
            amount_ncr=CREDIT,
            kind=kinds[number % 3],
            priority=5 if number % 2 else None,
            expires_us=None if number % 5 else NOW + 10**12 + number % 2,
            key_id=key if number % 7 == 3 else None,
            project="lab" if number % 6 == 1 else None,
            id=f"g{number:02}",
            now_us=NOW,
        )
    paged = read_all(lambda after: grants.page_grants(many, "t00", limit=4, after=after))
    assert paged == sorted(grants.list_grants(many, "t00"), key=burn_key)
    every = read_all(lambda after: grants.page_grants(many, limit=5, after=after))
    assert [grant.id for grant in every] == [f"g{number:02}" for number in range(18)]
    with pytest.raises(NotFound):
        grants.page_grants(many, limit=5, after="none")
