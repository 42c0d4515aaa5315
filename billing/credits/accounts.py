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
from typing import Protocol, TypeVar

from sqlmodel import Session

from billing.credits.account import Account, Flushed, Snapshot
from billing.credits.draw import Displaced, Member, Want, draw
from billing.credits.purse import Claims, Purse
from billing.leases import store as leases

T = TypeVar("T")
ACCOUNTS_MAX = 50_000
EVICT_TRIES = 64
RETRY_US = 1_000_000
DRY_US = 1_000_000  # how long after the books had no more a tenant's requests wait before one of them asks again

log = logging.getLogger(__name__)


class Clock(Protocol):
    """Tells the time."""

    def now_us(self) -> int:
        """Return UTC epoch microseconds."""
        ...


class Books(Protocol):
    """What accounts need of the recorder."""

    on_flushed: Callable[[list[Flushed]], None] | None

    def run(self, work: Callable[[Session], T], then: Callable[[T], None] | None = None, otherwise: Callable[[BaseException], None] | None = None) -> Future[T]:
        """Run work between two batches; `then` hears the result on the loop, or `otherwise` the failure, in order with `on_flushed`."""
        ...


class Tenure(Protocol):
    """Under which name this process has leases, and with how many it shares; see `gateway.beat`."""

    @property
    def member(self) -> Member:
        """Say it as the books must hear it (books thread)."""
        ...

    def displaced(self) -> None:
        """Hear that the books know this process no more (event loop)."""
        ...


class Asking:
    """One draw that is on its way to the books: what is wanted of it, by kind of request, until it begins."""

    __slots__ = ("drawing", "wants")

    def __init__(self) -> None:
        self.wants: Counter[tuple[str, str | None, str]] = Counter()
        self.drawing: Future[Snapshot] | None = None

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
        if (account.stale or now_us >= account.day_ends_us) and now_us >= account.retry_us:
            account.stale = False
            account.retry_us = now_us + RETRY_US
            self.ask(tenant_id)
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
                await asyncio.shield(asyncio.wrap_future(self.ask(tenant_id, want)))
                account = self._accounts.get(tenant_id)
                if account is not None:  # else it was dropped between a draw that had just ended and this waiting for it
                    return account
        finally:
            self._awaited[tenant_id] -= 1
            if not self._awaited[tenant_id]:
                del self._awaited[tenant_id]

    def ask(self, tenant_id: str, want: Want | None = None) -> Future[Snapshot]:
        """Draw what is wanted, soon: all that is asked before the books come to it goes into one transaction. Applied when the future is done."""
        with self._lock:
            asking = self._asking.get(tenant_id)
            new = asking is None or asking.over
            if asking is None or new:
                asking = self._asking[tenant_id] = Asking()
            if want is not None:
                asking.wants[want.key_id, want.project, want.model] += want.need_ncr
        if new:
            asking.drawing = self._books.run(
                lambda session: self._draw(session, tenant_id, asking), self._drawn, lambda error: self._not_drawn(tenant_id, asking, error)
            )
        assert asking.drawing is not None, "asked again from within the asking"
        return asking.drawing

    def want_more(self, account: Account, claims: Claims, want: Want) -> None:
        """Draw more in the background, unless that is under way: the lease runs low."""
        asking, now_us = self._asking.get(account.tenant_id), self._clock.now_us()
        if (asking is None or asking.over) and now_us >= account.retry_us and claims.may_ask(now_us):
            self.ask(account.tenant_id, want)

    def ran_dry(self, claims: Claims) -> None:
        """Note that the books had no more for such requests; the next one asks in a second."""
        claims.dry_until_us = self._clock.now_us() + DRY_US

    def refresh(self, tenant_id: str) -> None:
        """Read a loaded account again soon, after an admin changed something. A failure is logged: it serves on as it is.

        A draw that is under way may have begun before the change, so this is always one more.
        """
        if tenant_id in self._accounts:
            with self._lock:
                self._asking.pop(tenant_id, None)
            self.ask(tenant_id)

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

    def give_back_idle(self, before_us: int) -> int:
        """Give back what accounts without a request since an instant have set aside; return how many such parts there are."""
        idle = [
            (account.tenant_id, part)
            for account in self._accounts.values()
            if not account.open_requests
            for part in account.parts
            if part.used_at_us < before_us and not part.busy and part.lease_ncr > part.returning_ncr
        ]
        self._give_back(idle)
        return len(idle)

    def _give_back(self, idle: list[tuple[str, Purse]]) -> None:
        amounts = {(tenant_id, part.name): free_ncr for tenant_id, part in idle if (free_ncr := part.free_ncr) > 0}
        if not amounts:
            return
        for tenant_id, part in idle:
            part.returning_ncr += amounts.get((tenant_id, part.name), 0)

        def returned(_done: object) -> None:
            # Also after a failure: the commit may have been made, and whatever the books have, they say with the next draw or flush.
            for tenant_id, part in idle:
                ncr = amounts.get((tenant_id, part.name), 0)
                part.lease_ncr = max(0, part.lease_ncr - ncr)
                part.returning_ncr = max(0, part.returning_ncr - ncr)
                part.available_ncr += ncr
                part.asked_ncr = 0

        self._books.run(lambda session: leases.lower(session, self._tenure.member.replica_id, amounts), returned, returned)

    def _draw(self, session: Session, tenant_id: str, asking: Asking) -> Snapshot:
        with self._lock:
            if self._asking.get(tenant_id) is asking:
                del self._asking[tenant_id]
            wants = [Want(key_id=key, project=project, model=model, need_ncr=need) for (key, project, model), need in asking.wants.items()]
        return draw(session, self._tenure.member, tenant_id, wants, self._clock.now_us())

    def _drawn(self, snapshot: Snapshot) -> None:
        account = self._accounts.get(snapshot.tenant_id)
        if account is None:
            self._accounts[snapshot.tenant_id] = Account(snapshot)
            self._evict()
        else:
            account.reloaded(snapshot)

    def _not_drawn(self, tenant_id: str, asking: Asking, error: BaseException) -> None:
        with self._lock:
            if self._asking.get(tenant_id) is asking:  # the database was away before the draw could begin
                del self._asking[tenant_id]
        if isinstance(error, Displaced):
            self._tenure.displaced()
        log.warning("credits: the account of %s cannot be drawn: %s", tenant_id, error)
        account = self._accounts.get(tenant_id)
        if account is not None:
            account.retry_us = self._clock.now_us() + RETRY_US
            account.stale = True  # it serves on as it is; a request after that instant asks again

    def _evict(self) -> None:
        for _ in range(EVICT_TRIES):
            if len(self._accounts) <= self._max:
                return
            oldest = next(iter(self._accounts))
            account = self._accounts[oldest]
            if account.busy or oldest in self._awaited:
                self._accounts.move_to_end(oldest)
            else:
                del self._accounts[oldest]
                self._give_back([(oldest, part) for part in account.parts])
