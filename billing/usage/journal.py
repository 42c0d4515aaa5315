"""The local journal: what was dispatched and what was used, on the disk before anything else hears of it.

Append-only segments `<start_us>-<pid>.wal` under one folder, each held by flock while its process lives. One `write` per record: what
was written survives a `kill -9`; what is pushed survives a power cut. Appending is the event loop's; `release` and `sweep`
are the books thread's, pushes a third one's (`group.py`). Nobody waits for a lock: each counter has one writer. Segments go oldest first, once all that was
settled in them is booked; what is still open is carried into the next segment at rotation, so nothing in an old one is missed. An
event that the disk refused counts as open until it is written or booked, so that its evidence outlives it.
"""

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal
from zlib import crc32

import msgspec

from billing.errors import BooksUnavailable
from billing.usage.append import append
from billing.usage.event import UsageEvent
from billing.usage.folder import make_folder
from billing.usage.group import GroupCommit
from billing.usage.records import HEADER, Dispatched, Probe, Progress, Record, Settled
from billing.usage.segment import Segment, create, start_us_of

SEGMENT_BYTES = 64 << 20
BYTES_MAX = 1 << 30
REQUEST_BYTES = 2048  # room for a request's dispatch and its end
AHEAD_BYTES = 256 << 10  # set aside at once, so that it is not asked for at every request
MEND_EVERY_S = 5.0
CLOSE_S_MAX = 5.0

Durability = Literal["process", "disk"]

_pack = HEADER.pack

log = logging.getLogger(__name__)


