"""Jobs: none believes a clock that others contradict, none keeps another from its turn, and the change feed is not kept for ever."""

import time
from importlib import import_module
from types import ModuleType

import pytest

from billing import jobs
from billing.credits import store as accounts
from billing.db import Database
from billing.errors import BooksUnavailable
from billing.grants import store as grants
from billing.jobs import Report, expire_grants, prune_changes, run_jobs
from billing.tenants.store import changes_since, latest_change, note_change
from billing.usage.writer import book
from tests.books import event, grant, seed

HOUR = 3_600_000_000
DAY = 24 * HOUR
GRACE = expire_grants.GRACE_US


def now_us() -> int:
    return time.time_ns() // 1000


def remaining(db: Database, grant_id: str) -> int:
    with db.read() as session:
        found = grants.get_grant(session, grant_id)
    assert found is not None
    return found.remaining_ncr


def use(db: Database, number: int, at_us: int) -> None:
    with db.write() as session:
        accounts.lock(session, ["acme"])
        book(session, [event(number, 0, started_us=at_us)], at_us)


@pytest.mark.postgres
@pytest.mark.parametrize("off_us", [30 * DAY, 2 * HOUR, -2 * HOUR])
def test_nothing_is_done_by_a_clock_that_the_server_contradicts(postgres_url: str, off_us: int, caplog: pytest.LogCaptureFixture) -> None:
    db, now = Database(postgres_url), now_us()
    db.migrate()
    seed(db, "acme", grant("over", 50, effective_us=1, expires_us=now + off_us - GRACE))
    report = Report()
    assert set(run_jobs(db, now + off_us, report).values()) == {0}
    assert remaining(db, "over") == 50
    assert report.clock_off_us is not None and abs(report.clock_off_us - off_us) < HOUR
    assert report.succeeded == set()
    assert [record.levelname for record in caplog.records if "clock" in record.getMessage()] == ["ERROR"]
    if off_us < 0:
        return db.close()
    assert run_jobs(db, now, report := Report())["expire_grants"] == 0
    assert report.succeeded == set(jobs.job_names()) and report.clock_off_us is not None and abs(report.clock_off_us) < HOUR
    db.close()


def test_no_grant_is_closed_while_the_newest_fact_in_the_books_is_far_behind_the_clock(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    now = now_us()
    seed(db, "acme", grant("over", 50, effective_us=1, expires_us=now + 20 * DAY))
    use(db, 1, now)
    ahead_us = now + 30 * DAY
    with db.write() as session:
        assert expire_grants.run_once(session, ahead_us) == 0
    assert remaining(db, "over") == 50
    assert "far behind" in caplog.text
    use(db, 2, ahead_us - HOUR)
    with db.write() as session:
        assert expire_grants.run_once(session, ahead_us) == 1
    assert remaining(db, "over") == 0


def test_what_an_admin_did_is_a_witness_too(db: Database) -> None:
    now = now_us()
    seed(db, "acme", grant("over", 50, effective_us=1, expires_us=now - 20 * DAY))
    use(db, 1, now - 30 * DAY)
    with db.write() as session:
        note_change(session, "acme", now - DAY)
    with db.write() as session:
        assert expire_grants.run_once(session, now) == 1


def broken(error: Exception) -> ModuleType:
    module = ModuleType("broken")

    def run_once(_session: object, _now_us: int) -> int:
        raise error

    module.run_once = run_once  # type: ignore[attr-defined]
    return module


def test_a_job_that_waits_for_the_database_in_vain_keeps_no_other_from_its_turn(
    db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = now_us()
    seed(db, "acme", grant("over", 50, effective_us=1, expires_us=now - GRACE))
    monkeypatch.setattr(jobs, "job_names", lambda: ["a_waiting_one", "expire_grants", "the_broken_one"])
    by_name = {
        "billing.jobs.a_waiting_one": broken(BooksUnavailable("a lock")),
        "billing.jobs.the_broken_one": broken(ZeroDivisionError("oops")),
    }
    monkeypatch.setattr(jobs, "import_module", lambda name: by_name.get(name) or import_module(name))
    report = Report()
    with pytest.raises(BooksUnavailable, match="a lock"):
        run_jobs(db, now, report)
    assert remaining(db, "over") == 0
    assert report.succeeded == {"expire_grants"}
    said = {record.levelname: record.getMessage() for record in caplog.records if record.name == "billing.jobs"}
    assert "a_waiting_one" in said["WARNING"] and "the_broken_one failed" in said["ERROR"]


def note(db: Database, *at: int) -> None:
    for at_us in at:
        with db.write() as session:
            note_change(session, "acme", at_us)


def test_old_changes_go_and_the_newest_stay_so_that_numbers_go_on(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    now = now_us()
    monkeypatch.setattr(prune_changes, "KEPT_ROWS", 2)
    note(db, *(now - 8 * DAY + step for step in range(6)))
    monkeypatch.setattr(prune_changes, "ROWS_MAX", 3)
    assert run_jobs(db, now)["prune_changes"] == 4
    with db.read() as session:
        assert [change.seq for change in changes_since(session, 0)] == [5, 6]
    assert run_jobs(db, now + HOUR // 2)["prune_changes"] == 0
    note(db, now)
    with db.read() as session:
        assert latest_change(session) == 7


def test_a_change_of_this_week_stays(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    now = now_us()
    monkeypatch.setattr(prune_changes, "KEPT_ROWS", 1)
    note(db, now - 7 * DAY - 1, now - 7 * DAY + HOUR, now, now)
    assert run_jobs(db, now)["prune_changes"] == 1
    with db.read() as session:
        assert [change.seq for change in changes_since(session, 0)] == [2, 3, 4]


def test_a_job_that_another_process_is_at_is_not_said_to_have_ended_well_here(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_alone", lambda _session: False)
    monkeypatch.setattr(jobs, "_right_clock", lambda *_given: True)
    assert set(run_jobs(db, 1, report := Report()).values()) == {0}
    assert report.succeeded == set()
    db.close()


def test_who_finds_another_process_at_a_job_leaves_the_rest_to_it(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = iter((True, False, True, True))  # the first job is ours, at the second another is found, which then commits
    monkeypatch.setattr(jobs, "_alone", lambda _session: next(turns))
    monkeypatch.setattr(jobs, "_right_clock", lambda *_given: True)
    assert set(run_jobs(db, 1, report := Report())) == set(jobs.job_names())
    assert report.succeeded == {jobs.job_names()[0]}, "going on, we would pass the other, and the second job would be nobody's"
    db.close()
