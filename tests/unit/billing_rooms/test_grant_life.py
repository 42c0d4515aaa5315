"""Grants for a key, a project or some models, and how a grant ends: void, or expired and posted; on both engines."""

from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from threading import Barrier
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import text

from billing import jobs
from billing.credits import store as accounts
from billing.db import Database
from billing.errors import BooksUnavailable, Invalid
from billing.grants import store
from billing.grants.allowance import ensure_allowance
from billing.grants.grant import Grant, purse_of
from billing.jobs import expire_grants, run_jobs
from billing.ledger.store import balances, unbalanced
from billing.operations import grants, keys, plans, projects, tenants
from billing.plans.terms import PlanTerms
from billing.tenants.keys import KeyHasher
from billing.tenants.store import note_change
from billing.usage.verify import verify
from billing.usage.writer import book
from tests.books import event

NOW = 1_790_000_000_000_000
HOUR = 3_600_000_000
DAY = 24 * HOUR
GRACE = expire_grants.GRACE_US
HASHER = KeyHasher(b"pepper for the tests")


@pytest.fixture(autouse=True)
def _time_is_what_the_test_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "CLOCK_OFF_US_MAX", 10**18)


@pytest.fixture
def acme(db: Database) -> Database:
    """A database with tenants `acme` and `beta`, on plans without an allowance."""
    plans.set_plan(db, PlanTerms(plan="payg"), NOW)
    for tenant in ("acme", "beta"):
        tenants.create_tenant(db, id=tenant, name=tenant, plan="payg", now_us=NOW)
    return db


def give(db: Database, amount_ncr: int = 100, **more: Any) -> Grant:
    wanted: dict[str, Any] = {"tenant_id": "acme", "now_us": NOW} | more
    return grants.add_grant(db, amount_ncr=amount_ncr, **wanted)


def issue(db: Database, **more: Any) -> str:
    wanted: dict[str, Any] = {"tenant_id": "acme", "now_us": NOW} | more
    return keys.issue_key(db, HASHER, **wanted).id


def get(db: Database, grant_id: str) -> Grant:
    with db.read() as session:
        found = store.get_grant(session, grant_id)
    assert found is not None
    return found


def parts(grant: Grant) -> tuple[int, int, int, int]:
    return grant.remaining_ncr, grant.used_ncr, grant.expired_ncr, grant.voided_ncr


def problems(db: Database) -> list[str]:
    with db.read() as session:
        return verify(session) + [str(found) for found in unbalanced(session)]


def test_a_grant_keeps_its_scope(acme: Database) -> None:
    key = issue(acme, project="search")
    given = give(acme, id="g", key_id=key, project="search", models=["b", "a", "b"])
    assert get(acme, "g") == given
    assert (given.key_id, given.project, given.models) == (key, "search", ("a", "b"))
    assert purse_of(given) == f"key:{key};project:search;models:a,b"
    with acme.read() as session:
        assert store.current_grants(session, "acme", NOW) == [given]


def refusals(db: Database) -> list[tuple[str, str, dict[str, Any]]]:
    projects.set_project(db, "beta", "theirs", ceiling_ncr=None, now_us=NOW)
    projects.set_project(db, "acme", "chat", ceiling_ncr=None, now_us=NOW)
    revoked, mine = issue(db), issue(db, project="search")
    keys.revoke_key(db, revoked, NOW)
    return [
        ("key_id", "has no key", {"key_id": "key_none"}),
        ("key_id", "has no key", {"key_id": issue(db, tenant_id="beta")}),
        ("key_id", "has no key", {"key_id": issue(db, tenant_id=None, kind="admin")}),
        ("key_id", "nobody could use", {"key_id": revoked}),
        ("key_id", "nobody could use", {"key_id": issue(db, expires_us=NOW + DAY), "effective_us": NOW + DAY}),
        ("project", "has no project", {"project": "none"}),
        ("project", "has no project", {"project": "theirs"}),
        ("project", "has no project", {"project": ""}),
        ("project", "is of project `search`", {"project": "chat", "key_id": mine}),
        ("models", "1 to 100", {"models": []}),
        ("models", "1 to 100", {"models": [f"m{number}" for number in range(101)]}),
        ("models", "no model's name", {"models": ["a", "b c"]}),
        ("models", "no model's name", {"models": [""]}),
        ("expires_us", "has passed", {"expires_us": NOW}),
        ("expires_us", "ends before it begins", {"effective_us": NOW + 5, "expires_us": NOW + 5}),
    ]


