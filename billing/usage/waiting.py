"""A batch that cannot be booked as a whole: what spoils it is found by booking parts of it, and everything else goes through.

Two things spoil one. An event that the database refuses for itself is handed over to be parked. A lock that somebody holds on a tenant's rows
(a session of psql, a process that stalled in a transaction) makes that tenant's events wait, apart from the queue, until they can be booked.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable

from sqlalchemy.exc import DataError, IntegrityError

from billing.errors import BooksLocked, Conflict, Invalid, NotFound
from billing.usage.event import UsageEvent
from billing.usage.segment import Segment
from billing.usage.writer import Standing

Item = tuple[UsageEvent, Segment | None, bool]  # the last: settled by this process, so an account of this process waits for it

POISON = (IntegrityError, DataError, ArithmeticError, ValueError, TypeError, Invalid, NotFound, Conflict)
NEVER_S = 1e18
LOCKS_MAX = 24  # waits for a lock in one go; whose turn does not come then waits with those that are locked

log = logging.getLogger(__name__)


class Sifting:
    """One go at a batch. `once` books events in one transaction, and waits only briefly for locks if told so; `refused` takes what can never be booked.

    Afterwards `locked` are the items that were not booked, as a lock stood in their way.
    """

    def __init__(self, once: Callable[[list[Item], bool], dict[str, Standing]], refused: Callable[[UsageEvent, Exception], None], *, brief: bool) -> None:
        self._once = once
        self._refused = refused
        self._brief = brief
        self._locks = 0
        self.locked: list[Item] = []

    def book(self, batch: list[Item]) -> dict[str, Standing]:
        """Book what can be booked; return the tenants' standings after it. Any other trouble with the database is raised."""
        if self._locks >= LOCKS_MAX:
            self.locked += batch
            return {}
        try:
            return self._once(batch, self._brief or self._locks > 0)
        except BooksLocked as error:
            self._locks += 1
            tenants = sorted({event.tenant_id for event, _segment, _mine in batch})
            if len(tenants) == 1:
                log.warning("books: %d events of tenant %s wait, the others are booked: %s", len(batch), tenants[0], str(error).splitlines()[0])
                self.locked += batch
                return {}
            first = frozenset(tenants[: len(tenants) // 2])
            one, other = [item for item in batch if item[0].tenant_id in first], [item for item in batch if item[0].tenant_id not in first]
        except POISON as error:
            if len(batch) == 1:
                self._refused(batch[0][0], error)
                return {}
            log.warning("books: a batch of %d events was refused; each half is tried by itself", len(batch))
            one, other = batch[: len(batch) // 2], batch[len(batch) // 2 :]
        return self.book(one) | self.book(other)


class Waiting:
    """Events of tenants that somebody has locked, in no order that matters; tried again with pauses that grow (`backoff_s`: the first, the longest)."""

    def __init__(self, backoff_s: tuple[float, float]) -> None:
        self._backoff_s = backoff_s
        self._by_tenant: dict[str, deque[Item]] = {}
        self._tries = 0
        self.count = 0
        self.replayed = 0  # those that a process that is gone left: its journal is kept for them
        self.due_s = 0.0  # monotonic; when they are tried again

    def __bool__(self) -> bool:
        return self.count > 0

    @property
    def queues(self) -> list[deque[Item]]:
        """What waits, each tenant's by itself, oldest first; to be read from any thread."""
        return list(self._by_tenant.values())

    def divert(self, items: Iterable[Item]) -> list[Item]:
        """Return the items that need not wait; those of tenants that do join them."""
        if not self.count:
            return list(items)
        going: list[Item] = []
        for item in items:
            if item[0].tenant_id in self._by_tenant:
                self._add(item)
            else:
                going.append(item)
        return going

    def take(self, most: int) -> list[Item]:
        """Take what is tried again now: of every tenant the same at most."""
        each = max(1, most // max(1, len(self._by_tenant)))
        taken: list[Item] = []
        for tenant_id, items in list(self._by_tenant.items()):
            if len(taken) >= most:
                break
            del self._by_tenant[tenant_id]  # who is not tried now is the next
            taken += (items.popleft() for _ in range(min(each, len(items))))
            if items:
                self._by_tenant[tenant_id] = items
        self.count -= len(taken)
        self.replayed -= sum(not mine for _event, _segment, mine in taken)
        return taken

    def put_back(self, locked: Iterable[Item], *, tried: bool, last: bool) -> None:
        """Take in what is locked. `tried`: it was taken from here, and all that is not locked is booked; `last`: nothing is tried again."""
        before = self.count
        for item in locked:
            self._add(item)
        if tried or not before:
            still = self.count > before
            self._tries = self._tries + 1 if tried and still else 0
            first, longest = self._backoff_s
            self.due_s = time.monotonic() + (min(longest, first * 2 ** min(self._tries, 20)) if still else 0.0)
            if still and last:
                self.due_s = NEVER_S

    def _add(self, item: Item) -> None:
        self._by_tenant.setdefault(item[0].tenant_id, deque()).append(item)
        self.count += 1
        self.replayed += not item[2]
