"""A tenant that somebody has locked makes its own events wait, and nobody else's; afterwards each is in the books once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from billing import db as db_module
from billing.credits.account import Flushed
from billing.db import Database
from billing.usage import store
from billing.usage.event import UsageEvent
from billing.usage.journal import Journal
from billing.usage.recorder import Recorder
from billing.usage.verify import verify
from billing.usage.waiting import LOCKS_MAX, Waiting
from tests.books import dispatched, event, grant, request_id, seed
from tests.clock import START_US, ManualClock

pytestmark = pytest.mark.postgres

LOCK = {
    "account": "SELECT 1 FROM credit_account WHERE tenant_id = 'acme' FOR UPDATE",
    "grant": "UPDATE grant_balance SET remaining_ncr = remaining_ncr WHERE grant_id = 'g_acme'",
}


@pytest.fixture
def db(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """Books whose locks are waited for so shortly that a test may."""
    monkeypatch.setattr(db_module, "LOCK_TIMEOUT_MS", 150)
    monkeypatch.setattr(db_module, "BRIEF_LOCK_MS", 50)
    monkeypatch.setattr(db_module, "STALLED_TIMEOUT_MS", 60_000)
    database = Database(postgres_url)
    database.migrate()
    yield database
    database.close()


def recorder_over(db: Database, folder: Path, **options: object) -> Recorder:
    clock = ManualClock()
    given = {"flush_ms": 0, "backoff_s": (3600.0, 3600.0), **options}  # what waits is tried again when a test says so
    return Recorder(db, Journal(folder, clock.now_us), clock.now_us, **given)  # type: ignore[arg-type]


def settle(recorder: Recorder, *events: UsageEvent) -> None:
    for one in events:
        recorder.dispatched(dispatched(int(one.id[-12:]), tenant=one.tenant_id))
        recorder.settled(one)


def work(recorder: Recorder) -> None:
    """Be the books thread until nothing is due now."""
    for _ in range(100):
        if recorder.turn() != 0:
            return
    raise AssertionError("the recorder never rests")


def booked(db: Database) -> list[str]:
    with db.read() as session:
        assert verify(session) == []
        return sorted(one.id for one, _covered in store.events_between(session, START_US, START_US + 1))


@pytest.mark.parametrize("lock", LOCK)
def test_the_others_are_booked_at_once_and_the_locked_ones_once_when_they_can_be(db: Database, tmp_path: Path, lock: str) -> None:
    for tenant in ("acme", "else", "last", "more"):
        seed(db, tenant, grant(f"g_{tenant}", 100, tenant_id=tenant))
    recorder = recorder_over(db, tmp_path / "journal")
    heard: list[Flushed] = []
    recorder.on_flushed = heard.extend
    with db.write() as holder:
        holder.connection().execute(text(LOCK[lock]))
        settle(recorder, event(1), event(2, tenant="else"), event(3, tenant="last"), event(4), event(5, tenant="more"))
        work(recorder)
        assert booked(db) == [request_id(number) for number in (2, 3, 5)]
        assert {one.tenant_id for one in heard} == {"else", "last", "more"}
        settle(recorder, event(6), event(7, tenant="else"))  # of a tenant that waits: nobody tries it, and nobody waits for it
        work(recorder)
        assert len(booked(db)) == 4
        assert (recorder.backlog, recorder.oldest_us, recorder.failures) == (3, event(1).ended_us, 1)
        assert "3 events wait for locks" in (recorder.last_error or "")
        recorder._waiting.due_s = 0.0
        work(recorder)  # tried again in vain
        assert (recorder.backlog, recorder.failures) == (3, 2)
    recorder._waiting.due_s = 0.0
    work(recorder)
    assert booked(db) == [request_id(number) for number in range(1, 8)]
    assert (recorder.backlog, recorder.booked, recorder.last_error) == (0, 7, None)
    assert sum(one.taken.get("", 0) for one in heard) == 70
    recorder.stop()
    assert list((tmp_path / "journal").iterdir()) == []


def test_the_end_leaves_what_is_locked_in_the_journal_and_the_next_start_books_it(db: Database, tmp_path: Path) -> None:
    for tenant in ("acme", "else"):
        seed(db, tenant, grant(f"g_{tenant}", 100, tenant_id=tenant))
    recorder = recorder_over(db, tmp_path / "journal")
    with db.write() as holder:
        holder.connection().execute(text(LOCK["account"]))
        settle(recorder, event(1), event(2, tenant="else"))
        recorder.stop()
        assert (recorder.unbooked, booked(db)) == (1, [request_id(2)])
        second = recorder_over(db, tmp_path / "journal")
        second.claim_remains()
        settle(second, event(3, tenant="else"))
        work(second)
        assert booked(db) == [request_id(2), request_id(3)]
        assert second.replaying, "its journal is kept while something of it waits"
        second._waiting.due_s = 0.0
        second.stop()
        assert second.unbooked == 1
    third = recorder_over(db, tmp_path / "journal")
    third.claim_remains()
    work(third)
    assert not third.replaying
    assert booked(db) == [request_id(number) for number in (1, 2, 3)]
    assert third.conflicts == 0
    third.stop()
    assert list((tmp_path / "journal").iterdir()) == []


def test_a_replay_goes_when_what_waited_of_it_is_booked(db: Database, tmp_path: Path) -> None:
    seed(db, "acme", grant("g", 100))
    dead = recorder_over(db, tmp_path / "journal")
    settle(dead, event(1))
    dead._journal.close()
    recorder = recorder_over(db, tmp_path / "journal")
    recorder.claim_remains()
    with db.write() as holder:
        holder.connection().execute(text(LOCK["account"]))
        work(recorder)
        assert recorder.replaying
    recorder._waiting.due_s = 0.0
    work(recorder)
    assert not recorder.replaying
    assert booked(db) == [request_id(1)]
    recorder.stop()
    assert list((tmp_path / "journal").iterdir()) == []


def test_when_everything_is_locked_a_flush_ends_after_some_waits_and_all_of_it_waits(db: Database, tmp_path: Path) -> None:
    tenants = [f"t{number}" for number in range(40)]
    for tenant in tenants:
        seed(db, tenant, grant(f"g_{tenant}", 100, tenant_id=tenant))
    recorder = recorder_over(db, tmp_path / "journal")
    tries: list[int] = []
    inner = db.retrying

    def retrying(one):
        tries.append(1)
        return inner(one)

    db.retrying = retrying  # type: ignore[method-assign]
    with db.write() as holder:
        holder.connection().execute(text("SELECT 1 FROM credit_account FOR UPDATE"))
        settle(recorder, *(event(number, tenant=tenant) for number, tenant in enumerate(tenants)))
        work(recorder)
    assert (len(tries), recorder.backlog) == (LOCKS_MAX, 40)
    recorder._waiting.due_s = 0.0
    work(recorder)
    assert len(booked(db)) == 40
    recorder.stop()


def test_what_waits_counts_against_the_backlog(db: Database, tmp_path: Path) -> None:
    seed(db, "acme", grant("g", 100))
    recorder = recorder_over(db, tmp_path / "journal", backlog_max=2)
    with db.write() as holder:
        holder.connection().execute(text(LOCK["account"]))
        settle(recorder, event(1), event(2))
        work(recorder)
        with pytest.raises(Exception, match="2 usage events wait"):
            recorder.dispatched(dispatched(3))
    recorder.stop()
    assert recorder.unbooked == 0


def test_those_that_wait_take_turns_and_pauses_grow() -> None:
    waiting = Waiting((1.0, 3.0))
    waiting.put_back([(event(number, tenant=tenant), None, tenant == "b") for number, tenant in enumerate("aaaabc")], tried=False, last=False)
    assert (waiting.count, waiting.replayed) == (6, 5)
    first = [item[0].tenant_id for item in waiting.take(2)]
    second = [item[0].tenant_id for item in waiting.take(2)]
    assert (first, second) == (["a", "b"], ["c", "a"])
    assert (waiting.count, waiting.replayed) == (2, 2)
    pauses = []
    for _ in range(3):
        taken = waiting.take(2)
        waiting.due_s = 0.0
        waiting.put_back(taken, tried=True, last=False)
        pauses.append(waiting.due_s)
    assert pauses[0] < pauses[1] < pauses[2]
    taken = waiting.take(2)
    waiting.put_back([], tried=True, last=False)
    assert not waiting
    assert waiting.queues == []
