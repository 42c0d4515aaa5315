"""The accounts this process holds, by tenant: found in a dictionary on the road, loaded from the books when missing or out of date.

A snapshot is read on the books thread between two batches and applied on the loop in order with the batches' own news, so it never
races one. The number kept is bounded; one with an open request or an unbooked settlement, or that somebody waits for, is never
dropped. Where the books are away, an account serves on until `valid_until_us`, when its grants change; a new one cannot be loaded.
"""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from sqlmodel import Session

from billing.credits import store
from billing.credits.account import Account, Flushed, Snapshot
from billing.credits.burndown import spendable_ncr
from billing.errors import NotFound
from billing.grants import store as grants
from billing.grants.allowance import current_period, ensure_allowance
from billing.grants.periods import day_span
from billing.tenants import store as tenants

T = TypeVar("T")
ACCOUNTS_MAX = 50_000
EVICT_TRIES = 64
RETRY_US = 1_000_000
FOREVER_US = 2**62

log = logging.getLogger(__name__)


class Clock(Protocol):
    """Tells the time."""

    def now_us(self) -> int:
        """Return UTC epoch microseconds."""
        ...


class Books(Protocol):
    """What accounts need of the recorder."""

    on_flushed: Callable[[list[Flushed]], None] | None

    def run(self, work: Callable[[Session], T], then: Callable[[T], None] | None = None) -> Future[T]:
        """Run work between two batches; `then` hears the result on the loop, in order with `on_flushed`."""
        ...

    def past_since(self, session: Session, tenant_id: str, since_us: int) -> int:
        """Return what a tenant used past its credits since an instant (ncr)."""
        ...


class Accounts:
    """Every method runs on the event loop."""

    def __init__(self, books: Books, clock: Clock, *, accounts_max: int = ACCOUNTS_MAX) -> None:
        self._books = books
        self._clock = clock
        self._max = accounts_max
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self._loading: dict[str, Future[Snapshot]] = {}
        self._awaited: Counter[str] = Counter()
        books.on_flushed = self.flushed

    def __len__(self) -> int:
        return len(self._accounts)

    def count(self, exhausted: bool) -> int:
        """Count the accounts in memory that have no credits left, or those that have."""
        return sum((account.free_ncr <= 0) == exhausted for account in self._accounts.values())

    def get(self, tenant_id: str) -> Account | None:
        """Return a tenant's account, or None when it must be loaded first. A day that ended is looked up in the background."""
        account = self._accounts.get(tenant_id)
        if account is None:
            return None
        now_us = self._clock.now_us()
        if now_us >= account.valid_until_us:
            return None
        if (account.stale or now_us >= account.day_ends_us) and now_us >= account.retry_us:
            if account.stale:
                account.stale = False
                self._read(tenant_id)
            else:
                self._begin(tenant_id)
        self._accounts.move_to_end(tenant_id)
        return account

    async def load(self, tenant_id: str) -> Account:
        """Read a tenant's account from the books, its allowance written if the period is new. Raises `NotFound`, `BooksUnavailable`.

        Requests of one tenant that come together share one reading. Holds and unbooked settlements of an account that is there stay. What is
        returned may be dropped again from the next await on, unless a request was begun on it (`hold`, `open`).
        """
        self._awaited[tenant_id] += 1
        try:
            while True:
                await asyncio.shield(asyncio.wrap_future(self._begin(tenant_id)))
                account = self._accounts.get(tenant_id)
                if account is not None:  # else it was dropped between a reading that had just ended and this waiting for it
                    return account
        finally:
            self._awaited[tenant_id] -= 1
            if not self._awaited[tenant_id]:
                del self._awaited[tenant_id]

    def refresh(self, tenant_id: str) -> None:
        """Read a loaded account again soon, after an admin changed something. A failure is logged: it serves on as it is.

        A reading that is under way may have begun before the change, so this is always one more.
        """
        if tenant_id in self._accounts:
            self._read(tenant_id)

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

    def _begin(self, tenant_id: str) -> Future[Snapshot]:
        loading = self._loading.get(tenant_id)
        if loading is None:
            loading = self._read(tenant_id)
            self._loading[tenant_id] = loading
            loading.add_done_callback(lambda _done: self._loading.pop(tenant_id, None))
        return loading

    def _read(self, tenant_id: str) -> Future[Snapshot]:
        books, clock = self._books, self._clock
        reading = books.run(lambda session: read_snapshot(session, tenant_id, clock.now_us(), books.past_since), self._loaded)
        reading.add_done_callback(lambda done: self._report(tenant_id, done))
        return reading

    def _report(self, tenant_id: str, done: Future[Snapshot]) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            log.warning("credits: the account of %s cannot be read: %s", tenant_id, error)
            account = self._accounts.get(tenant_id)
            if account is not None:
                account.retry_us = self._clock.now_us() + RETRY_US
                account.stale = True  # it serves on as it is; a request after that instant asks again

    def _loaded(self, snapshot: Snapshot) -> None:
        account = self._accounts.get(snapshot.tenant_id)
        if account is None:
            self._accounts[snapshot.tenant_id] = Account(snapshot)
            self._evict()
        else:
            account.reloaded(snapshot)

    def _evict(self) -> None:
        for _ in range(EVICT_TRIES):
            if len(self._accounts) <= self._max:
                return
            oldest = next(iter(self._accounts))
            if self._accounts[oldest].busy or oldest in self._awaited:
                self._accounts.move_to_end(oldest)
            else:
                del self._accounts[oldest]


def read_snapshot(session: Session, tenant_id: str, now_us: int, past_since: Callable[[Session, str, int], int]) -> Snapshot:
    """Read what the books say of a tenant at an instant, its allowance of the period written first. Raises `NotFound` for no such tenant."""
    tenant = tenants.get_tenant(session, tenant_id)
    if tenant is None:
        raise NotFound("tenant", tenant_id)
    ensure_allowance(session, tenant_id, now_us)
    period = current_period(session, tenant_id, now_us)
    current = grants.current_grants(session, tenant_id, now_us)
    debt_ncr = store.get(session, tenant_id).debt_ncr
    day_start_us, day_end_us = day_span(now_us, tenant.timezone)
    reset_us = None if period is None else period[1].end_us
    ends = [grant.expires_us for grant in current if grant.expires_us is not None]
    starts = [start for start in (grants.next_start_us(session, tenant_id, now_us), reset_us) if start is not None]
    return Snapshot(
        tenant_id=tenant_id,
        spendable_ncr=spendable_ncr(current, {grant.id: grant.remaining_ncr for grant in current}, debt_ncr, now_us),
        limit_ncr=sum(grant.amount_ncr for grant in current),
        valid_until_us=min([*ends, *starts, FOREVER_US]),
        reset_us=reset_us,
        past_today_ncr=past_since(session, tenant_id, day_start_us),
        day_ends_us=day_end_us,
    )
