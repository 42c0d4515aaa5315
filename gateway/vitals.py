"""Whether this process can be relied on, in one place: what /ready answers, and what /metrics and the log say about the same things.

Whoever watches from outside must not be told "ready" by a process that stopped noticing revoked keys, or whose usage does not reach
the books. Belongs to the event loop; what the books thread keeps is only read.
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any

from sqlmodel import Session

from backends.pool import Pool
from billing.errors import BillingError
from billing.ledger.store import entry_sum
from billing.usage.journal import Journal
from billing.usage.recorder import Recorder
from gateway.clock import Clock
from gateway.config import Settings
from gateway.reads import BookReads

log = logging.getLogger("weir")

OLDEST_S_MAX = 60  # usage that has waited longer for the database is no longer a hiccup
AUDIT_EVERY_S = 60.0
AUDIT_OPEN_TX = 10_000  # the newest transactions, which are summed again: some of them may not have been committed yet


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
        self.imbalance_ncr: int | None = None  # None until the ledger was summed
        self._stopped: list[str] = []
        self._audited = (0, 0)  # the sum of the entries of all transactions up to an id: (id, sum in ncr)

    def beside(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run what must run as long as the process does. Its end is said in the log and by `missing`."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self.stopping:
            return
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
        """Sum the ledger every minute, until cancelled: reading what is new, and once all of it."""
        while True:
            try:
                await self._sum(reads)
            except BillingError as error:
                log.info("the ledger cannot be summed now: %s", error)
            await asyncio.sleep(AUDIT_EVERY_S)

    async def _sum(self, reads: BookReads) -> None:
        after, before = self._audited

        def read(session: Session) -> tuple[tuple[int, int], int]:
            last, new = entry_sum(session, after)
            settled = max(after, last - AUDIT_OPEN_TX)
            return (settled, before + (entry_sum(session, after, settled)[1] if settled > after else 0)), before + new

        self._audited, total = await reads.run(read)
        if total and total != self.imbalance_ncr:
            log.critical("the ledger's entries sum to %d ncr and not to 0: a bug; keep the database, run `weir ledger verify` and report it", total)
        self.imbalance_ncr = total
