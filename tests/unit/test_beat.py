"""A process's name among those that share the credits: it lives while it beats, the dead are buried, and of two with one name one yields."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from billing.db import Database
from billing.leases import store as leases
from billing.leases.markers import Marker, dead_here
from billing.leases.store import Replica
from billing.usage.journal import Journal
from billing.usage.recorder import Recorder
from gateway.beat import Beat
from tests.clock import ManualClock

TERM_S = 10.0


class Holder:
    def __init__(self) -> None:
        self.forgotten = 0
        self.given_back: list[int] = []
        self.reconciled = 0

    def unleased(self) -> None:
        self.forgotten += 1

    def give_back(self, most_ncr: int) -> int:
        self.given_back.append(most_ncr)
        return 0

    def reconcile(self) -> None:
        self.reconciled += 1


class Process:
    def __init__(self, db: Database, folder: Path, clock: ManualClock) -> None:
        self.db = db
        self.clock = clock
        self.recorder = Recorder(db, Journal(folder, clock.now_us), clock.now_us, flush_ms=1)
        self.beat = Beat(self.recorder, clock, folder, term_s=TERM_S, every_s=1)
        self.holder = self.beat.holder = Holder()
        self.recorder.start(asyncio.get_running_loop().call_soon_threadsafe)

    def names(self) -> list[str]:
        with self.db.read() as session:
            return [replica.id for replica in leases.replicas(session)]


@pytest.fixture
async def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def pair(tmp_path: Path, clock: ManualClock) -> AsyncIterator[tuple[Process, Process]]:
    db = Database(f"sqlite:///{tmp_path / 'weir.db'}")
    db.migrate()
    one, two = Process(db, tmp_path / "one", clock), Process(db, tmp_path / "two", clock)
    yield one, two
    for process in (one, two):
        process.recorder.stop()
    db.close()


async def test_processes_count_each_other(pair: tuple[Process, Process]) -> None:
    one, two = pair
    await one.beat.join()
    assert one.beat.processes == 1
    await two.beat.join()
    assert two.beat.processes == 2
    await one.beat.beat()
    assert one.beat.processes == 2
    assert one.names() == sorted([one.beat.member.replica_id, two.beat.member.replica_id])


async def test_a_process_admits_until_a_term_after_the_beat_it_sent_last(pair: tuple[Process, Process], clock: ManualClock) -> None:
    one, _two = pair
    assert not one.beat.alive
    await one.beat.join()
    clock.advance(TERM_S - 0.1)
    assert one.beat.alive
    forgotten = one.holder.forgotten
    clock.advance(0.1)
    assert not one.beat.alive
    assert not one.beat.alive
    assert one.holder.forgotten == forgotten + 1
    await one.beat.beat()
    assert one.beat.alive


async def test_the_dead_are_buried_when_their_beat_stood_still_for_longer_than_a_term(pair: tuple[Process, Process], clock: ManualClock) -> None:
    one, two = pair
    await one.beat.join()
    await two.beat.join()
    for _ in range(10):
        await one.beat._turn()
        clock.advance(TERM_S / 10)
    await one.beat._turn()
    assert two.beat.member.replica_id in one.names()
    assert not two.beat.alive  # it has stopped before anybody lost patience
    for _ in range(3):
        clock.advance(TERM_S / 10)
        await one.beat._turn()
    assert one.names() == [one.beat.member.replica_id]
    assert one.beat.processes == 1


async def test_after_a_while_without_a_look_everybody_has_a_term_anew(pair: tuple[Process, Process], clock: ManualClock) -> None:
    one, two = pair
    await one.beat.join()
    await two.beat.join()
    await one.beat._turn()
    clock.advance(4 * TERM_S)  # nobody could reach the books
    await one.beat._turn()
    assert two.beat.member.replica_id in one.names()
    await two.beat.beat()
    assert two.beat.displacements == 0


async def test_being_told_twice_of_one_displacement_begins_anew_once(pair: tuple[Process, Process]) -> None:
    one, _two = pair
    await one.beat.join()
    before = one.beat.member.replica_id
    with one.db.write() as session:
        leases.bury(session, before)
    one.beat.displaced(before)
    await one.beat._turn()
    now = one.beat.member.replica_id
    one.beat.displaced(before)  # a draw under the old name answers late
    await one.beat._turn()
    assert one.names() == [now] == [one.beat.member.replica_id]
    assert one.beat.displacements == 1


async def test_a_beat_that_fails_for_whatever_reason_is_tried_again(pair: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch) -> None:
    one, _two = pair
    await one.beat.join()
    tries: list[int] = []
    again = asyncio.Event()

    async def turn() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise OSError(24, "Too many open files")
        again.set()

    monkeypatch.setattr(one.beat, "_turn", turn)
    following = asyncio.create_task(one.beat.follow())
    one.beat.hurry()
    async with asyncio.timeout(10):
        while not tries:
            await asyncio.sleep(0)
        one.beat.hurry()
        await again.wait()
    following.cancel()


async def test_one_that_wakes_up_buried_goes_on_under_a_new_name_without_leases(pair: tuple[Process, Process], clock: ManualClock) -> None:
    one, _two = pair
    await one.beat.join()
    before = one.beat.member.replica_id
    with one.db.write() as session:
        leases.bury(session, before)
    await one.beat._turn()
    assert one.beat.member.replica_id != before
    assert one.names() == [one.beat.member.replica_id]
    assert (one.beat.displacements, one.beat.alive) == (1, True)
    assert one.holder.forgotten >= 1
    assert one.recorder.replica_id == one.beat.member.replica_id


async def test_of_two_with_the_same_name_the_later_yields(pair: tuple[Process, Process]) -> None:
    one, two = pair
    await one.beat.join()
    two.beat.member = one.beat.member  # a copied machine
    two.beat._lost = False
    await two.beat.beat()
    await one.beat._turn()
    assert one.beat.member.replica_id != two.beat.member.replica_id
    assert (one.beat.displacements, two.beat.displacements) == (1, 0)
    await two.beat.beat()


async def test_a_beat_whose_answer_was_lost_is_still_its_own(pair: tuple[Process, Process]) -> None:
    one, _two = pair
    await one.beat.join()
    with one.db.write() as session:
        one.beat._tell(session)  # told, and nobody heard the answer
    await one.beat.beat()
    with one.db.write() as session, pytest.raises(RuntimeError):
        one.beat._tell(session)
        raise RuntimeError("not told: the transaction is undone")
    await one.beat.beat()
    assert one.beat.displacements == 0
    assert len(one.beat.member.beats) == 1


async def test_what_died_on_this_machine_is_buried_at_once_when_its_journal_is_replayed(pair: tuple[Process, Process], tmp_path: Path) -> None:
    one, _two = pair
    await one.beat.join()
    with one.db.write() as session:
        leases.register(session, Replica(id="dead", beat=7, host="here", pid=4242, started_us=0))
    (tmp_path / "one" / "replica-4242-dead.lock").touch()
    segment = tmp_path / "one" / "1-4242.wal"
    segment.touch()
    await one.beat._turn()
    assert "dead" in one.names()
    segment.unlink()
    await one.beat._turn()
    assert one.names() == [one.beat.member.replica_id]
    assert list((tmp_path / "one").glob("replica-4242-*")) == []


async def test_leaving_in_order_takes_the_name_and_the_marker_away(pair: tuple[Process, Process], tmp_path: Path) -> None:
    one, _two = pair
    await one.beat.join()
    assert list((tmp_path / "one").glob("replica-*"))
    one.beat.leave(one.db, booked=True)
    assert one.names() == []
    assert list((tmp_path / "one").glob("replica-*")) == []


async def test_one_with_unbooked_usage_keeps_its_name_for_the_replay(pair: tuple[Process, Process]) -> None:
    one, _two = pair
    await one.beat.join()
    one.beat.leave(one.db, booked=False)
    assert len(one.names()) == 1


async def test_idle_leases_go_back_only_where_somebody_else_could_use_them(pair: tuple[Process, Process]) -> None:
    one, two = pair
    await one.beat.join()
    await one.beat._turn()
    assert one.holder.given_back == []
    await two.beat.join()
    await one.beat._turn()
    assert len(one.holder.given_back) == 1


def test_a_living_processes_marker_is_no_dead_ones(tmp_path: Path) -> None:
    marker = Marker(tmp_path, "me")
    assert dead_here(tmp_path, lambda _segment: False) == {}
    marker.remove()


def test_in_a_container_the_dead_one_had_the_same_number(tmp_path: Path) -> None:
    (tmp_path / "replica-7-dead.lock").touch()
    (tmp_path / "5-7.wal").touch()
    (tmp_path / "damaged-4-7.wal").touch()
    assert dead_here(tmp_path, lambda _segment: False)["dead"][1] is False
    assert dead_here(tmp_path, lambda segment: segment.name == "5-7.wal")["dead"][1] is True


class Words:
    """A note that says who was there when it was finished."""

    def __init__(self, word: str) -> None:
        self.word = word

    def written(self, me: str, others: Mapping[str, str | None]) -> str:
        if self.word == "bug":
            raise ValueError("no words")
        return f"{self.word} of {me}, beside {sorted(str(note) for note in others.values())}"


async def test_what_a_process_says_with_its_beat_the_others_hear_at_theirs(pair: tuple[Process, Process], clock: ManualClock) -> None:
    one, two = pair
    told: list[str | None] = []
    one.beat.draft = lambda: Words("hello")
    one.beat.on_told = lambda: told.append(one.beat.noted)
    two.beat.draft = lambda: Words("greetings")
    await one.beat.join()
    await two.beat.join()
    hello = f"hello of {one.beat.member.replica_id}, beside []"
    assert one.beat.noted == hello and told == [hello]
    assert two.beat.noted == f"greetings of {two.beat.member.replica_id}, beside {[hello]}"
    assert {replica_id: news.replica.note for replica_id, news in two.beat.news.items()} == {one.beat.member.replica_id: hello}
    clock.advance(0.75)
    assert two.beat.news[one.beat.member.replica_id].heard_s == 0.75
    await one.beat.beat()
    assert one.beat.noted == f"hello of {one.beat.member.replica_id}, beside {[two.beat.noted]}"
    assert told[-1] == one.beat.noted


@pytest.mark.parametrize("bug", ["begun", "finished"])
async def test_a_note_that_cannot_be_written_keeps_no_beat_from_being_told(pair: tuple[Process, Process], bug: str, caplog: pytest.LogCaptureFixture) -> None:
    one, _two = pair
    one.beat.draft = lambda: Words("bug") if bug == "finished" else 1 // 0  # type: ignore[assignment]
    await one.beat.join()
    await one.beat._turn()
    assert one.beat.alive and one.beat.noted is None
    assert {record.message for record in caplog.records} == {f"the note for the other processes could not be {bug}"}


async def test_one_whose_beat_stands_still_is_no_news_long_before_it_is_buried(pair: tuple[Process, Process], clock: ManualClock) -> None:
    one, two = pair
    await one.beat.join()
    await two.beat.join()
    for _ in range(4):
        await one.beat._turn()
        assert two.beat.member.replica_id in one.beat.news
        clock.advance(1)
    await one.beat._turn()
    assert one.beat.news == {}
    assert one.beat.processes == 2
    await two.beat.beat()
    seen: list[str | None] = []
    one.beat.draft = lambda: Words("hello")
    one.beat.on_told = lambda: seen.append(one.beat.noted)
    await one.beat.beat()
    assert two.beat.member.replica_id in one.beat.news
    assert seen == [f"hello of {one.beat.member.replica_id}, beside ['None']"], "it is there again in the very transaction that finds its beat"


async def test_nobody_stood_still_while_nobody_could_look(pair: tuple[Process, Process], clock: ManualClock) -> None:
    one, two = pair
    await one.beat.join()
    await two.beat.join()
    await one.beat._turn()
    clock.advance(4.5)  # a database that was away for longer than a stalled process is waited for
    await one.beat._turn()
    assert two.beat.member.replica_id in one.beat.news