class Journal:
    """This process's journal. Opening it makes the folder and the first segment; raises `BooksUnavailable` where that cannot be done.

    `harden` makes all commits of the database durable; it is called before a segment whose events they hold is deleted.
    """

    def __init__(
        self,
        folder: Path,
        now_us: Callable[[], int],
        *,
        segment_bytes: int = SEGMENT_BYTES,
        bytes_max: int = BYTES_MAX,
        durability: Durability = "process",
        harden: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self.harden = harden
        self._now_us = now_us
        self._segment_bytes = segment_bytes
        self._bytes_max = bytes_max
        self._waits = durability == "disk"
        self._encode = msgspec.msgpack.Encoder().encode
        self._open: dict[str, Dispatched] = {}
        self._progress: dict[str, Progress] = {}
        self._owed: deque[Settled] = deque()  # ends that the disk refused; until they are written nothing new is dispatched
        self._unwritten: set[str] = set()  # settled events that are in memory only
        self._late: dict[str, Segment] = {}  # those written later than they were queued: nobody else knows where they are
        self._booked: deque[str] = deque()  # news from the books thread of events without a segment
        self._rotate_at = segment_bytes
        self._rotation_failed = False
        self._refused = False
        self._distrusted = False  # a push to the medium failed
        self._mend_at_s = 0.0
        self._written = 0
        self._freed = 0
        self._closed = False
        self._commits = GroupCommit(self._push, self._pushed)
        self.failures = 0
        try:
            make_folder(folder)
            self._live = create(folder, now_us())
        except OSError as error:
            raise BooksUnavailable(f"the journal in {folder} cannot be written: {error.strerror}") from error
        self._segments = deque([self._live])

    @property
    def bytes(self) -> int:
        """Bytes on the disk that are this process's and not yet freed."""
        return self._written - self._freed

    @property
    def pushes(self) -> int:
        """Group commits so far."""
        return self._commits.pushes

    @property
    def open_requests(self) -> int:
        """Requests dispatched and not ended."""
        return len(self._open) - sum(event_id in self._open for event_id in self._unwritten)

    @property
    def unwritten(self) -> int:
        """Settled events that are in memory only: neither the disk nor the database has them (event loop)."""
        self._hear_booked()
        return len(self._unwritten)

    @property
    def healthy(self) -> bool:
        """Whether new work would be taken (event loop). After a refusal the disk is tried anew: whoever asks before sending work must not wait for work."""
        if self._closed or self._written - self._freed >= self._bytes_max or self._trouble() is not None:
            return False
        if self._refused:
            try:
                self._write_owed()
                self._reserve(1)
                self._append(Probe())
            except OSError:
                return False
        return True

    def start(self, post: Callable[[Callable[[], None]], object]) -> None:
        """Name the loop on which `durable` is awaited: `post` runs a callback there."""
        self._commits.start(post)

    def dispatched(self, record: Dispatched) -> None:
        """Write that a request is about to be sent. Raises `BooksUnavailable` when the disk refuses or the journal is at its bound."""
        if self._closed or self._written - self._freed >= self._bytes_max:
            raise BooksUnavailable("the journal is closed" if self._closed else f"the journal is full ({self._bytes_max} bytes wait for the database)")
        if (self._distrusted or self._commits.stalled) and (trouble := self._trouble()) is not None:
            raise BooksUnavailable(trouble)
        if self._booked:
            self._hear_booked()
        try:
            if self._owed:
                self._write_owed()
            self._reserve(1)
            self._append(record)
        except OSError as error:
            self._refused = True
            self.failures += 1
            raise BooksUnavailable(f"the journal in {self.folder} cannot be written: {error.strerror}") from error
        self._open[record.id] = record
        if self._live.size >= self._rotate_at:
            self._rotate()

    def progress(self, record: Progress) -> None:
        """Write what a dispatched request has used so far. A refusal by the disk is only counted: the evidence is a little older then."""
        if record.id not in self._open:
            return
        self._progress[record.id] = record
        try:
            self._reserve(0)  # the room for the ends is not for this
            self._append(record)
        except OSError:
            self.failures += 1

    def settled(self, event: UsageEvent) -> Segment | None:
        """Write a settled event; return the segment that waits for it to be booked, or None when the disk refused (counted, logged).

        One that was refused is written before the next dispatch or at the close, unless `booked` is told first.
        """
        record = Settled(event)
        try:
            self._append(record)
        except (OSError, OverflowError) as error:
            self.failures += 1
            self._unwritten.add(event.id)
            if isinstance(error, OSError):  # a figure past 64 bits can never be written: the books will park it
                self._owed.append(record)
            log.error("journal: event %s of tenant %s is only in memory until it is booked: %s", event.id, event.tenant_id, error)
            return None
        self._end(event.id)
        segment = self._live
        segment.settled += 1
        return segment

    def durable(self) -> Awaitable[object] | None:
        """Return what waits until all that is written by now is on the medium; None when nothing has to be waited for (event loop).

        Only with durability `disk`. A failing medium ends the wait: `healthy` is False from then on, and nothing new is let in.
        """
        segment = self._live
        if not self._waits or segment.durable or segment.failed or self._closed:
            return None
        return self._commits.wait(segment)

    def booked(self, event_id: str) -> None:
        """Hear that an event is booked, or parked, for which `settled` returned no segment (books thread)."""
        self._booked.append(event_id)

    def owns(self, path: Path) -> bool:
        """Tell whether a segment is this journal's own."""
        return any(segment.path == path for segment in self._segments)

    def release(self, segment: Segment) -> None:
        """Count one settled event of a segment as booked (books thread)."""
        segment.booked += 1

    def sweep(self) -> None:
        """Delete the oldest segments that hold nothing unbooked, once the database would survive a power cut with what they held (books thread)."""
        segments = self._segments
        hardened = False
        while len(segments) > 1 and segments[0].done and not segments[0].pushing:
            hardened = hardened or self._hardened()
            if not hardened or not _remove(segments[0]):
                return
            self._freed += segments.popleft().size

    def sync(self) -> None:
        """Have what was written pushed to the medium, without waiting for it (event loop). A failure is counted and logged, and makes the journal unhealthy."""
        if not self._closed:
            for segment in tuple(self._segments):
                if not segment.durable and not segment.failed:
                    self._commits.add(segment)

    def close(self, *, in_use: bool = False) -> None:
        """Write what the disk refused before, and let go of every segment.

        Those with nothing open and nothing unbooked are deleted, the others are replayed at the next start. `in_use`: the books thread
        hangs and may still come back, so files stay open and where they are until the process ends.
        """
        if self._closed:
            return
        self._hear_booked()
        try:
            self._write_owed()
        except OSError as error:
            self.failures += 1
            log.error("journal: %d records could not be written at the close: %s", len(self._owed), error)
        self._closed = True
        self._commits.stop(CLOSE_S_MAX)
        if in_use:
            return
        self._live.retired = not self._open and not self._owed
        while self._segments and self._segments[0].done and self._hardened() and _remove(self._segments[0]):
            self._segments.popleft()
        for segment in self._segments:
            if self._waits and not segment.pushing:  # else that push hangs, and so would ours
                self._push(segment)
            segment.close()

    def _end(self, request_id: str) -> None:
        self._open.pop(request_id, None)
        if self._progress:
            self._progress.pop(request_id, None)

    def _hear_booked(self) -> None:
        while self._booked:
            event_id = self._booked.popleft()
            segment = self._late.pop(event_id, None)
            if segment is not None:
                segment.settled -= 1  # not `booked`: that is the books thread's to count
            self._unwritten.discard(event_id)
            self._end(event_id)

    def _write_owed(self) -> None:
        while self._owed:
            record = self._owed[0]
            if record.event.id in self._unwritten:  # else it was booked meanwhile
                self._append(record)
                self._live.settled += 1
                self._late[record.event.id] = self._live
                self._unwritten.discard(record.event.id)
                self._end(record.event.id)
            self._owed.popleft()

    def _reserve(self, more: int) -> None:
        segment = self._live
        wanted = segment.size + (len(self._open) + more) * REQUEST_BYTES
        if wanted > segment.room:
            segment.reserve(wanted, AHEAD_BYTES)

    def _append(self, record: Record) -> None:
        payload = self._encode(record)
        data = _pack(len(payload), crc32(payload)) + payload
        segment = self._live
        if self._closed:
            raise OSError(0, "the journal is closed")
        try:
            if segment.torn:
                segment.take_back()
            written = append(segment.fd, data)
            if written != len(data):  # the disk filled up in the middle: take the piece back, or the next record would follow garbage
                segment.take_back()
                raise OSError(28, "No space left on device")
        except OSError:
            self._refused = True
            raise
        self._refused = False
        segment.size += written
        self._written += written

    def _rotate(self) -> None:
        """Begin a new segment with what is still open. Where that fails, the old one only grows longer than wished: it is tried again later."""
        old, fresh = self._live, None
        try:
            # Named after its predecessor also where the clock has gone back: the next start reads them by name, oldest first.
            self._live = fresh = create(self.folder, max(self._now_us(), start_us_of(old.path) + 1))
            self._reserve(0)
            for record in self._open.values():
                self._append(record)
            for last in self._progress.values():
                self._append(last)
        except OSError as error:
            if fresh is not None:
                self._written -= fresh.size
                _remove(fresh)
            self._live = old
            self._rotate_at = old.size + self._segment_bytes // 8
            self.failures += 1
            if not self._rotation_failed:
                log.error("journal: no new segment, going on with %s: %s", old.path.name, error)
            self._rotation_failed = True
            return
        self._rotate_at = max(self._segment_bytes, 2 * self._live.size)  # much that is open must not make it rotate at every record
        self._rotation_failed = False
        self._segments.append(self._live)
        old.retired = True
        if self._waits and not old.failed:
            self._commits.add(old)

    # The medium.

    def _push(self, segment: Segment) -> None:
        try:
            segment.sync()
        except OSError as error:
            if self._distrusted and segment.failed:
                return
            self.failures += 1
            self._distrusted = True
            log.critical("journal: %s cannot be pushed to the medium; nothing new is let in until it is booked: %s", segment.path.name, error)

    def _pushed(self) -> None:
        """Hear on the loop that a push ended. A segment that failed takes nothing more: what is open goes into a new one."""
        if self._live.failed and not self._closed:
            self._leave_failed()

    def _leave_failed(self) -> None:
        if time.monotonic() >= self._mend_at_s:  # a disk that fails for good must not be filled with beginnings
            self._mend_at_s = time.monotonic() + MEND_EVERY_S
            self._rotate()

    def _trouble(self) -> str | None:
        """Say why the medium cannot be relied on. It can be again when a new segment is on it, and all that was settled in a failed one is booked."""
        if self._commits.stalled:
            return f"the disk of {self.folder} does not answer"
        if not self._distrusted:
            return None
        if self._live.failed:
            self._leave_failed()
        if not self._live.failed and not self._live.entered:
            self._commits.add(self._live)
        if not self._live.entered or any(segment.failed and not segment.done for segment in tuple(self._segments)):
            return f"the disk of {self.folder} has failed to keep what was written"
        self._distrusted = False
        log.warning("journal: the disk takes what is written again")
        return None

    def _hardened(self) -> bool:
        try:
            self.harden()
        except OSError as error:
            self.failures += 1
            log.error("journal: the database's file cannot be pushed to the medium, so no segment is deleted: %s", error)
            return False
        return True


def _remove(segment: Segment) -> bool:
    """Delete a file; False while it is being pushed. One that cannot be deleted is let go of: at the next start every event in it is known already."""
    try:
        return segment.remove()
    except OSError as error:
        log.error("journal: %s cannot be deleted: %s", segment.path.name, error)
        return True
