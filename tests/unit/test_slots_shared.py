"""A backend's slots over several processes on one database: each has its share, what one needs more another gives up, and a stalled one loses it."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backends.replica import replica_at
from billing.db import Database
from billing.leases import store as leases
from billing.leases.store import Replica
from billing.usage.journal import Journal
from billing.usage.recorder import Recorder
from gateway.beat import Beat
from gateway.lanes import notes
from gateway.lanes.board import Board
from gateway.lanes.gate import Gate
from gateway.lanes.queue import FairQueue, Ticket
from gateway.lanes.standing import Lane, Standing
from gateway.slots import Slots, place_of
from tests.clock import ManualClock

TERM_S, EVERY_S, SLOTS = 10.0, 1.0, 12
STILL_S = 4.0
GPU = "http://10.0.0.5:8000/v1"


class Process:
    """One that beats and shares its slots of one backend; `pool.slots` is what it knows that the backend has."""

    def __init__(self, db: Database, folder: Path, clock: ManualClock, url: str = GPU) -> None:
        self.clock = clock
        self.recorder = Recorder(db, Journal(folder, clock.now_us), clock.now_us, flush_ms=1)
        self.beat = Beat(self.recorder, clock, folder, term_s=TERM_S, every_s=EVERY_S)
        self.pool = SimpleNamespace(slots=SLOTS, replicas=[replica_at(url)])
        queue = FairQueue(SLOTS, depths={Lane.FAST: 1000, Lane.SLOW: 1000})
        self.gate = Gate(queue, clock.now_us, wait_s_max=dict.fromkeys(Lane, 60.0), jitter=random.Random(1))
        self.tickets: list[Ticket] = []
        self.board = Board()
        self.slots = Slots(self.beat, clock, self.board, pools=cast(Any, {"gpu": self.pool}), gates={"gpu": self.gate}, tenants=lambda: 3)
        self.recorder.start(asyncio.get_running_loop().call_soon_threadsafe)

    @property
    def share(self) -> int:
        return self.gate.queue.slots

    @property
    def processes(self) -> int:
        note = notes.read(self.beat.noted)
        assert note is not None
        return note.backends["gpu"].processes

    def need(self, count: int, lane: Lane = Lane.FAST, tenant: str = "acme") -> None:
        """Have so many requests come that stay."""
        for _ in range(count):
            self.tickets.append(Ticket(tenant=tenant, lane=lane, cost=1))
            self.gate.enter_now(self.tickets[-1])

    def end_all(self) -> None:
        """Have them all end."""
        for ticket in self.tickets:
            self.gate.abandon(ticket)
        self.tickets.clear()


class Fleet:
    """Some processes on one database, and the clock of all."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.clock = ManualClock()
        self.folder = folder
        self.db = Database(f"sqlite:///{folder / 'weir.db'}" if url is None else url)
        self.db.migrate()
        self.all: list[Process] = []

    async def join(self, url: str = GPU) -> Process:
        process = Process(self.db, self.folder / f"p{len(self.all)}", self.clock, url)
        self.all.append(process)
        await process.beat.join()
        return process

    async def turn(self, *processes: Process, times: int = 1) -> None:
        """Let a second go by, in which these beat in their order, and look."""
        for _ in range(times):
            self.clock.advance(EVERY_S)
            for process in processes or self.all:
                await process.beat._turn()
                process.slots.look()

    def known(self) -> list[Replica]:
        with self.db.read() as session:
            return leases.replicas(session)

    @property
    def shares(self) -> list[int]:
        return [process.share for process in self.all]


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    for process in fleet.all:
        process.recorder.stop()
    fleet.db.close()


async def test_a_process_alone_has_all_and_follows_what_the_backend_has_without_a_beat(fleet: Fleet) -> None:
    one = await fleet.join()
    assert one.share == SLOTS
    one.pool.slots = 20  # learned
    one.slots.look()
    assert one.share == 20
    one.pool.slots = 0  # no server can be used
    one.slots.look()
    assert one.share == 1


async def test_one_that_comes_has_one_slot_until_the_others_have_made_room(fleet: Fleet) -> None:
    one = await fleet.join()
    two = await fleet.join()
    assert fleet.shares == [SLOTS, 1]
    await fleet.turn(one)
    assert fleet.shares == [6, 1]
    await fleet.turn(two)
    assert fleet.shares == [6, 6]
    assert (one.processes, two.processes) == (2, 2)