def test_a_grant_that_nobody_could_use_is_refused_by_name_and_nothing_is_given(acme: Database) -> None:
    for field, says, scope in refusals(acme):
        with pytest.raises(Invalid, match=says) as refused:
            give(acme, **scope)
        assert refused.value.field == field, scope
    assert grants.list_grants(acme) == []


def test_a_void_takes_what_is_left_and_the_books_agree(acme: Database) -> None:
    give(acme, id="g")
    with acme.write() as session:
        book(session, [event(1, 30, started_us=NOW)], NOW)
    assert parts(grants.void_grant(acme, "g", NOW + 1)) == parts(get(acme, "g")) == (0, 30, 0, 70)
    assert problems(acme) == []
    with acme.read() as session:
        books = balances(session)
    assert (books[("acme", "issued")], books[("acme", "grant:g")], books[("acme", "consumed")]) == (-30, 0, 30)


def test_what_is_left_is_posted_once_the_grace_is_over_and_not_before(acme: Database) -> None:
    give(acme, id="g", expires_us=NOW + DAY)
    with acme.write() as session:
        book(session, [event(1, 30, started_us=NOW)], NOW)
    assert run_jobs(acme, NOW + DAY + GRACE - 1)["expire_grants"] == 0
    assert parts(get(acme, "g")) == (70, 30, 0, 0)
    assert run_jobs(acme, NOW + DAY + GRACE)["expire_grants"] == 1
    assert parts(get(acme, "g")) == (0, 30, 70, 0)
    assert run_jobs(acme, NOW + 2 * DAY + GRACE)["expire_grants"] == 0
    assert problems(acme) == []
    with acme.read() as session:
        books = balances(session)
    assert (books[("acme", "expired")], books[("acme", "grant:g")], books[("acme", "issued")]) == (70, 0, -100)


def test_a_grant_that_was_never_used_is_issued_and_expired(acme: Database) -> None:
    with acme.write() as session:
        store.insert_grant(session, grant_of("plan:1", 40))
    assert run_jobs(acme, NOW + DAY + GRACE)["expire_grants"] == 1
    assert problems(acme) == []
    with acme.read() as session:
        books = balances(session)
    assert (books[("acme", "expired")], books[("acme", "issued")]) == (40, -40)


def grant_of(grant_id: str, amount_ncr: int, tenant: str = "acme") -> Grant:
    return Grant(
        id=grant_id, tenant_id=tenant, kind="topup", amount_ncr=amount_ncr, remaining_ncr=amount_ncr, priority=1, effective_us=NOW,
        expires_us=NOW + DAY, voided_us=None, created_us=NOW, note="",
    )  # fmt: skip


def test_an_event_told_within_the_grace_uses_its_grant_and_a_later_one_becomes_debt(acme: Database) -> None:
    give(acme, id="g", expires_us=NOW + DAY)
    with acme.write() as session:
        book(session, [event(1, 30, started_us=NOW)], NOW + DAY + GRACE - 1)
    run_jobs(acme, NOW + DAY + GRACE)
    with acme.write() as session:
        book(session, [event(2, 5, started_us=NOW)], NOW + DAY + GRACE)
        assert accounts.get(session, "acme").debt_ncr == 5
    assert parts(get(acme, "g")) == (0, 30, 70, 0)
    assert problems(acme) == []


def test_a_void_or_empty_grant_expires_without_a_posting(acme: Database) -> None:
    give(acme, id="void", expires_us=NOW + DAY)
    give(acme, id="empty", amount_ncr=10, expires_us=NOW + DAY, priority=0)
    with acme.write() as session:
        book(session, [event(1, 10, started_us=NOW)], NOW)
    grants.void_grant(acme, "void", NOW + 1)
    assert run_jobs(acme, NOW + DAY + GRACE)["expire_grants"] == 1
    assert (parts(get(acme, "void")), parts(get(acme, "empty"))) == ((0, 0, 0, 100), (0, 10, 0, 0))
    with acme.read() as session:
        assert ("acme", "expired") not in balances(session)
    assert problems(acme) == []


def test_many_grants_are_closed_piece_by_piece_the_oldest_first(acme: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expire_grants, "GRANTS_MAX", 3)
    for number in range(7):
        give(acme, id=f"g{number}", tenant_id=("acme", "beta")[number % 2], expires_us=NOW + DAY + number)
    with acme.write() as session:
        assert expire_grants.run_once(session, NOW + 2 * DAY + GRACE) == 3
    assert [get(acme, f"g{number}").expired_ncr for number in range(7)] == [100, 100, 100, 0, 0, 0, 0]
    assert run_jobs(acme, NOW + 2 * DAY + GRACE)["expire_grants"] == 4
    assert problems(acme) == []


