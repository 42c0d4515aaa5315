"""What the road calls when a request is sent, moves on and ends; and the one books thread that brings it into the database.

`dispatched`, `progress`, `settled` and `durable` run on the event loop: a journal append and a queue append, no lock, a few microseconds.
The books thread alone touches the database: it replays what dead processes left, then books the queue in batches, and in between
runs `run(work)`, so that what such work reads never races a batch. Callbacks reach the loop through `post`, in the order in which
things happened in the database. When the database fails, events stay queued and in the journal, and it is tried again with
growing pauses; past `backlog_max` nothing new is let in. An event that the database refuses for itself is parked in a file; those of a
tenant that somebody has locked wait apart.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from sqlmodel import Session

from billing.credits.account import Flushed
from billing.db import Database, wait_briefly
from billing.errors import BooksUnavailable
from billing.rates.store import all_rates
from billing.rating import Rate
from billing.usage.event import UsageEvent
from billing.usage.flushed import flushed
from billing.usage.journal import Journal
from billing.usage.parking import park
from billing.usage.records import Dispatched, Progress
from billing.usage.replay import Remains, claim
from billing.usage.waiting import Item, Sifting, Waiting
from billing.usage.writer import Booked, Standing, book
from billing.work import Piece, Urgency, WorkQueue, failed, perform

T = TypeVar("T")
Post = Callable[[Callable[[], None]], object]

BACKOFF_S = (0.1, 10.0)
SYNC_S = 1.0
PACE_S_MAX = 0.5  # the longest that a flush is put off because the one before took long
STOP_S = 10.0
BATCH_DUE = 500  # so many events waiting are flushed at once; what came meanwhile goes along, so a transaction grows with the backlog

log = logging.getLogger(__name__)


class Recorder:
    """The road's side of the books. Make one per process, `start` it, and `stop` it last.

    Counters: `booked`, `failures` (tries of the database), `conflicts`, `rejected` (parked), and after `stop` `unbooked`: events that it left unbooked.
    """

    def __init__(
        self,
        db: Database,
        journal: Journal,
        clock_now_us: Callable[[], int],
        *,
        flush_ms: int = 50,
        batch: int = 5000,
        backlog_max: int = 200_000,
        backoff_s: tuple[float, float] = BACKOFF_S,
    ) -> None:
        self._db = db
        self._journal = journal
        self._now_us = clock_now_us
        self._flush_s = self._pace_s = flush_ms / 1000
        self._batch_max = batch
        self._batch_due = min(batch, BATCH_DUE)
        self._backlog_max = backlog_max
        self._backoff_s = backoff_s
        self._queue: deque[Item] = deque()
        self._batch: list[Item] = []
        self._waiting = Waiting(backoff_s)
        self._brief = False  # the batch: it waits for no lock
        self._tried = False  # the batch: it is what waited for locks
        self._work = WorkQueue()
        self._post: Post = lambda callback: callback()
        self._wake = threading.Event()
        self._idle = False
        self._closed = False
        self.hung = False  # whether the database did not answer at the end: nothing more is to be asked of it
        self._thread: threading.Thread | None = None
        self._remains: Remains | None = None
        self._replay: Generator[UsageEvent] | None = None
        self._read_out = False
        self._since: float | None = None
        self._retry_at = 0.0
        self._tries = 0
        self._synced_at = 0.0
        self.on_flushed: Callable[[list[Flushed]], None] | None = None
        self.replica_id = ""  # the name under which this process has leases
        self.failures = 0
        self.conflicts = 0
        self.rejected = 0
        self.booked = 0
        self.unbooked = 0
        self.last_error: str | None = None

    # The event loop's side.

    def dispatched(self, record: Dispatched) -> None:
        """Note that a request is about to be sent upstream. Raises `BooksUnavailable`: then it must not be sent."""
        waiting = len(self._queue) + self._waiting.count
        if self._closed or waiting >= self._backlog_max:
            raise BooksUnavailable("the books are closed" if self._closed else f"{waiting} usage events wait for the database")
        self._journal.dispatched(record)

    def progress(self, record: Progress) -> None:
        """Note what a dispatched request has used so far: it is charged by this if the process dies."""
        self._journal.progress(record)

    def settled(self, event: UsageEvent) -> None:
        """Note how a request ended. Never raises for a full disk or a lost database: the event is kept and booked."""
        self._queue.append((event, self._journal.settled(event), True))
        if self._idle:
            self._idle = False
            self._wake.set()

    def durable(self) -> Awaitable[object] | None:
        """Return what waits until all that was settled by now is on the medium; None when nothing has to be waited for. Ask right after `settled`."""
        return self._journal.durable()

    def run(
        self,
        work: Callable[[Session], T],
        then: Callable[[T], None] | None = None,
        otherwise: Callable[[BaseException], None] | None = None,
        *,
        urgency: Urgency = Urgency.LATER,
        key: str | None = None,
    ) -> Future[T]:
        """Run work in a write transaction of the books thread, between two batches; again in a new one when another stood in its way.

        `then` receives the result on the loop, or `otherwise` the failure, in order with `on_flushed`; the future is done after that was
        posted. What is waited for goes first, and where it has a `key` (its tenant) several share a transaction. A database that is away is a
        `BooksUnavailable`.
        """
        piece = Piece(work, then, otherwise, key)
        if self._closed:
            failed(piece, BooksUnavailable("the books are closed"), lambda callback: callback())
            return piece.future
        self._work.put(piece, urgency)
        self._wake.set()
        return piece.future

    def owns(self, segment: Path) -> bool:
        """Tell whether a segment of the journal is this process's own."""
        return self._journal.owns(segment)

    @property
    def open_requests(self) -> int:
        """Requests whose end is not told yet; after `stop` the next start charges them by their evidence."""
        return self._journal.open_requests

    @property
    def backlog(self) -> int:
        """Events that wait to be booked, those being replayed not counted."""
        return len(self._queue) + len(self._batch) + self._waiting.count

    @property
    def oldest_us(self) -> int | None:
        """When the oldest waiting event ended; None when none waits."""
        try:
            return min([queue[0][0].ended_us for queue in (self._batch, self._queue, *self._waiting.queues) if queue], default=None)
        except IndexError:  # it was booked meanwhile
            return None

    @property
    def lost(self) -> int:
        """Settled events that neither the disk nor the database has taken. Once the process is gone, such a one is charged by its last evidence."""
        return self._journal.unwritten

    @property
    def replaying(self) -> bool:
        """Whether what dead processes left is still being booked."""
        return self._replay is not None

    # Beginning and end.

    def start(self, post: Post) -> None:
        """Start the books thread; it first books what dead processes left. `post` runs a callback on the event loop, in order."""
        self._post = post
        self._journal.start(post)
        self.claim_remains()
        self._thread = threading.Thread(target=self._main, name="weir-books", daemon=True)
        self._thread.start()

    def claim_remains(self) -> None:
        """Take over the segments of processes that are gone, to be booked before anything else."""
        self._remains = claim(self._journal.folder, self._journal.owns)
        if len(self._remains):
            log.info("books: replaying %d journal segments of processes that are gone", len(self._remains))
            self._replay = self._remains.events(self._find_rate)
            self._read_out = False

    def stop(self, wait_s: float = STOP_S) -> None:
        """Let nothing more in, book what waits, close; at most about `wait_s`, also where the database hangs.

        What cannot be booked now stays in the journal for the next start. `unbooked` and `lost` then say how much, and so does the log.
        """
        self._closed = True
        self._retry_at = self._waiting.due_s = 0.0  # one more try, also in the middle of a pause
        self._wake.set()
        if self._thread is not None:
            self._thread.join(wait_s)
            self.hung = self._thread.is_alive()
            self._thread = None
        else:
            while self.turn() == 0:
                pass
        if not self.hung:
            while self._work:
                self._perform()
            if self._remains is not None:
                self._remains.close()
        self._journal.close(in_use=self.hung)
        self._count_unbooked()

    def _count_unbooked(self) -> None:
        self.unbooked = self.backlog
        if self.hung:
            log.error("books: the database does not answer; the end does not wait for it")
        if self.unbooked:
            log.error("books: %d usage events are not booked; %d stay in the journal, booked at the next start", self.unbooked, self.unbooked - self.lost)
        if self.lost:
            log.error("books: %d usage events are in memory only, neither disk nor database took them: charged by their last evidence", self.lost)
        if self._replay is not None:
            log.error("books: what a process that is gone left is not all booked; the next start does it")

    # The books thread's side.

    def turn(self) -> float | None:
        """Do what is due: asked work, then one batch. Return the seconds until more is due, None for "when woken". The thread calls nothing else."""
        self._perform()
        due = self._due()
        if due == 0:
            self._flush()
            due = self._due()
        return 0 if self._work else due

    def _main(self) -> None:
        while True:
            due = self.turn()
            if self._closed and due != 0:
                return
            if due != 0:
                self._sleep(due)

    def _sleep(self, seconds: float | None) -> None:
        self._wake.clear()
        self._idle = seconds is None
        if not (self._work or self._closed or (self._idle and self._queue)):
            self._wake.wait(seconds)
        self._idle = False

    def _due(self) -> float | None:
        now = time.monotonic()
        if self._retry_at > now:
            return self._retry_at - now
        locked_s = max(0, self._waiting.due_s - now) if self._waiting else None
        queued = len(self._queue)
        if self._batch or self._replays or queued >= self._batch_due or (queued and self._closed):
            return 0
        if not queued:
            self._since = None
            return locked_s
        if self._since is None:
            self._since = now
        due_s = max(0, self._since + self._pace_s - now)
        return due_s if locked_s is None else min(due_s, locked_s)

    @property
    def _replays(self) -> bool:
        # What was read to its end is done with when none of it waits for a lock any more: only then may its journal go.
        return self._replay is not None and not (self._read_out and self._waiting.replayed)

    def _flush(self) -> None:
        begun = time.monotonic()
        try:
            if not self._batch:
                self._fill()
            sifting = Sifting(self._book, self._park, brief=self._brief)
            standings = sifting.book(self._batch) if self._batch else {}
        except Exception as error:  # noqa: BLE001 - the thread must live: nothing is lost, it is logged and tried again
            self._failed(error)
            return
        booked, self._batch = self._batch, []
        self._tries, self._retry_at = 0, 0.0
        booked = self._set_apart(booked, sifting.locked)
        self._settle_accounts(booked, standings)
        self._journal.sweep()
        ended = time.monotonic()
        # Flushes take a twentieth of the time at most where few events come: what many tenants cost a flush is shared by more of them then.
        self._pace_s = max(self._flush_s, min(PACE_S_MAX, 19 * (ended - begun))) if self._flush_s else 0.0
        if ended - self._synced_at >= SYNC_S:
            self._tell(self._journal.sync)
            self._synced_at = ended

    def _set_apart(self, batch: list[Item], locked: list[Item]) -> list[Item]:
        """Let what is locked wait; return the rest."""
        self._waiting.put_back(locked, tried=self._tried, last=self._closed)
        self.last_error = f"{self._waiting.count} events wait for locks that somebody holds on their tenants" if self._waiting else None
        if not locked:
            return batch
        self.failures += 1
        apart = set(map(id, locked))
        return [item for item in batch if id(item) not in apart]

    def _fill(self) -> None:
        self._brief = bool(self._waiting)
        self._tried = self._brief and time.monotonic() >= self._waiting.due_s
        if self._tried:
            self._batch = self._waiting.take(self._batch_max)
            return
        if self._replays and self._remains is not None:
            if found := self._read(self._remains):
                self._batch = self._waiting.divert(found)
                return
            self._read_out = True
            if self._replays:
                self._replay = None
                log.info("books: the replay is done; %d requests without an end were charged by what was last seen", self._remains.recovered)
                self._journal.harden()
                self._remains.forget()
        queue = self._queue
        self._batch = self._waiting.divert(queue.popleft() for _ in range(min(len(queue), self._batch_max)))
        self._since = None

    def _read(self, remains: Remains) -> list[Item]:
        assert self._replay is not None
        try:
            return [(event, None, False) for event in islice(self._replay, self._batch_max)]
        except BaseException:  # a generator that raised is spent and would look like one at its end
            self._replay = remains.events(self._find_rate)  # from the start: what is booked already is known by its id
            raise

    def _park(self, event: UsageEvent, error: Exception) -> None:
        log.error("books: event %s of tenant %s is refused and parked: %s", event.id, event.tenant_id, error)
        park(self._journal.folder, event)
        self.rejected += 1

    def _book(self, batch: list[Item], brief: bool) -> dict[str, Standing]:
        events = [event for event, _segment, _mine in batch]
        mine = frozenset(event.id for event, _segment, mine in batch if mine)

        def work(session: Session) -> Booked:
            if brief:
                wait_briefly(session)
            return book(session, events, self._now_us(), self.replica_id, mine, gone=() if self._remains is None else self._remains.gone)

        booked = self._db.retrying(work)
        self.booked += booked.new
        self.conflicts += len(booked.conflicts)
        return booked.standings

    def _settle_accounts(self, batch: list[Item], standings: dict[str, Standing]) -> None:
        for event, segment, mine in batch:
            if segment is not None:
                self._journal.release(segment)
            elif mine:
                self._journal.booked(event.id)
        on_flushed, flushes = self.on_flushed, flushed(batch, standings)
        if on_flushed is not None and flushes:
            self._tell(lambda: on_flushed(flushes))

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        self.last_error = str(error)
        first, longest = self._backoff_s
        pause = min(longest, first * 2 ** min(self._tries, 20))
        self._tries += 1
        self._retry_at = time.monotonic() + pause
        if isinstance(error, BooksUnavailable):
            log.error("books: %d events wait, next try in %.1f s: %s", self.backlog, pause, error)
        else:
            log.exception("books: %d events wait, next try in %.1f s", self.backlog, pause, exc_info=error)

    def _perform(self) -> None:
        for together in self._work.take_round():
            perform(together, self._retrying, self._tell)

    def _retrying(self, work: Callable[[Session], T]) -> T:
        if self.hung:
            raise BooksUnavailable("the books are closed")
        return self._db.retrying(work)

    def _tell(self, callback: Callable[[], Any]) -> None:
        try:
            self._post(callback)
        except RuntimeError as error:  # the loop is closed: nobody is left to be told, and the database has it already
            log.warning("books: the event loop is gone: %s", error)

    def _find_rate(self, rate_id: int) -> Rate | None:
        with self._db.read() as session:
            return next((rate for rate in all_rates(session) if rate.id == rate_id), None)
