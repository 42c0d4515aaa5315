"""The invariants of the books, by number, over processes that hold, settle, flush, crash, are taken for dead, and come back; against a reference.

Several processes share one tenant's credits. Each has what a real one has: accounts in memory, a books thread whose work and whose news
are done later (`Worker`), a journal that outlives it. Grants have scopes, begin, end and are voided meanwhile. The reference
(`reference.py`) is told what is booked, in the order of its booking, and knows nothing of all that.

    1 available + leases + consumed - debt = grants    6 told again, in any order: no change      9 burn order (by the reference)
    2 nothing negative                                 7 booked in any batches: the reference's   10 overshoot within its bound
    3 every transaction sums to 0                        knows none                               (16, 17 are in test_rate_variants,
    4 each grant = remaining + consumed + expired      8 no grant outside its life (by the         19 in test_proration, 20 in
      + voided   5 usage = consumed + debt               reference)                                test_fair_queue)

11-15 and 18 are the periods', the invoices' and the exports' (11: test_billing_periods).

What is promised (open holds, and settled but not booked) never exceeds what is there, but by what the specification allows: what a request
cost beyond its hold, what was voided or ended under holds, and what a process had promised that was taken for dead.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from billing.credits import store as accounts
from billing.db import Database
from billing.grants import store as grants
from billing.grants.grant import Grant, purse_of
from billing.jobs import run_jobs
from billing.jobs.expire_grants import GRACE_US
from billing.leases import store as leases
from billing.ledger import store as ledger
from billing.operations.grants import void_grant
from billing.usage.event import UsageEvent
from billing.usage.verify import verify
from billing.usage.writer import book
from tests.books import HOUR_US, grant, seed
from tests.clock import ManualClock
from tests.desk import migrated
from tests.property.reference import Given, Reference
from tests.property.worker import TENANT, Worker

AMOUNTS = st.integers(1, 40)
KEYS, MODELS = st.sampled_from(["key_1", "key_2"]), st.sampled_from(["m", "n"])
SCOPES = st.sampled_from([{}, {}, {}, {"key_id": "key_1"}, {"models": ("m",)}])
WORKERS = 3
NTH = st.integers(0, 5)
LIVES = st.tuples(st.integers(0, 1), st.none() | st.integers(1, 4))  # hours until it begins, and that it lasts
OFTEN = ["request"] * 6 + ["end"] * 5 + ["flush"] * 2 + ["turn"] * 2
WHAT = st.sampled_from([*OFTEN, "hear", "release", "give back", "reconcile", "request past the credits"])


ABLE: dict[str, Callable[[Worker], object]] = {  # where it would do nothing, another process does it
    "request": lambda worker: not worker.silent,
    "end": lambda worker: worker.open,
    "release": lambda worker: worker.open,
    "flush": lambda worker: worker.queue,
    "turn": lambda worker: worker.waiting,
    "hear": lambda worker: worker.news,
}


class Action(NamedTuple):
    """What one process does next, and all that it may need for it."""

    who: int
    what: str
    which: int
    key: str
    model: str
    amount: int
    percent: int  # of its hold that a request costs
    chance: bool
    lost: str  # how the database fails: before a commit, or its answer after


ACTIONS = st.builds(
    Action, who=NTH, what=WHAT, which=NTH, key=KEYS, model=MODELS, amount=AMOUNTS, percent=st.integers(0, 150), chance=st.booleans(),
    lost=st.sampled_from(["", "", "", "before", "after"]),
)  # fmt: skip


class Invariants(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "weir.db"
        path.write_bytes(migrated())
        self.db = Database(f"sqlite:///{path}")
        self.clock = ManualClock()
        self.reference = Reference()
        self.workers: list[Worker] = []
        self.dead: list[Worker] = []
        self.numbers = iter(range(10**6))
        self.excused = 0
        seed(self.db, TENANT)

    def teardown(self) -> None:
        self.db.close()
        self.folder.cleanup()

    # Grants.

    @initialize(amount=st.integers(40, 400), strict=st.booleans())
    def begin(self, amount: int, strict: bool) -> None:
        """`strict`: nothing happens that would excuse an overshoot, so there must be none."""
        self.strict = strict
        self._give(grant(f"g{next(self.numbers)}", amount, effective_us=self.clock.now_us()))
        for _ in range(WORKERS):
            self.start()

    @rule(amount=AMOUNTS, scope=SCOPES, promotion=st.booleans(), priority=st.integers(0, 1), life=LIVES)
    def give(self, amount: int, scope: dict[str, object], promotion: bool, priority: int, life: tuple[int, int | None]) -> None:
        starts, lasts = life
        effective_us = self.clock.now_us() + starts * HOUR_US
        expires_us = None if lasts is None or self.strict else effective_us + lasts * HOUR_US
        kind = "promotion" if promotion else "topup"
        name = f"g{next(self.numbers)}"
        self._give(grant(name, amount, kind=kind, priority=priority, effective_us=effective_us, expires_us=expires_us, **scope))

    def _give(self, one: Grant) -> None:
        with self.db.write() as session:
            assert grants.insert_grant(session, one)
        self.reference.given[one.id] = Given(one, one.amount_ncr)

    @rule(what=st.sampled_from(["hour", "hour", "grace", "void"]), which=NTH)
    def age(self, what: str, which: int) -> None:
        """Let grants end: by their time, for good after the grace, or because somebody takes them back."""
        now_us = self.clock.now_us()
        usable = [one for one in self.reference.given.values() if one.usable(now_us)]
        if what == "void" and usable and not self.strict:
            grant_id = usable[which % len(usable)].grant.id
            void_grant(self.db, grant_id, now_us)
            self.excused += self.reference.void(grant_id)
            for worker in self.workers:
                worker.hear_of_a_change()
        elif what != "void":
            self.clock.at_us += HOUR_US if what == "hour" else GRACE_US
            self.excused += sum(one.remaining for one in usable if not one.usable(self.clock.now_us()))
            run_jobs(self.db, self.clock.now_us())
            self.reference.close(self.clock.now_us() - GRACE_US)

    # Processes.

    def start(self) -> None:
        worker = Worker(self.db, self.clock, self.numbers, self.reference)
        worker.join()
        self.workers.append(worker)

    @rule(actions=st.lists(ACTIONS, min_size=1, max_size=6))
    def live(self, actions: list[Action]) -> None:
        """Have processes do what they do all day."""
        for one in actions:
            able = [worker for worker in self.workers if ABLE.get(one.what, lambda _worker: True)(worker)]
            if able:
                self._act(able[one.who % len(able)], one)

    def _act(self, worker: Worker, one: Action) -> None:
        match one.what:
            case "request":
                self._request(worker, one)
            case "request past the credits":
                worker.open_past_credits(one.key, one.model, overage=one.chance)
            case "end":
                self.excused += worker.end(one.which, min(one.percent, 100) if self.strict else one.percent)
            case "release":
                worker.release(one.which)
            case "flush":
                worker.flush(one.which + 1)
                if one.chance:
                    worker.settle_down()
            case "turn":
                worker.turn(one.lost)
            case "hear":
                worker.hear()
            case "give back":
                worker.give_back(one.amount)
            case "reconcile":
                worker.reconcile()

    def _request(self, worker: Worker, one: Action) -> None:
        """Begin a request. Where the lease is short, credits are drawn first; or that takes a while, and the request goes without."""
        if not worker.hold(one.key, one.model, one.amount):
            worker.ask(one.key, one.model, one.amount, processes=WORKERS)
            if one.chance:
                worker.settle_down()
                worker.hold(one.key, one.model, one.amount)

    @rule(who=NTH, what=st.sampled_from(["silent", "silent and buried", "back", "crash"]))
    def suffer(self, who: int, what: str) -> None:
        """Have a process be stopped for a term, be taken for dead, come back, or die."""
        worker = self.workers[who % WORKERS]
        if what == "crash":
            self.workers.remove(worker)
            self.dead.append(worker)
            self.start()
        elif what == "back":
            worker.come_back()
        else:
            worker.fall_silent()
            if what == "silent and buried" and not worker.out and not (self.strict and worker.promised()):
                self.excused += sum(worker.promised().values())
                worker.buried()

    @precondition(lambda self: self.dead)
    @rule(who=NTH, replayed=st.booleans(), cut=st.integers(0, 6))
    def bury(self, who: int, replayed: bool, cut: int) -> None:
        """Replay the journal of a dead one, in two batches, and give back what it had; or give it back first, as another machine would."""
        worker = self.dead.pop(who % len(self.dead))
        if not replayed and not self.strict:
            self.excused += sum(worker.promised().values())
            worker.buried()
        told = worker.journal_told()
        for batch in (told[:cut], told[cut:], told):
            self._tell(batch, worker.name)
        worker.buried()

    @rule(order=st.randoms(use_true_random=False))
    def tell_again(self, order: Random) -> None:
        known = list(self.reference.told.values())
        order.shuffle(known)
        self._tell(known[:5])
        with self.db.read() as session:
            assert verify(session, self.clock.now_us()) == []

    def _tell(self, events: list[UsageEvent], *gone: str) -> None:
        """Tell events of a process that is gone: none of the living has leases for them."""
        if not events:
            return
        with self.db.write() as session:
            assert book(session, events, self.clock.now_us(), "", frozenset(), gone=gone).conflicts == []
        for event in sorted(events, key=lambda event: event.id):
            self.reference.tell(event)

    # What must hold.

    @invariant()
    def the_books_are_the_references(self) -> None:
        with self.db.read() as session:
            assert ledger.unbalanced(session) == []  # 3
            for one in grants.all_grants(session, TENANT):  # 4, 7, 8, 9
                expected = self.reference.given[one.id]
                assert (one.remaining_ncr, one.expired_ncr, one.voided_ncr) == (expected.remaining, expected.expired, expected.voided), one.id
                assert one.amount_ncr == one.remaining_ncr + expected.consumed + one.expired_ncr + one.voided_ncr
                assert min(one.remaining_ncr, one.expired_ncr, one.voided_ncr) >= 0  # 2
            account = accounts.get(session, TENANT)
            charged = sum(event.charge_ncr for event in self.reference.told.values())
            assert account.debt_ncr == self.reference.debt >= 0
            assert charged == account.consumed_ncr + account.debt_ncr + account.excess_ncr + account.overage_ncr  # 5
            assert account.consumed_ncr == sum(one.consumed for one in self.reference.given.values())
            assert account.consumed_ncr == sum(self.reference.covered.values()) + self.reference.repaid

    @invariant()
    def what_is_promised_is_there(self) -> None:
        """10, and with it 1: what every process may still take, and has promised, is in the grants, but by what is excused."""
        now_us = self.clock.now_us()
        with self.db.read() as session:
            held = leases.leases_of(session, [TENANT]).get(TENANT, [])
        purses = {purse_of(one.grant) for one in self.reference.given.values()} | {""}
        for purse in purses:
            left = self.reference.left(purse, now_us)
            leased = [lease.amount_ncr for lease in held if lease.purse == purse and lease.valid_until_us > now_us]
            promised = sum(worker.promised().get(purse, 0) for worker in (*self.workers, *self.dead))
            note(f"{purse!r}: {left} there, {leased} leased, {promised} promised, {self.excused} excused")
            assert all(amount >= 0 for amount in leased)
            assert sum(leased) <= max(0, left) + self.excused
            assert promised <= max(0, left) + self.excused if purse else promised <= left + self.excused

    @invariant()
    def each_knows_its_lease(self) -> None:
        with self.db.read() as session:
            held = {(lease.replica_id, lease.purse): lease.amount_ncr for lease in leases.leases_of(session, [TENANT]).get(TENANT, [])}
            living = {replica.id for replica in leases.replicas(session)}
        assert {name for name, _purse in held} <= living, "credits are set aside for who is gone"
        for worker in self.workers:
            for part in worker.parts_known():
                assert part.lease_ncr == held.get((worker.name, part.name), 0), (worker.name, part.name)
                assert part.free_ncr >= -self.excused, "more is promised than set aside"


TestInvariants = Invariants.TestCase
TestInvariants.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))