def test_what_a_plan_lets_go_on_is_moved_before_it_expires_though_nobody_looked(db: Database) -> None:
    plans.set_plan(db, PlanTerms(plan="keep", allowance_ncr=100, rollover_cap_ncr=30), NOW)
    tenants.create_tenant(db, id="acme", name="", plan="keep", now_us=NOW)
    with db.write() as session:
        accounts.lock(session, ["acme"])
        (first,) = ensure_allowance(session, "acme", NOW)
        book(session, [event(1, 10, started_us=NOW)], NOW)
    assert first.expires_us is not None
    with db.write() as session:
        note_change(session, "acme", first.expires_us + GRACE)  # the books are not alone with the clock, whoever it was that did something
    run_jobs(db, first.expires_us + GRACE)
    assert parts(get(db, first.id))[:1] + parts(get(db, first.id))[2:] == (0, 60, 0)
    with db.read() as session:
        assert {grant.kind: grant.remaining_ncr for grant in store.current_grants(session, "acme", first.expires_us)} == {"plan": 100, "rollover": 30}
    assert problems(db) == []


def test_one_process_at_a_time_does_a_job(acme: Database) -> None:
    for number in range(6):
        give(acme, id=f"g{number}", expires_us=NOW + DAY)
    together = Barrier(3)

    def process(_: int) -> int:
        other = Database(acme.engine.url.render_as_string(hide_password=False))
        together.wait()
        done = run_jobs(other, NOW + DAY + GRACE)["expire_grants"]
        other.close()
        return done

    with ThreadPoolExecutor(3) as processes:
        assert sum(processes.map(process, range(3))) == 6
    assert problems(acme) == []


def test_flushes_that_race_with_the_closing_lose_and_make_nothing(acme: Database) -> None:
    for number in range(8):
        give(acme, id=f"g{number}", tenant_id=("acme", "beta")[number % 2], amount_ncr=10, expires_us=NOW + DAY + number)
    together = Barrier(3)

    def flush(start: int) -> None:
        together.wait()
        for number in range(start, start + 10):
            with acme.write() as session:
                book(session, [event(number, 7, tenant=tenant, started_us=NOW) for tenant in ("beta", "acme")[: 1 + number % 2]], NOW + 2 * DAY + GRACE)

    def close() -> None:
        together.wait()
        run_jobs(acme, NOW + 2 * DAY + GRACE)

    with ThreadPoolExecutor(3) as threads:
        for done in [threads.submit(flush, 100), threads.submit(flush, 200), threads.submit(close)]:
            done.result()
    assert problems(acme) == []
    with acme.read() as session:
        ended = [one.used_ncr + one.expired_ncr for one in store.all_grants(session)]
        debts = sum(one.debt_ncr for one in accounts.every(session).values())
        assert ended == [10] * 8
        assert sum(one.used_ncr for one in store.all_grants(session)) + debts == 20 * 7


@pytest.mark.postgres
def test_while_another_process_is_at_it_a_job_does_nothing_here(postgres_url: str) -> None:
    database = Database(postgres_url)
    database.migrate()
    with database.engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": jobs.JOBS_LOCK})
        plans.set_plan(database, PlanTerms(plan="payg"), NOW)
        tenants.create_tenant(database, id="acme", name="", plan="payg", now_us=NOW)
        give(database, id="g", expires_us=NOW + DAY)
        assert run_jobs(database, NOW + DAY + GRACE)["expire_grants"] == 0
    assert run_jobs(database, NOW + DAY + GRACE)["expire_grants"] == 1
    database.close()


def broken(error: Exception) -> ModuleType:
    module = ModuleType("broken")

    def run_once(_session: object, _now_us: int) -> int:
        raise error

    module.run_once = run_once  # type: ignore[attr-defined]
    return module


def test_a_job_that_fails_keeps_no_other_from_its_turn(acme: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    give(acme, id="g", expires_us=NOW + DAY)
    monkeypatch.setattr(jobs, "job_names", lambda: ["a_broken_one", "expire_grants"])
    monkeypatch.setattr(jobs, "import_module", lambda name: broken(ZeroDivisionError("oops")) if name.endswith("a_broken_one") else import_module(name))
    assert run_jobs(acme, NOW + DAY + GRACE) == {"a_broken_one": 0, "expire_grants": 1}
    assert "a_broken_one failed" in caplog.text
    monkeypatch.setattr(jobs, "import_module", lambda _name: broken(BooksUnavailable("away")))
    with pytest.raises(BooksUnavailable):
        run_jobs(acme, NOW)
