"""One process among several, as the model sees it: the real accounts over a books thread whose work and whose news wait until told.

Between a request's step and the books' there may be any number of others' steps: `turn` does the books thread's next work, `hear`
delivers what it has to tell. What it settled is in its journal until a flush has told the loop so; that is what is left when it dies.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import msgspec
from sqlmodel import Session

from billing.credits.account import Account, Flushed
from billing.credits.accounts import Accounts
from billing.credits.draw import Member, Want
from billing.credits.purse import Hold, Purse
from billing.db import Database
from billing.errors import BooksUnavailable
from billing.leases import store as leases
from billing.leases.store import Replica
from billing.rating import Rate
from billing.usage.event import Lane, UsageEvent, taken
from billing.usage.records import Dispatched
from billing.usage.replay import recover
from billing.usage.writer import book
from billing.work import Urgency
from tests.books import event, request_id
from tests.clock import ManualClock
from tests.property.reference import Reference

TENANT = "acme"
RATE = Rate(id=1, model="m", effective_us=0, free=False, prices={"input": 1, "output": 1})


class Open(msgspec.Struct):
    """A request under way."""

    number: int
    account: Account
    hold: Hold
    key: str
    model: str
    started_us: int
    covered: bool
    lane: Lane = "fast"


class Worker:
    def __init__(self, db: Database, clock: ManualClock, numbers: Iterator[int], reference: Reference) -> None:
        self.db, self.clock, self.numbers, self.reference = db, clock, numbers, reference
        self.name = ""
        self.silent = False  # its beats do not reach the books
        self.out = False  # it was taken out of the books
        self.processes = 1
        self.urgent: deque[Callable[[str], None]] = deque()  # goes before `work`
        self.work: deque[Callable[[str], None]] = deque()
        self.news: deque[Callable[[], None]] = deque()
        self.open: list[Open] = []
        self.journal: list[UsageEvent] = []  # settled, and nobody has told the loop that it is booked
        self.queue: list[UsageEvent] = []  # of these, what no flush has taken up
        self.on_flushed: Callable[[list[Flushed]], None] | None = None
        self.accounts = Accounts(self, clock, self)
        self.certain = False  # what it knows of its leases is what the books have

    # What `Accounts` asks of the books and of the beat.

    def run(self, work: Callable[[Session], Any], then: Any = None, otherwise: Any = None, **how: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def do(lost: str) -> None:
            self.certain = False
            try:
                if lost == "before":
                    raise BooksUnavailable("away")
                with self.db.write() as session:
                    result = work(session)
                if lost == "after":
                    raise BooksUnavailable("the answer was lost")
            except BooksUnavailable as error:
                failure = error  # outlives the clause
                self.news.append(lambda: otherwise(failure) if otherwise else None)
                future.set_exception(error)
                return
            self.news.append(lambda: self._certainly(then, result))
            future.set_result(result)

        (self.urgent if how.get("urgency", Urgency.LATER) is not Urgency.LATER else self.work).append(do)
        return future

    def _certainly(self, then: Callable[[Any], None] | None, result: Any) -> None:
        if then is not None:
            then(result)
        self.certain = not self.silent

    @property
    def member(self) -> Member:
        return Member(replica_id=self.name, beats=(1,), processes=self.processes)

    def displaced(self, replica_id: str) -> None:
        if replica_id == self.name:
            self.join()

    @property
    def waiting(self) -> int:
        """How much the books thread has to do."""
        return len(self.urgent) + len(self.work)

    # The life of a process.

    def join(self) -> None:
        """Enter the books under a new name."""
        self.accounts.unleased()
        self.name = f"p{next(self.numbers)}"
        self.silent = self.certain = self.out = False
        with self.db.write() as session:
            leases.register(session, Replica(id=self.name, beat=1, host="here", pid=1, started_us=0))

    def fall_silent(self) -> None:
        self.silent, self.certain = True, False
        self.accounts.unleased()

    def buried(self) -> None:
        """Be taken out of the books, with all leases (by whoever has lost patience)."""
        with self.db.write() as session:
            leases.bury(session, self.name, 1)
        self.out = True

    def come_back(self) -> None:
        """Beat again: under a new name, if somebody has taken it for dead."""
        if self.out:
            self.join()
        self.silent = False

    # Requests.

    def ask(self, key: str, model: str, need: int, *, processes: int) -> None:
        self.processes = processes
        self.accounts._ask(TENANT, Want(key_id=key, project=None, model=model, need_ncr=need), urgent=True)  # `load` without its waiting

    def hold(self, key: str, model: str, amount: int) -> bool:
        account = self.accounts.get(TENANT)
        if account is None or self.silent:
            return False
        found = account.hold(account.claims(key, None, model), amount)
        if found is not None:
            self.open.append(Open(next(self.numbers), account, found, key, model, self.clock.now_us(), covered=True))
        return found is not None

    def open_past_credits(self, key: str, model: str, *, overage: bool) -> None:
        account = self.accounts.get(TENANT)
        if account is not None:
            found = account.open(account.claims(key, None, model))
            self.open.append(Open(next(self.numbers), account, found, key, model, self.clock.now_us(), covered=False, lane="fast" if overage else "slow"))

    def end(self, which: int, percent: int) -> int:
        """Settle a request, at so many percent of its hold (of 20 where it has none); return what it cost beyond its hold."""
        if not self.open:
            return 0
        one = self.open.pop(which % len(self.open))
        charge = (one.hold.amount_ncr or 20) * percent // 100
        cover = one.account.settle(one.hold, charge, full_cover=one.covered)
        made = event(one.number, charge, cover_ncr=cover.ncr, lane=one.lane, started_us=one.started_us)
        settled = msgspec.structs.replace(made, key_id=one.key, model=one.model, purses=cover.purses, day_us=one.account.day_at(one.started_us))
        self.journal.append(settled)
        self.queue.append(settled)
        return max(0, charge - one.hold.amount_ncr) if one.covered else 0

    def release(self, which: int) -> None:
        if self.open:
            one = self.open.pop(which % len(self.open))
            one.account.release(one.hold)

    def flush(self, count: int) -> None:
        """Have the books thread book what was settled first; a failure is told again until it succeeds, as the recorder does."""
        batch, self.queue = self.queue[:count], self.queue[count:]
        if batch:
            self.work.append(lambda lost: self._book(batch, lost))

    def _book(self, batch: list[UsageEvent], lost: str) -> None:
        self.certain = False
        if lost != "before":
            with self.db.write() as session:
                booked = book(session, batch, self.clock.now_us(), self.name)
            assert booked.conflicts == []
            for one in sorted(batch, key=lambda one: one.id):
                self.reference.tell(one)
        if lost:
            self.work.appendleft(lambda lost: self._book(batch, lost))
            return
        took = Counter[str]()
        for one in batch:
            took.update(taken(one))
            self.journal.remove(one)
        standing = booked.standings[TENANT]
        past = sum(one.charge_ncr - one.cover_ncr for one in batch)
        flushed = Flushed(tenant_id=TENANT, taken=dict(took), past_ncr=past, states=standing.states, ceilings=standing.ceilings, debt_ncr=standing.debt_ncr)
        self.news.append(lambda: self._certainly(self.on_flushed, [flushed]))

    def turn(self, lost: str) -> None:
        """Do the books thread's next work."""
        if self.waiting:
            (self.urgent or self.work).popleft()(lost)

    def settle_down(self) -> None:
        """Do all work, and hear all news."""
        while self.waiting or self.news:
            self.turn("")
            self.hear()

    def hear(self) -> None:
        if self.news:
            self.news.popleft()()

    def hear_of_a_change(self) -> None:
        """Hear that an admin wrote something of the tenant."""
        self.certain = False
        self.accounts.refresh(TENANT)

    def give_back(self, most_ncr: int) -> None:
        """Give back what it has and does not use, as it does now and then."""
        if not self.silent:
            self.accounts.give_back(most_ncr)

    def reconcile(self) -> None:
        """Look whether the books have more set aside for it than it knows of."""
        if not self.silent:
            self.accounts.reconcile()

    # What a test looks at.

    def promised(self) -> Counter[str]:
        """By purse: what is held, and what is settled and nobody's book has it."""
        found = Counter[str]()
        for one in self.open:
            for purse, amount in one.hold.parts:
                found[purse.name] += amount
        for settled in self.journal:
            if settled.id not in self.reference.told:
                found.update(taken(settled))
        return found

    def parts_known(self) -> tuple[Purse, ...]:
        """The purses of which it must know exactly what it has leased: it is in the books, nothing is on its way, and its news are the last."""
        if not self.certain or self.waiting or self.news or self.silent:
            return ()
        return tuple(part for account in self.accounts._accounts.values() for part in account.parts)

    def journal_told(self) -> list[UsageEvent]:
        """What its journal says when it is dead: what was settled, and by the evidence of its dispatch what was not."""
        lost = [
            recover(
                Dispatched(
                    id=request_id(one.number), tenant_id=TENANT, key_id=one.key, model=one.model, backend="b", upstream_model="u", endpoint="chat/completions",
                    started_us=one.started_us, lane=one.lane, rate_id=1, prompt_estimate=one.hold.amount_ncr // 2, covered=one.covered, held=one.hold.named(),
                ), None, RATE,
            )
            for one in self.open
        ]  # fmt: skip
        return [*self.journal, *lost]
