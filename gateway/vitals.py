"""Whether this process can be relied on, in one place: what /ready answers, and what /metrics and the log say about the same things.

Whoever watches from outside must not be told "ready" by a process that stopped noticing revoked keys, or whose usage does not reach
the books. Belongs to the event loop; what the books thread keeps is only read.
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any

from sqlmodel import Session

from backends.pool import Pool
from billing.errors import BillingError
from billing.ledger.store import entry_sum, newest_entry
from billing.usage.journal import Journal
from billing.usage.recorder import Recorder
from gateway.clock import Clock
from gateway.config import Settings
from gateway.reads import BookReads

log = logging.getLogger("weir")

OLDEST_S_MAX = 60  # usage that has waited longer for the database is no longer a hiccup
AUDIT_EVERY_S = 60.0
AUDIT_AGAIN_S = 5.0  # while it has not come to the end of the ledger
AUDIT_TX = 100_000  # ids of transactions summed by one statement, which takes about a second
AUDIT_STEPS_MAX = 20  # statements of one round
AUDIT_OPEN_TX = 10_000  # the newest transactions, which are summed again: some of them may not have been committed yet
AUDIT_STALE_S = 900.0  # an older sum says nothing about the ledger of now


class Vitals:
    """The health of one process. `missing` says what is wrong, in words for an operator."""

    def __init__(self, settings: Settings, clock: Clock, *, recorder: Recorder, journal: Journal, pools: Mapping[str, Pool]) -> None:
        self._settings = settings
        self._clock = clock
        self._recorder = recorder
        self._journal = journal
        self._pools = pools
        self.stopping = False
        self._stop_by_s = 0.0
        self._stopped: list[str] = []
        self._sum: tuple[int, float] | None = None  # over the whole ledger, in ncr, and when it was told (monotonic seconds)
        self._audited = (0, 0)  # the sum of the entries of all transactions up to an id: (id, sum in ncr)

    @property
    def imbalance_ncr(self) -> int | None:
        """What the ledger's entries sum to, in ncr; None until it was summed. That all was well is not said for longer than it is known."""
        if self._sum is None or (self._sum[0] == 0 and self._clock.monotonic_s() - self._sum[1] > AUDIT_STALE_S):
            return None
        return self._sum[0]

    def beside(self, name: str, work: Coroutine[Any, Any, None], *, needed: bool = True) -> asyncio.Task[None]:
        """Run what must run as long as the process does. Its end is said in the log, and by `missing` if requests are not well served without it."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(partial(self._ended, needed=needed))
        return task

    def _ended(self, task: asyncio.Task[None], *, needed: bool) -> None:
        if task.cancelled() or self.stopping:
            return
        if needed:
            self._stopped.append(task.get_name())
        log.critical("%s has stopped, and does not start again by itself: restart this process", task.get_name(), exc_info=task.exception())

    def stop(self) -> None:
        """Say that the process is stopping: all that is under way shares one deadline from here. Saying it again changes nothing."""
        if not self.stopping:
            self.stopping = True
            self._stop_by_s = self._clock.monotonic_s() + self._settings.server.shutdown_grace_s

    def left_s(self) -> float:
        """Return the seconds until the deadline of a process that is stopping; 0 past it."""
        return max(0.0, self._stop_by_s - self._clock.monotonic_s())

    def missing(self) -> list[str]:
        """Say why requests should not be sent here; nothing when they may be."""
        recorder, journal, books = self._recorder, self._journal, self._settings.books
        reasons = {
            "this process is stopping": self.stopping,
            "the journal of a process that is gone is still being booked": recorder.replaying,
            "too many usage events wait for the database": recorder.backlog >= books.backlog_max,
            f"usage waits for the database for more than {OLDEST_S_MAX} s": self.oldest_s() > OLDEST_S_MAX,
            "the usage journal cannot be written": not journal.healthy,
            "the usage journal is full": journal.bytes >= books.journal_bytes_max,
            "no backend is up": bool(self._pools) and not any(pool.up for pool in self._pools.values()),
        }
        return [reason for reason, holds in reasons.items() if holds] + [f"{name} has stopped" for name in self._stopped]

    def oldest_s(self) -> float:
        """Return how long the oldest usage event waits for the database, in seconds; 0 when none does."""
        oldest_us = self._recorder.oldest_us
        return 0.0 if oldest_us is None else max(0.0, (self._clock.now_us() - oldest_us) / 1e6)

    async def audit(self, reads: BookReads) -> None:
        """Sum the ledger every minute, until cancelled: reading what is new, and once all of it, piece by piece. Nothing else ends it."""
        while True:
            whole = True
            try:
                whole = await self._round(reads)
            except BillingError as error:
                log.warning("the ledger cannot be summed now: %s", error)
            except Exception:  # an audit that ends would leave a ledger that does not balance untold: it is logged and tried again
                log.exception("the ledger cannot be summed now; it is tried again")
            await asyncio.sleep(AUDIT_EVERY_S if whole else AUDIT_AGAIN_S)

    async def _round(self, reads: BookReads) -> bool:
        """Go on where the last round ended, which also an error does not undo. False when the end of the ledger is still to come."""
        for _ in range(AUDIT_STEPS_MAX):
            after, before = self._audited

            def read(session: Session, after: int = after, before: int = before) -> tuple[tuple[int, int], int, bool]:
                last = newest_entry(session)
                upto = min(last, after + AUDIT_TX)
                settled = max(after, min(upto, last - AUDIT_OPEN_TX))
                total = before + entry_sum(session, after, settled) if settled > after else before
                return (settled, total), total + (entry_sum(session, settled, upto) if upto > settled else 0), upto >= last

            self._audited, total, whole = await reads.run(read)
            if whole or total:  # every transaction sums to 0, so what is wrong with a part is wrong
                self._tell(total)
            if whole:
                return True
        return False

    def _tell(self, total: int) -> None:
        if total and (self._sum is None or total != self._sum[0]):
            log.critical("the ledger's entries sum to %d ncr and not to 0: a bug; keep the database, run `weir ledger verify` and report it", total)
        self._sum = total, self._clock.monotonic_s()
