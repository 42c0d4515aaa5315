"""A tenant is closed for good: now or when its period ends; what it used stays in the books."""

import pytest

from billing.db import Database
from billing.errors import Conflict, Invalid, NotFound
from billing.jobs import run_jobs
from billing.operations import closing, grants, keys, plans, projects, subscriptions, tenants
from billing.operations.directory import find_principal
from billing.plans.terms import PlanTerms
from billing.tenants.keys import KeyHasher
from tests.clock import START_US

NOW = START_US
HASHER = KeyHasher(b"0123456789abcdef")
CREDIT = 10**9


@pytest.fixture
def acme(db: Database) -> Database:
    for plan, credits in (("pro", 1000), ("max", 4000)):
        plans.set_plan(db, PlanTerms(plan=plan, allowance_ncr=credits * CREDIT), NOW)
    tenants.create_tenant(db, id="acme", name="ACME", plan="pro", now_us=NOW)
    return db


def issue(db: Database, now_us: int = NOW) -> tuple[str, bytes]:
    made = keys.issue_key(db, HASHER, tenant_id="acme", now_us=now_us)
    return made.id, HASHER.digest(made.secret)


def test_one_closed_now_has_no_key_no_plan_and_no_way_back(acme: Database) -> None:
    (first, digest), (second, _) = issue(acme), issue(acme)
    keys.revoke_key(acme, second, NOW)
    grants.add_grant(acme, tenant_id="acme", amount_ncr=7 * CREDIT, now_us=NOW)
    done = closing.close_tenant(acme, "acme", NOW + 5)
    assert (done.keys, done.remaining_ncr, done.at_us) == (1, 7 * CREDIT, NOW + 5)
    assert "closed now, for good: 1 key is revoked and plan pro version 1 ends; 7 credits are left unused" in closing.in_words(done)
    assert {key.id: key.revoked_us for key in keys.list_keys(acme, "acme")} == {first: NOW + 5, second: NOW}
    assert tenants.get_tenant(acme, "acme").state_at(NOW + 5) == "closed"
    assert subscriptions.standing(acme, "acme", NOW + 5).current is None
    with acme.read() as session:
        found = find_principal(session, digest, NOW + 6)
    assert found is not None and (found.closed, found.active, found.terms) == (True, False, None)
    assert [grant.remaining_ncr for grant in grants.list_grants(acme, "acme")] == [7 * CREDIT]
    for again in (
        lambda: closing.close_tenant(acme, "acme", NOW + 7),
        lambda: tenants.set_state(acme, "acme", "active", NOW + 7),
        lambda: subscriptions.change_plan(acme, "acme", "max", NOW + 7),
        lambda: subscriptions.cancel_change(acme, "acme", NOW + 7),
        lambda: issue(acme, NOW + 7),
        lambda: grants.add_grant(acme, tenant_id="acme", amount_ncr=1, now_us=NOW + 7),
        lambda: projects.set_project(acme, "acme", "lab", ceiling_ncr=None, now_us=NOW + 7),
    ):
        with pytest.raises(Conflict, match="closed"):
            again()


def test_a_key_that_was_revoked_before_stays_unknown(acme: Database) -> None:
    key_id, digest = issue(acme)
    keys.revoke_key(acme, key_id, NOW + 1)
    closing.close_tenant(acme, "acme", NOW + 2)
    with acme.read() as session:
        assert find_principal(session, digest, NOW + 3) is None


def test_one_closed_at_its_periods_end_is_served_until_then_and_refused_from_then_on(acme: Database) -> None:
    key_id, digest = issue(acme)
    end_us = closing.close_tenant(acme, "acme", NOW, when="period-end").at_us
    with acme.read() as session:
        before, at = find_principal(session, digest, end_us - 1), find_principal(session, digest, end_us)
    assert before is not None and before.active and before.terms_until_us == end_us, "so that a gateway looks again at that instant"
    assert at is not None and at.closed
    assert keys.get_key(acme, key_id).revoked_us is None
    if acme.dialect == "sqlite":  # where no clock of the database's own contradicts the test's
        assert run_jobs(acme, end_us - 1)["close_tenants"] == 0
        assert run_jobs(acme, end_us + 9)["close_tenants"] == 1
        assert keys.get_key(acme, key_id).revoked_us == end_us
        assert run_jobs(acme, end_us + 9)["close_tenants"] == 0


def test_a_closing_that_is_to_come_is_taken_back_or_brought_forward(acme: Database) -> None:
    subscriptions.change_plan(acme, "acme", "max", NOW, when="period-end")
    planned = closing.close_tenant(acme, "acme", NOW, when="period-end")
    assert planned.cancelled is not None and planned.cancelled.plan == "max"
    with pytest.raises(Conflict, match="at that instant already"):
        closing.close_tenant(acme, "acme", NOW, when="period-end")
    with pytest.raises(Conflict, match="take that back first"):
        subscriptions.change_plan(acme, "acme", "max", NOW)
    assert subscriptions.cancel_change(acme, "acme", NOW).ended_us is None
    assert tenants.get_tenant(acme, "acme").closes_us is None
    assert subscriptions.standing(acme, "acme", planned.at_us).current is not None
    closing.close_tenant(acme, "acme", NOW, when="period-end")
    assert closing.close_tenant(acme, "acme", NOW + 1).at_us == NOW + 1


def test_what_cannot_be_closed_says_why(acme: Database) -> None:
    plans.set_plan(acme, PlanTerms(plan="later", allowance_ncr=CREDIT, activate_on_first_use=True), NOW)
    tenants.create_tenant(acme, id="idle", name="", plan="later", now_us=NOW)
    with pytest.raises(Invalid, match="in no period that could end"):
        closing.close_tenant(acme, "idle", NOW, when="period-end")
    with pytest.raises(Invalid, match="now or period-end"):
        closing.close_tenant(acme, "acme", NOW, when="soon")
    with pytest.raises(NotFound):
        closing.close_tenant(acme, "nobody", NOW)
    assert closing.close_tenant(acme, "idle", NOW).at_us == NOW


def test_a_rehearsal_sees_what_it_did_and_leaves_nothing_also_one_within_another(acme: Database) -> None:
    with acme.rehearsing() as outer:
        closing.close_tenant(outer, "acme", NOW)
        assert tenants.get_tenant(outer, "acme").closed(NOW)
        with pytest.raises(Conflict):
            closing.close_tenant(outer, "acme", NOW)
        with outer.rehearsing() as inner:
            tenants.create_tenant(inner, id="new", name="", plan="pro", now_us=NOW)
            assert tenants.has_tenant(inner, "new")
        assert not tenants.has_tenant(outer, "new")
        assert tenants.get_tenant(outer, "acme").closed(NOW), "the inner one undoes its own alone"
    assert tenants.get_tenant(acme, "acme").closes_us is None
