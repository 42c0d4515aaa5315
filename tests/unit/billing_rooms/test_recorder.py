"""The recorder brings what ended into the books, once, whatever fails on the way, and tells the accounts in order."""

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlmodel import Session

from billing.credits.account import Flushed
from billing.db import Database
from billing.errors import BooksContended, BooksUnavailable
from billing.grants import store as grants
from billing.leases import store as leases
from billing.leases.store import Lease, Replica
from billing.usage import recorder as recorder_module
from billing.usage import store, writer
from billing.usage.journal import Journal
from billing.usage.recorder import Recorder
from billing.usage.records import Progress
from billing.usage.verify import verify
from tests.books import dispatched, event, grant, request_id, seed
from tests.clock import START_US, ManualClock


class FlakyDatabase:
    """A database that is away when told so: before the work, or after the commit, when only its answer is lost."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.away = False
        self.lose_answers = 0
        self.writes = 0

    @contextmanager
    def write(self) -> Iterator[Session]:
        self.writes += 1
        if self.away:
            raise BooksUnavailable("away")
        with self.db.write() as session:
            yield session
        if self.lose_answers:
            self.lose_answers -= 1
            raise BooksUnavailable("the answer was lost")

    def retrying(self, work):
        with self.write() as session:
            return work(session)

    @contextmanager
    def read(self) -> Iterator[Session]:
        with self.db.read() as session:
            yield session


def recorder_over(db: Database | FlakyDatabase, folder: Path, **options) -> Recorder:
    clock = ManualClock()
    options = {"flush_ms": 0, "backoff_s": (0.0, 0.0), **options}
    return Recorder(db, Journal(folder, clock.now_us), clock.now_us, **options)  # type: ignore[arg-type]


def run_dry(recorder: Recorder) -> None:
    """Be the books thread until nothing is due."""
    for _ in range(100):
        if recorder.turn() is None:
            return
    raise AssertionError("the recorder never rests")


def finish(recorder: Recorder, *numbers: int, charge_ncr: int = 10) -> None:
    for number in numbers:
        recorder.dispatched(dispatched(number))
        recorder.settled(event(number, charge_ncr))


def left_of(flush: Flushed) -> int | None:
    return sum(state.left_ncr for state in flush.states) if flush.states else None


def booked_ids(db: Database) -> list[str]:
    with db.read() as session:
        assert verify(session) == []
        return [one.id for one, _covered in store.events_between(session, START_US, START_US + 1)]


def test_what_ended_is_in_the_books_after_the_next_turn(db: Database, tmp_path: Path) -> None:
    seed(db, "acme", grant("g", 100))
    recorder = recorder_over(db, tmp_path / "journal")
    heard: list[Flushed] = []
    recorder.on_flushed = heard.extend
    finish(recorder, 1, 2)
    assert recorder.backlog == 2
    assert recorder.oldest_us == event(1).ended_us
    run_dry(recorder)
    assert booked_ids(db) == [request_id(1), request_id(2)]
    assert [(one.taken, left_of(one)) for one in heard] == [({"": 20}, 80)]
    assert (recorder.backlog, recorder.booked) == (0, 2)


def test_a_clean_stop_books_everything_and_leaves_no_journal(db: Database, tmp_path: Path) -> None:
    seed(db, "acme", grant("g", 100))
    recorder = recorder_over(db, tmp_path / "journal", flush_ms=60_000)
    finish(recorder, 1, 2, 3)
    recorder.stop()
    assert len(booked_ids(db)) == 3
    assert list((tmp_path / "journal").iterdir()) == []
    with pytest.raises(BooksUnavailable):
        recorder.dispatched(dispatched(4))


def test_while_the_database_is_away_events_wait_and_then_all_arrive_once(db: Database, tmp_path: Path) -> None:
    seed(db, "acme", grant("g", 100))
    flaky = FlakyDatabase(db)
    recorder = recorder_over(flaky, tmp_path / "journal")
    flaky.away = True
    finish(recorder, 1, 2)
    for _ in range(3):
        recorder.turn()
    assert recorder.backlog == 2
    assert recorder.failures >= 3
    assert recorder.last_error == "away"
    flaky.away = False
    finish(recorder, 3)
    run_dry(recorder)
    assert len(booked_ids(db)) == 3
    assert recorder.last_error is None


def test_a_commit_whose_answer_was_lost_is_told_again_and_counted_once(db: Database, tmp_path: Path) -> None:
    seed(db, "acme", grant("g", 100))
    flaky = FlakyDatabase(db)
    flaky.lose_answers = 2
    recorder = recorder_over(flaky, tmp_path / "journal")
    heard: list[Flushed] = []
    recorder.on_flushed = heard.extend
    finish(recorder, 1, 2)
    run_dry(recorder)
    assert len(booked_ids(db)) == 2
    assert [(one.taken, left_of(one)) for one in heard] == [({"": 20}, 80)]


def test_pauses_grow_and_are_bounded(db: Database, tmp_path: Path) -> None:
    flaky = FlakyDatabase(db)
    flaky.away = True
    recorder = recorder_over(flaky, tmp_path / "journal", backoff_s=(1.0, 5.0))
    finish(recorder, 1)
    pauses = []
    for _ in range(5):
        recorder._retry_at = 0.0
        pauses.append(recorder.turn())
    assert [round(pause or 0) for pause in pauses] == [1, 2, 4, 5, 5]


def test_a_backlog_at_its_bound_refuses_new_work_before_it_is_done(db: Database, tmp_path: Path) -> None:
    recorder = recorder_over(db, tmp_path / "journal", backlog_max=2)
    finish(recorder, 1, 2)
    with pytest.raises(BooksUnavailable, match="2 usage events wait"):
        recorder.dispatched(dispatched(3))
    recorder.settled(event(3))
    assert recorder.backlog == 3


def test_a_poisoned_event_is_parked_and_the_others_go_through(db: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seed(db, "acme", grant("g", 100))
    recorder = recorder_over(db, tmp_path / "journal")
    heard: list[Flushed] = []
    recorder.on_flushed = heard.extend
    finish(recorder, 1)
    recorder.settled(event(2, tenant="nobody"))
    recorder.settled(event(3, 2**70))
    finish(recorder, 4)
    recorder.settled(event(5, 2**63))
    run_dry(recorder)
    assert booked_ids(db) == [request_id(1), request_id(4)]
    assert recorder.rejected == 3
    parked = sorted(path.name for path in (tmp_path / "journal").glob("rejected-*"))
    assert parked == [f"rejected-{START_US}-{request_id(number)}.{kind}" for number, kind in ((2, "wal"), (3, "json"), (5, "wal"))]
    assert "is refused and parked" in caplog.text
    assert {one.tenant_id: left_of(one) for one in heard} == {"acme": 80, "nobody": None}
    recorder.stop()
    assert len(list((tmp_path / "journal").iterdir())) == 3


def test_a_poisoned_event_among_many_costs_few_transactions(db: Database, tmp_path: Path) -> None:
    seed(db, "acme", grant("g", 100_000))
    counting = FlakyDatabase(db)
    recorder = recorder_over(counting, tmp_path / "journal")
    finish(recorder, *range(1, 128))
    recorder.settled(event(200, tenant="nobody"))
    run_dry(recorder)
    assert (recorder.booked, recorder.rejected, recorder.backlog) == (127, 1, 0)
    assert counting.writes == 1 + 2 * 7  # halved 7 times: 128 = 2^7


def test_a_flush_takes_along_what_came_meanwhile_up_to_its_bound(db: Database, tmp_path: Path) -> None:
    seed(db, "acme", grant("g", 100_000))
    counting = FlakyDatabase(db)
    recorder = recorder_over(counting, tmp_path / "journal", flush_ms=60_000, batch=700)
    finish(recorder, *range(1, 500))
    assert recorder.turn() != 0  # one less than is worth a transaction of its own, and the time has not come
    finish(recorder, *range(500, 901))
    recorder.turn()
    assert (recorder.booked, recorder.backlog, counting.writes) == (700, 200, 1)
    recorder.stop()
    assert recorder.unbooked == 0


def test_a_flush_that_deadlocks_is_made_again_and_books_once(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed(db, "acme", grant("g", 100))
    contended = iter([True, True, False])
    plain = writer.book

    def book(session: Session, *given: object, **named: object) -> object:
        booked = plain(session, *given, **named)  # type: ignore[arg-type]
        if next(contended):
            raise BooksContended("another transaction stood in the way")
        return booked

    monkeypatch.setattr(recorder_module, "book", book)
    monkeypatch.setattr(db, "_sleep", lambda _seconds: None)
    recorder = recorder_over(db, tmp_path / "journal")
    finish(recorder, 1, 2)
    run_dry(recorder)
    assert booked_ids(db) == [request_id(1), request_id(2)]
    assert (recorder.booked, recorder.failures) == (2, 0)


def test_what_a_dead_process_left_is_booked_first_and_once(db: Database, tmp_path: Path) -> None:
    seed(db, "acme", grant("g", 100))
    dead = recorder_over(db, tmp_path / "journal")
    finish(dead, 1, 2)
    run_dry(dead)
    finish(dead, 3)
    dead.dispatched(dispatched(4))
    dead._journal._segments[0].settled += 1  # as if its end had not been clean: nothing is deleted
    dead._journal.close()
    recorder = recorder_over(db, tmp_path / "journal")
    heard: list[Flushed] = []
    recorder.on_flushed = heard.extend
    recorder.claim_remains()
    assert recorder.replaying
    run_dry(recorder)
    assert not recorder.replaying
    assert booked_ids(db) == [request_id(number) for number in (1, 2, 3, 4)]
    assert recorder.conflicts == 0
    assert [one.taken for one in heard] == [{}]
    recorder.stop()
    assert list((tmp_path / "journal").iterdir()) == []


def test_a_replay_takes_what_it_books_off_the_leases_of_the_process_that_left_it(db: Database, tmp_path: Path) -> None:
    seed(db, "acme", grant("g", 100))
    with db.write() as session:
        for name in ("dead", "alive"):
            leases.register(session, Replica(id=name, beat=1, host="here", pid=1, started_us=START_US))
        leases.put(session, [Lease(tenant_id="acme", purse="", replica_id=name, amount_ncr=50, valid_until_us=2**62) for name in ("dead", "alive")])
    dead = recorder_over(db, tmp_path / "journal")
    finish(dead, 1, 2)
    dead.dispatched(dispatched(3))
    dead._journal.close()
    pid = dead._journal._live.path.stem.split("-")[1]
    (tmp_path / "journal" / f"replica-{pid}-dead.lock").touch()
    (tmp_path / "journal" / f"replica-{pid}0-alive.lock").touch()  # another's: it left nothing here
    recorder = recorder_over(db, tmp_path / "journal")
    recorder.claim_remains()
    run_dry(recorder)
    with db.read() as session:
        left = {lease.replica_id: lease.amount_ncr for lease in leases.leases_of(session, ["acme"])["acme"]}
    assert left == {"dead": 50 - 2 * 10, "alive": 50}  # the third has no rate here, and is booked at nothing
    recorder.stop()


def test_a_replay_that_meets_a_lost_database_goes_on_when_it_is_back(db: Database, tmp_path: Path) -> None:
    seed(db, "acme", grant("g", 100))
    dead = recorder_over(db, tmp_path / "journal")
    finish(dead, *range(1, 8))
    dead._journal.close()
    flaky = FlakyDatabase(db)
    flaky.away = True
    recorder = recorder_over(flaky, tmp_path / "journal", batch=3)
    recorder.claim_remains()
    recorder.turn()
    flaky.away = False
    flaky.lose_answers = 1
    run_dry(recorder)
    assert len(booked_ids(db)) == 7
    recorder.stop()
    assert list((tmp_path / "journal").iterdir()) == []


def test_a_replay_that_meets_a_full_disk_begins_again_and_forgets_nothing(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed(db, "acme", grant("g", 100))
    dead = recorder_over(db, tmp_path / "journal")
    finish(dead, *range(1, 6))
    dead._journal.close()
    with dead._journal._live.path.open("ab") as segment:
        segment.write(b"\x99\0\0\0torn")
    recorder = recorder_over(db, tmp_path / "journal")
    recorder.claim_remains()

    def full(*_anything: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("billing.usage.replay.Remains._keep_aside", full)
        recorder.turn()
        recorder.turn()
        assert recorder.replaying
        assert dead._journal._live.path.exists()
    run_dry(recorder)
    assert len(booked_ids(db)) == 5
    recorder.stop()
    assert [path.name for path in (tmp_path / "journal").iterdir()] == [f"damaged-{dead._journal._live.path.name}"]


def test_work_runs_between_batches_and_its_news_comes_in_order(db: Database, tmp_path: Path) -> None:
    seed(db, "acme", grant("g", 100))
    recorder = recorder_over(db, tmp_path / "journal")
    news: list[object] = []
    recorder.on_flushed = lambda flushes: news.append(left_of(flushes[0]))

    def left(session: Session) -> int:
        return sum(one.remaining_ncr for one in grants.current_grants(session, "acme", START_US))

    finish(recorder, 1)
    run_dry(recorder)
    finish(recorder, 2)
    future = recorder.run(left, lambda result: news.append(("read", result)))
    run_dry(recorder)
    assert future.result(0) == 90
    assert news == [90, ("read", 90), 80]


def test_much_work_does_not_hold_up_the_books(db: Database, tmp_path: Path) -> None:
    seed(db, "acme", grant("g", 100))
    recorder = recorder_over(db, tmp_path / "journal")
    futures = [recorder.run(lambda _session: None) for _ in range(100)]
    finish(recorder, 1)
    assert recorder.turn() == 0
    assert recorder.backlog == 0
    assert not futures[-1].done()
    run_dry(recorder)
    assert futures[-1].done()


def test_work_that_fails_is_the_askers_to_hear_and_changes_nothing(db: Database, tmp_path: Path) -> None:
    recorder = recorder_over(db, tmp_path / "journal")

    def fail(session: Session) -> None:
        grants.insert_grant(session, grant("g", 1, tenant_id="acme"))
        raise KeyError("no")

    seed(db, "acme")
    future = recorder.run(fail)
    recorder.turn()
    with pytest.raises(KeyError):
        future.result(0)
    with db.read() as session:
        assert grants.all_grants(session) == []


def test_an_event_that_neither_disk_nor_database_took_is_counted_and_keeps_its_evidence(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seed(db, "acme", grant("g", 100))
    flaky = FlakyDatabase(db)
    recorder = recorder_over(flaky, tmp_path / "journal", backoff_s=(1.0, 1.0))
    flaky.away = True
    finish(recorder, 1)
    recorder.dispatched(dispatched(2))

    def full(_fd: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("billing.usage.journal.append", full)
        recorder.settled(event(2))
        assert not recorder._journal.healthy
        recorder.stop()
    assert (recorder.unbooked, recorder.lost) == (2, 1)
    assert "1 usage events are in memory only" in caplog.text
    again = recorder_over(db, tmp_path / "journal")
    again.claim_remains()
    run_dry(again)
    assert booked_ids(db) == [request_id(1), request_id(2)]
    with db.read() as session:
        assert [one.outcome for one, _covered in store.events_between(session, START_US, START_US + 1)] == ["complete", "recovered"]
    again.stop()
    assert (again.unbooked, again.lost) == (0, 0)


def test_an_event_that_the_disk_refused_is_booked_and_leaves_no_journal(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed(db, "acme", grant("g", 100))
    recorder = recorder_over(db, tmp_path / "journal")
    recorder.dispatched(dispatched(1))

    def full(_fd: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("billing.usage.journal.append", full)
        recorder.settled(event(1))
    assert recorder.lost == 1
    run_dry(recorder)
    assert recorder.lost == 0
    recorder.stop()
    assert (recorder.unbooked, booked_ids(db)) == (0, [request_id(1)])
    assert list((tmp_path / "journal").iterdir()) == []


def test_a_database_that_hangs_does_not_hold_up_the_end_and_loses_nothing(db: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seed(db, "acme", grant("g", 100))
    hangs, answers = threading.Event(), threading.Event()

    class Hanging(FlakyDatabase):
        @contextmanager
        def write(self) -> Iterator[Session]:
            hangs.set()
            answers.wait(60)
            with self.db.write() as session:
                yield session

    recorder = recorder_over(Hanging(db), tmp_path / "journal")
    recorder.start(lambda callback: callback())
    finish(recorder, 1, 2)
    assert hangs.wait(10)
    thread = recorder._thread
    assert thread is not None
    asked = recorder.run(lambda _session: None)
    recorder.stop(0.01)
    assert recorder.unbooked == 2
    assert "2 stay in the journal" in caplog.text
    with pytest.raises(BooksUnavailable):
        recorder.dispatched(dispatched(3))
    assert list((tmp_path / "journal").iterdir()) != []
    answers.set()
    thread.join(20)
    assert len(booked_ids(db)) == 2
    with pytest.raises(BooksUnavailable):
        asked.result(0)


def test_work_after_the_end_is_refused(db: Database, tmp_path: Path) -> None:
    recorder = recorder_over(db, tmp_path / "journal")
    recorder.stop()
    with pytest.raises(BooksUnavailable):
        recorder.run(lambda _session: None).result(0)


def test_a_bug_in_the_writer_is_survived_and_loses_nothing(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed(db, "acme", grant("g", 100))
    recorder = recorder_over(db, tmp_path / "journal")
    finish(recorder, 1)
    with monkeypatch.context() as patch:
        patch.delattr("billing.usage.recorder.book")
        recorder.turn()
    assert recorder.failures == 1
    run_dry(recorder)
    assert len(booked_ids(db)) == 1


def test_the_thread_books_on_its_own_and_stops_at_once(db: Database, tmp_path: Path) -> None:
    seed(db, "acme", grant("g", 10_000))
    recorder = recorder_over(db, tmp_path / "journal", flush_ms=1, batch=7)
    booked, done = [0], threading.Event()

    def hear(flushes: list[Flushed]) -> None:
        booked[0] += sum(sum(one.taken.values()) for one in flushes)
        if booked[0] == 2_000:
            done.set()

    recorder.on_flushed = hear
    lock = threading.Lock()

    def post(callback: Callable[[], None]) -> None:
        with lock:
            callback()

    recorder.start(post)
    for number in range(200):
        recorder.dispatched(dispatched(number))
        recorder.progress(Progress(request_id(number), event(number).meter))
        recorder.settled(event(number))
    assert recorder.run(lambda session: len(grants.all_grants(session))).result(10) == 1
    assert done.wait(20)
    recorder.stop()
    assert len(booked_ids(db)) == 200
    assert list((tmp_path / "journal").iterdir()) == []