async def test_slots_go_to_where_the_need_is_and_back(fleet: Fleet) -> None:
    one, _two, _three = [await fleet.join() for _ in range(3)]
    await fleet.turn(times=3)
    assert fleet.shares == [4, 4, 4]
    one.need(9)
    for _ in range(3):
        await fleet.turn()
        assert sum(fleet.shares) <= SLOTS
    assert fleet.shares[0] >= 9 and sum(fleet.shares) == SLOTS
    assert one.gate.queue.running == 9, "those that waited run"
    one.end_all()
    await fleet.turn(times=3)
    assert fleet.shares == [4, 4, 4]


async def test_on_postgresql_those_that_beat_at_the_same_instant_agree_at_the_next_beat(tmp_path: Path, postgres_url: str) -> None:
    fleet = Fleet(tmp_path, postgres_url)
    chance = random.Random(5)
    try:
        for _ in range(3):
            await fleet.join()
        for _ in range(10):
            for process in fleet.all:
                process.end_all()
                process.need(chance.randrange(20), chance.choice([*Lane]))
            for _ in range(4):
                fleet.clock.advance(EVERY_S)
                await asyncio.gather(*(process.beat._turn() for process in fleet.all))
                for process in fleet.all:
                    process.slots.look()
            assert sum(fleet.shares) == SLOTS
    finally:
        for process in fleet.all:
            process.recorder.stop()
        fleet.db.close()


async def test_slow_requests_of_one_leave_what_fast_ones_of_another_need(fleet: Fleet) -> None:
    one, two = await fleet.join(), await fleet.join()
    await fleet.turn(times=2)
    one.need(50, Lane.SLOW)
    await fleet.turn(times=3)
    assert fleet.shares == [11, 1]
    two.need(8)
    await fleet.turn(times=3)
    assert fleet.shares == [4, 8]


async def test_a_stalled_ones_slots_go_to_the_others_long_before_it_is_buried_and_come_back(fleet: Fleet) -> None:
    one, two, three = [await fleet.join() for _ in range(3)]
    await fleet.turn(times=3)
    await fleet.turn(one, two, times=int(STILL_S))
    assert three.beat.member.replica_id in {replica.id for replica in fleet.known()}, "it is not buried yet"
    assert one.beat.processes == 3, "and it counts for the credits"
    await fleet.turn(one, two, times=2)
    assert (one.share, two.share) == (6, 6)
    three.slots.look()  # it runs again, and knows nothing yet
    assert three.share == 1
    await fleet.turn(three)
    assert three.share == 1, "it has beaten, but the others have not made room"
    await fleet.turn(one, two)
    await fleet.turn(three)
    assert fleet.shares == [4, 4, 4]


async def test_one_that_wakes_in_the_middle_of_a_beat_claims_nothing_of_what_it_had(fleet: Fleet) -> None:
    one, two = await fleet.join(), await fleet.join()
    await fleet.turn(times=3)
    await fleet.turn(one, times=int(STILL_S) + 2)
    assert one.share == SLOTS
    await fleet.turn(two)  # its beat comes before its next look
    assert fleet.shares == [SLOTS, 1]


async def test_a_short_hiccup_of_one_that_is_alone_takes_nothing_from_it(fleet: Fleet) -> None:
    one = await fleet.join()
    await fleet.turn(one)
    fleet.clock.advance(60)
    one.slots.look()
    assert one.share == SLOTS


async def test_while_nobody_can_reach_the_database_everybody_keeps_what_it_has(fleet: Fleet) -> None:
    one, _two = await fleet.join(), await fleet.join()
    one.need(9)
    await fleet.turn(times=3)
    assert fleet.shares == [10, 2]
    for _ in range(60):
        fleet.clock.advance(1)
        for process in fleet.all:
            process.slots.look()
    assert fleet.shares == [10, 2]
    await fleet.turn()
    assert fleet.shares == [10, 2], "nor does anybody who could not beat count as stalled"


async def test_one_that_leaves_gives_its_slots_up_at_once(fleet: Fleet) -> None:
    one, two = await fleet.join(), await fleet.join()
    await fleet.turn(times=3)
    two.beat.leave(fleet.db, booked=True)
    await fleet.turn(one)
    assert one.share == SLOTS


