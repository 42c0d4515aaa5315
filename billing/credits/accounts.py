"""The accounts this process holds, by tenant: found in a dictionary on the road, drawn from the books when missing, short or out of date.

A draw runs on the books thread between two batches and is applied on the loop in order with the batches' own news, so it never races
one. Draws of one tenant that are asked for together are one. The number of accounts is bounded; one with an open request or an unbooked
settlement, or that somebody waits for, is never dropped, and what a dropped one had set aside goes back. Where the books are away, an
account serves on from its leases, until they end (`Tenure`) or its grants change (`valid_until_us`); a new one cannot be loaded.
"""

import asyncio
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Protocol, TypeVar

from sqlmodel import Session

from billing.credits.account import Account, Flushed, Snapshot
from billing.credits.draw import Displaced, Member, Want, draw
from billing.credits.purse import Claims, Purse
from billing.leases import store as leases
from billing.leases.store import Lease
from billing.tenants import store as tenants
from billing.work import Urgency

T = TypeVar("T")
ACCOUNTS_MAX = 50_000
EVICT_TRIES = 64
RETRY_S = 1.0
DRY_S = 1.0  # how long after the books had no more a tenant's requests wait before one of them asks again
ASK_EVERY_S = 0.25  # a tenant's lease is drawn up in the background at most so often
CALL_S = 0.35  # how long a call for credits needs: the change feed is read every 0.25 s
SPAN_S = 60.0  # what was used within one or two of these is worth keeping

log = logging.getLogger(__name__)


class Clock(Protocol):
    """Tells the time."""

    def now_us(self) -> int:
        """Return UTC epoch microseconds."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds that never go back."""
        ...


class Books(Protocol):
    """What accounts need of the recorder."""

    on_flushed: Callable[[list[Flushed]], None] | None

    def run(
        self,
        work: Callable[[Session], T],
        then: Callable[[T], None] | None = None,
        otherwise: Callable[[BaseException], None] | None = None,
        *,
        urgency: Urgency = Urgency.LATER,
        key: str | None = None,
    ) -> Future[T]:
        """Run work between two batches, by its urgency; `then` hears the result on the loop, or `otherwise` the failure, in order."""
        ...


class Tenure(Protocol):
    """Under which name this process has leases, and with how many it shares; see `gateway.beat`."""

    @property
    def member(self) -> Member:
        """Say it as the books must hear it (books thread)."""
        ...

    def displaced(self, replica_id: str) -> None:
        """Hear that the books do not know this process by that name (event loop)."""
        ...


class Asking:
    """One draw that is on its way to the books: what is wanted of it, by kind of request, until it begins."""

    __slots__ = ("drawing", "urgent", "waiting", "wants")

    def __init__(self, *, urgent: bool) -> None:
        self.wants: Counter[tuple[str, str | None, str]] = Counter()
        self.drawing: Future[Snapshot | None] | None = None
        self.urgent = urgent
        self.waiting = 0  # how many requests wait for it

    @property
    def over(self) -> bool:
        """Whether it failed before it began: the database was away."""
        return self.drawing is not None and self.drawing.done()


