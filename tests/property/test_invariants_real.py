"""The same invariants on a real PostgreSQL with real threads: processes that draw, hold, settle, flush, die and come back at the same time.

Shorter than the model (`test_invariants.py`), and with what only a database under concurrency can get wrong: who locks what, and what is
seen of each other. No step waits for another's; the seed says what each thread does, not in which order.
"""

import random
import threading
import time
from collections import Counter
from itertools import count

import pytest

from billing.credits import store as accounts
from billing.db import Database
from billing.grants import store as grants
from billing.grants.grant import GENERAL
from billing.leases import store as leases
from billing.usage import store
from billing.usage.event import UsageEvent
from billing.usage.verify import verify
from billing.usage.writer import book
from tests.books import grant, seed
from tests.clock import ManualClock
from tests.property.reference import Reference
from tests.property.worker import TENANT, Worker

pytestmark = [pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(120)]

WORKERS, STEPS = 4, 120
GENERAL_NCR, SEAT_NCR = 4_000, 500
HOLD_NCR_MAX = 40


class Nobody(Reference):
    """Is told nothing: with threads there is no one order. The books are looked at when all is done."""

    def tell(self, event: UsageEvent) -> None:
        pass


class Life(threading.Thread):
    """One process after another: each does so many steps, dies, and is replayed by the next."""

    def __init__(self, url: str, clock: ManualClock, numbers: "count[int]", chance: random.Random) -> None:
        super().__init__()
        self.db, self.clock, self.numbers, self.chance = Database(url), clock, numbers, chance
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            before: Worker | None = None
            for steps in (STEPS // 3, STEPS // 3, STEPS // 3):
                worker = Worker(self.db, self.clock, self.numbers, Nobody())
                worker.join()
                if before is not None:
                    self.replay(before)
                for _ in range(steps):
                    self.step(worker)
                before = worker
            if before is not None:
                while before.open:
                    before.end(0, 100)
                before.flush(10**6)
                before.settle_down()
                before.buried()
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.failure = error
        finally:
            self.db.close()

    def step(self, worker: Worker) -> None:
        key, model, amount = self.chance.choice(["key_1", "key_2"]), self.chance.choice("mn"), self.chance.randint(1, HOLD_NCR_MAX)
        if not worker.hold(key, model, amount):
            worker.ask(key, model, amount, processes=WORKERS)
            worker.settle_down()
            if not worker.hold(key, model, amount):
                worker.open_past_credits(key, model, overage=False)
        while len(worker.open) > 3:
            worker.end(self.chance.randrange(3), self.chance.randint(0, 100))
        if self.chance.random() < 0.3:
            worker.flush(self.chance.randint(1, 5))
            worker.settle_down()
        if self.chance.random() < 0.05:
            worker.give_back(2**62)

    def replay(self, dead: Worker) -> None:
        told = dead.journal_told()
        for batch in (told[:2], told[2:], told):
            if batch:
                self.tell(batch, dead.name)
        dead.buried()

    def tell(self, batch: list[UsageEvent], dead: str) -> None:
        self.db.retrying(lambda session: book(session, batch, self.clock.now_us(), "", frozenset(), gone=(dead,)))


def test_with_threads_nothing_is_spent_twice_and_every_event_is_in_once(postgres_url: str) -> None:
    number = time.time_ns() % 10**6
    print(f"seed {number}")
    db, clock = Database(postgres_url), ManualClock()
    db.migrate()
    seed(db, TENANT, grant("general", GENERAL_NCR), grant("seat", SEAT_NCR, key_id="key_1"))
    numbers = count()
    lives = [Life(postgres_url, clock, numbers, random.Random(number + index)) for index in range(WORKERS)]
    for life in lives:
        life.start()
    while any(life.is_alive() for life in lives):
        look(db)
    for life in lives:
        life.join()
    assert [life.failure for life in lives if life.failure] == []
    with db.read() as session:
        assert verify(session, clock.now_us()) == []
        account = accounts.get(session, TENANT)
        left = {one.id: one.remaining_ncr for one in grants.all_grants(session, TENANT)}
        events = [event for event, _covered in store.events_between(session, 0, 2**62)]
        assert leases.leases_of(session, [TENANT]) == {}
    assert account.debt_ncr == 0, "known lengths: nobody spends what another may"
    assert account.consumed_ncr + sum(left.values()) == GENERAL_NCR + SEAT_NCR
    assert account.consumed_ncr == sum(event.cover_ncr for event in events)
    assert max(Counter(event.id for event in events).values()) == 1
    assert left["general"] < HOLD_NCR_MAX * WORKERS, "the credits were nearly used up, or nothing was proved"
    db.close()


def look(db: Database) -> None:
    """Look at the books in one snapshot while they change: at no instant is more set aside than there is."""
    with db.read(snapshot=True) as session:
        held = leases.leases_of(session, [TENANT]).get(TENANT, [])
        left = sum(one.remaining_ncr for one in grants.all_grants(session, TENANT) if one.key_id is None) - accounts.get(session, TENANT).debt_ncr
    assert sum(lease.amount_ncr for lease in held if lease.purse == GENERAL) <= left