async def test_under_a_new_name_nothing_is_kept_of_what_the_old_one_had(fleet: Fleet) -> None:
    one, two = await fleet.join(), await fleet.join()
    await fleet.turn(times=3)
    with fleet.db.write() as session:
        leases.bury(session, two.beat.member.replica_id)
    await fleet.turn(one)
    assert one.share == SLOTS
    two.beat.displaced(two.beat.member.replica_id)
    two.slots.look()
    assert two.share == 1
    await fleet.turn(two)
    assert two.share == 1
    await fleet.turn(one)
    await fleet.turn(two)
    assert fleet.shares == [6, 6]


async def test_more_processes_than_slots_have_one_each(fleet: Fleet) -> None:
    for _ in range(3):
        (await fleet.join()).pool.slots = 2
    await fleet.turn(times=3)
    assert fleet.shares == [1, 1, 1]


async def test_one_that_sees_less_of_the_backend_takes_less_and_spoils_nobody_elses(fleet: Fleet) -> None:
    one, two = await fleet.join(), await fleet.join()
    two.pool.slots = 0  # it cannot reach any of the servers
    await fleet.turn(times=3)
    assert fleet.shares == [6, 1]
    one.need(20)
    await fleet.turn(times=3)
    assert fleet.shares == [SLOTS - 1, 1]


async def test_a_server_of_each_machines_own_is_not_shared(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    await fleet.join("http://127.0.0.1:8000/v1")
    await fleet.join("http://127.0.0.1:8000/v1")
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    other = await fleet.join("http://127.0.0.1:8000/v1")
    await fleet.turn(times=3)
    assert fleet.shares == [6, 6, SLOTS]
    assert other.processes == 1


def test_a_place_is_the_same_servers_in_any_order() -> None:
    urls = ["http://10.0.0.5:8000/v1", "http://10.0.0.6:8000/v1"]
    forth, back = [replica_at(url) for url in urls], [replica_at(url) for url in reversed(urls)]
    assert place_of(forth, "a") == place_of(back, "b") != place_of(forth[:1], "a")
    for local in ("http://localhost:1/v1", "http://127.0.0.2:1/v1", "http://[::1]:1/v1"):
        assert place_of([replica_at(local)], "a") != place_of([replica_at(local)], "b")


async def test_one_of_an_older_version_that_says_nothing_has_its_share_left_to_it(fleet: Fleet) -> None:
    one = await fleet.join()
    with fleet.db.write() as session:
        leases.register(session, Replica(id="old", beat=1, host="here", pid=1, started_us=0))
    one.need(50)
    await fleet.turn(one)
    assert one.share == SLOTS - 1
    assert one.processes == 2


async def test_a_backend_whose_slots_cannot_be_told_ends_neither_the_beat_nor_the_looking(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    one = await fleet.join()
    del one.pool.slots
    await fleet.turn(one)
    assert one.beat.alive
    assert one.beat.noted is None
    assert {"the note for the other processes could not be begun", "the slots of backend gpu could not be set; it is tried again"} <= {
        record.message for record in caplog.records
    }
    one.pool.slots = SLOTS
    await fleet.turn(one)
    assert one.share == SLOTS


async def test_the_whole_is_this_process_as_it_is_and_the_others_as_they_said(fleet: Fleet) -> None:
    one, two = await fleet.join(), await fleet.join()
    two.need(2, Lane.SLOW)
    two.board.noted("acme", Lane.SLOW, "credits_exhausted", Standing.SLOW, fleet.clock.now_us())
    await fleet.turn(times=2)
    one.need(1)  # after its last beat
    two.need(3, Lane.SLOW)  # which one has not heard
    fleet.clock.advance(0.5)
    whole = one.slots.whole()
    assert [(voice.here, round(voice.heard_s, 1)) for voice in whole.voices] == [(True, 0.0), (False, 0.5)]
    assert whole.backends[0].running == {Lane.FAST: 1, Lane.SLOW: 1}
    assert [(tenant.tenant, tenant.running, tenant.waiting) for tenant in whole.slow] == [("acme", 1, 1)]
    assert whole.backends[0].slots == SLOTS


async def test_following_looks_until_it_is_cancelled(fleet: Fleet) -> None:
    one = await fleet.join()
    one.gate.resize(3)
    following = asyncio.create_task(one.slots.follow())
    await asyncio.sleep(0)
    assert one.share == SLOTS
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