class Accounts:
    """Every method runs on the event loop."""

    def __init__(self, books: Books, clock: Clock, tenure: Tenure, *, accounts_max: int = ACCOUNTS_MAX) -> None:
        self._books = books
        self._clock = clock
        self._tenure = tenure
        self._max = accounts_max
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self._asking: dict[str, Asking] = {}
        self._lock = threading.Lock()  # over `_asking`: the books thread takes what the loop has put there
        self._awaited: Counter[str] = Counter()
        self._drawing: Counter[str] = Counter()  # draws under way, by tenant
        self._span_began_s = clock.monotonic_s()
        self._calling: dict[str, asyncio.Task[None]] = {}
        self._changed: set[str] = set()  # tenants whose account is being read because something of them changed
        self._failures = 0  # draws that failed since one succeeded
        self.on_more: Callable[[str], None] | None = None  # hears a tenant that has more than before: a grant has come
        books.on_flushed = self.flushed

    def __len__(self) -> int:
        return len(self._accounts)

    def count(self, exhausted: bool) -> int:
        """Count the accounts in memory that have no credits left, or those that have."""
        return sum((account.general.remaining_ncr - account.general.held_ncr <= 0) == exhausted for account in self._accounts.values())

    def get(self, tenant_id: str) -> Account | None:
        """Return a tenant's account, or None when it must be loaded first. A day that ended is looked up in the background."""
        account = self._accounts.get(tenant_id)
        if account is None:
            return None
        now_us = self._clock.now_us()
        if now_us >= account.valid_until_us:
            return None
        if account.stale or now_us >= account.day_ends_us:
            now_s = self._clock.monotonic_s()
            if now_s >= max(account.retry_s, account.asked_s + RETRY_S):
                account.stale, account.asked_s = False, now_s
                self._ask(tenant_id)
        self._accounts.move_to_end(tenant_id)
        return account

    def last_known(self, tenant_id: str) -> Account | None:
        """Return what is in memory of a tenant while the books cannot be asked; where its grants have changed since, without any lease."""
        account = self._accounts.get(tenant_id)
        if account is not None and self._clock.now_us() >= account.valid_until_us:
            account.unleased()
        return account

    async def load(self, tenant_id: str, want: Want | None = None) -> Account:
        """Draw a tenant's account from the books, its allowance written if the period is new. Raises `NotFound`, `BooksUnavailable`.

        Requests of one tenant that come together share one draw. Holds and unbooked settlements of an account that is there stay. What is
        returned may be dropped again from the next await on, unless a request was begun on it (`hold`, `open`).
        """
        self._awaited[tenant_id] += 1
        try:
            while True:
                asking = self._ask(tenant_id, want, urgent=True)
                assert asking.drawing is not None
                try:
                    await asyncio.shield(asyncio.wrap_future(asking.drawing))
                finally:
                    asking.waiting -= 1
                account = self._accounts.get(tenant_id)
                if account is not None:  # else it was dropped between a draw that had just ended and this waiting for it
                    return account
        finally:
            self._awaited[tenant_id] -= 1
            if not self._awaited[tenant_id]:
                del self._awaited[tenant_id]

    def _ask(self, tenant_id: str, want: Want | None = None, *, urgent: bool = False) -> Asking:
        """Draw what is wanted, soon: all that is asked before the books come to it goes into one transaction. Applied when its `drawing` is done.

        `urgent`: somebody waits for it, so it goes before those that nobody does; and is dropped if nobody does any more.
        """
        with self._lock:
            asking = self._asking.get(tenant_id)
            new = asking is None or asking.over or (urgent and not asking.urgent)
            if asking is None or new:
                asking = self._asking[tenant_id] = Asking(urgent=urgent)
            if want is not None:
                asking.wants[want.key_id, want.project, want.model] += want.need_ncr
            if urgent:
                asking.waiting += 1  # the caller takes it off when it waits no more
        if new:
            self._drawing[tenant_id] += 1
            mine = asking
            asking.drawing = self._books.run(
                lambda session: self._draw(session, tenant_id, mine),
                lambda snapshot: self._drawn(tenant_id, snapshot),
                lambda error: self._not_drawn(tenant_id, mine, error),
                urgency=Urgency.WAITED if urgent else Urgency.LATER,
                key=tenant_id,
            )
        return asking

    def want_more(self, account: Account, claims: Claims, want: Want) -> None:
        """Draw more in the background, unless that is under way or was a moment ago: the lease runs low."""
        now_s = self._clock.monotonic_s()
        if now_s >= account.asked_s + ASK_EVERY_S and now_s >= account.retry_s and not self._drawing[account.tenant_id] and claims.may_ask(now_s):
            account.asked_s = now_s
            self._ask(account.tenant_id, want)

    async def call_back(self, tenant_id: str) -> None:
        """Have every process give back what it has set aside of a tenant and does not hold, and wait until most will have; at most once at a time.

        Said through the change feed, which all of them follow. Raises `BooksUnavailable`.
        """
        calling = self._calling.get(tenant_id)
        if calling is None:
            calling = self._calling[tenant_id] = asyncio.create_task(self._call(tenant_id))
            calling.add_done_callback(lambda _done: self._calling.pop(tenant_id, None))
        await asyncio.shield(calling)

    async def _call(self, tenant_id: str) -> None:
        now_us = self._clock.now_us()
        await asyncio.wrap_future(self._books.run(lambda session: tenants.note_change(session, tenant_id, now_us), urgency=Urgency.WAITED))
        await asyncio.sleep(CALL_S)

    def ran_dry(self, claims: Claims) -> None:
        """Note that the books had no more for such requests; the next one asks in a second."""
        claims.dry_until_s = self._clock.monotonic_s() + DRY_S

    def refresh(self, tenant_id: str) -> None:
        """Read a loaded account again soon, after an admin changed something. A failure is logged: it serves on as it is.

        A draw that is under way may have begun before the change, so this is always one more.
        """
        if tenant_id in self._accounts or self._drawing[tenant_id]:
            with self._lock:
                self._asking.pop(tenant_id, None)
            self._changed.add(tenant_id)
            self._ask(tenant_id)

    def refresh_all(self) -> None:
        """Read every loaded account again, each when it is next asked for: a plan changed. Reading them all at once would hold up the books."""
        for account in self._accounts.values():
            account.stale = True

    def flushed(self, flushes: list[Flushed]) -> None:
        """Hear what a batch did."""
        for flush in flushes:
            account = self._accounts.get(flush.tenant_id)
            if account is not None:
                account.flushed(flush)

    def unleased(self) -> None:
        """Forget every lease of this process: it goes on under a new name, and draws anew what it needs."""
        for account in self._accounts.values():
            account.unleased()

    def give_back(self, most_ncr: int) -> int:
        """Give back what is set aside for this process and not worth keeping, since others may want it; return how many parts have any.

        Of each purse it keeps what it used in the last minute or two; while there is some for everybody also as much as is set aside beforehand.
        """
        surplus = [(account.tenant_id, part, ncr) for account in self._accounts.values() for part in account.parts if (ncr := part.surplus_ncr(most_ncr)) > 0]
        self._return(surplus)
        now_s = self._clock.monotonic_s()
        if now_s >= self._span_began_s + SPAN_S:
            self._span_began_s = now_s
            for account in self._accounts.values():
                for part in account.parts:
                    part.next_span()
        return len(surplus)

    def reconcile(self) -> None:
        """Compare what the books have set aside for this process with what it knows of: an answer was lost, or a giving back failed."""
        self._books.run(lambda session: leases.held_by(session, self._tenure.member.replica_id), self._compare)

    def _compare(self, held: list[Lease]) -> None:
        # All that was told before this reading is applied, and nothing after it: but for draws and returns under way, both sides must be the same.
        booked = {(lease.tenant_id, lease.purse): lease.amount_ncr for lease in held if lease.tenant_id not in self._drawing}
        surplus: list[tuple[str, Purse, int]] = []
        for tenant_id, account in self._accounts.items():
            if tenant_id in self._drawing:
                continue
            for part in account.parts:
                amount_ncr = booked.pop((tenant_id, part.name), 0)
                if amount_ncr > part.lease_ncr:
                    surplus.append((tenant_id, part, amount_ncr - part.lease_ncr))
                part.lease_ncr = amount_ncr
        self._return(surplus)
        for (tenant_id, purse), ncr in booked.items():  # nobody here knows of them: before any draw of the tenant that is asked for from now on
            self._books.run(partial(self._lower, {(tenant_id, purse): ncr}), urgency=Urgency.WAITED, key=tenant_id)
        if surplus or booked:
            log.info("credits: %d leases that this process did not know of go back", len(surplus) + len(booked))

    def _lower(self, amounts: dict[tuple[str, str], int], session: Session) -> None:
        leases.lower(session, self._tenure.member.replica_id, amounts)

    def _return(self, surplus: list[tuple[str, Purse, int]]) -> None:
        if not surplus:
            return
        amounts = {(tenant_id, part.name): ncr for tenant_id, part, ncr in surplus}
        for _tenant_id, part, ncr in surplus:
            part.returning_ncr += ncr

        def returned(_done: object) -> None:
            # Also after a failure: the commit may have been made. What the books have and this process does not know of, `reconcile` finds.
            for _tenant_id, part, ncr in surplus:
                part.lease_ncr = max(0, part.lease_ncr - ncr)
                part.returning_ncr = max(0, part.returning_ncr - ncr)
                part.available_ncr += ncr
                part.asked_ncr = 0

        self._books.run(partial(self._lower, amounts), returned, returned)

    def _draw(self, session: Session, tenant_id: str, asking: Asking) -> Snapshot | None:
        with self._lock:
            if self._asking.get(tenant_id) is asking:
                del self._asking[tenant_id]
            if asking.urgent and not asking.waiting:
                return None  # whoever waited has given up: those that still wait come the sooner
            wants = [Want(key_id=key, project=project, model=model, need_ncr=need) for (key, project, model), need in asking.wants.items()]
        return draw(session, self._tenure.member, tenant_id, wants, self._clock.now_us())

    def _drawn(self, tenant_id: str, snapshot: Snapshot | None) -> None:
        self._drawing_over(tenant_id)
        if self._failures:
            log.info("credits: accounts can be drawn again, after %d that could not", self._failures)
            self._failures = 0
        account = self._accounts.get(tenant_id)
        if snapshot is None:
            return
        if account is None:
            self._accounts[tenant_id] = Account(snapshot)
            self._evict()
        else:
            before_ncr = account.left_ncr
            account.reloaded(snapshot)
            if account.left_ncr > before_ncr and self.on_more is not None:
                self.on_more(tenant_id)
            if tenant_id in self._changed:
                self._called_back(account)

    def _called_back(self, account: Account) -> None:
        """Give back all that is free where nobody else can have any: the change may be another process that calls for it."""
        self._changed.discard(account.tenant_id)
        if self._tenure.member.processes > 1 and account.tenant_id not in self._calling:
            self._return([(account.tenant_id, part, part.free_ncr) for part in account.parts if part.available_ncr <= 0 and part.free_ncr > 0])

    def _not_drawn(self, tenant_id: str, asking: Asking, error: BaseException) -> None:
        self._drawing_over(tenant_id)
        with self._lock:
            if self._asking.get(tenant_id) is asking:  # the database was away before the draw could begin
                del self._asking[tenant_id]
        if isinstance(error, Displaced):
            self._tenure.displaced(error.replica_id)
        if not self._failures:  # the others until one can be drawn again are only counted
            log.warning("credits: the account of %s cannot be drawn: %s", tenant_id, error)
        self._failures += 1
        account = self._accounts.get(tenant_id)
        if account is not None:
            account.retry_s = self._clock.monotonic_s() + RETRY_S
            account.stale = True  # it serves on as it is; a request after that instant asks again

    def _drawing_over(self, tenant_id: str) -> None:
        self._drawing[tenant_id] -= 1
        if self._drawing[tenant_id] <= 0:
            del self._drawing[tenant_id]

    def _evict(self) -> None:
        for _ in range(EVICT_TRIES):
            if len(self._accounts) <= self._max:
                return
            oldest = next(iter(self._accounts))
            account = self._accounts[oldest]
            if account.busy or oldest in self._awaited or oldest in self._drawing:
                self._accounts.move_to_end(oldest)
            else:
                del self._accounts[oldest]
                self._return([(oldest, part, part.free_ncr) for part in account.parts if part.free_ncr > 0])
