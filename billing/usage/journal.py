"""The local journal: what was dispatched and what was used, on the disk before anything else hears of it.

Append-only segments `<start_us>-<pid>.wal` under one folder, each held by flock while its process lives. One `write` per record: what
was written survives a `kill -9`; `sync` bounds what a power cut takes. Appending is the event loop's; `release`, `sweep` and
`sync` are the books thread's. Neither takes a lock: each counter has one writer. Segments go oldest first, once all that was
settled in them is booked; what is still open is carried into the next segment at rotation, so nothing in an old one is missed. An
event that the disk refused counts as open until it is written or booked, so that its evidence outlives it.
"""

import fcntl
import logging
import os
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from billing.errors import BooksUnavailable
from billing.usage.append import append
from billing.usage.event import UsageEvent
from billing.usage.records import HEADER, Dispatched, Progress, Record, Settled, Voided

SEGMENT_BYTES = 64 << 20
BYTES_MAX = 1 << 30

log = logging.getLogger(__name__)


class Segment:
    """One file. `settled` is counted by the event loop, `booked` by the books thread."""

    __slots__ = ("booked", "fd", "path", "retired", "settled", "size")

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.size = 0
        self.settled = 0
        self.booked = 0
        self.retired = False


class Journal:
    """This process's journal. Opening it makes the folder and the first segment; raises `BooksUnavailable` where that cannot be done."""

    def __init__(self, folder: Path, now_us: Callable[[], int], *, segment_bytes: int = SEGMENT_BYTES, bytes_max: int = BYTES_MAX) -> None:
        self.folder = folder
        self._now_us = now_us
        self._segment_bytes = segment_bytes
        self._bytes_max = bytes_max
        self._encode = msgspec.msgpack.Encoder().encode
        self._open: dict[str, Dispatched] = {}
        self._progress: dict[str, Progress] = {}
        self._owed: deque[Voided | Settled] = deque()  # ends that the disk refused; until they are written nothing new is dispatched
        self._unwritten: set[str] = set()  # settled events that are in memory only
        self._late: dict[str, Segment] = {}  # those written later than they were queued: nobody else knows where they are
        self._booked: deque[str] = deque()  # news from the books thread of events without a segment
        self._rotate_at = segment_bytes
        self._rotation_failed = False
        self._refused = False
        self._written = 0
        self._freed = 0
        self._closed = False
        self.failures = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._live = self._create()
        except OSError as error:
            raise BooksUnavailable(f"the journal in {folder} cannot be written: {error.strerror}") from error
        self._segments = deque([self._live])

    @property
    def bytes(self) -> int:
        """Bytes on the disk that are this process's and not yet freed."""
        return self._written - self._freed

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
        """Whether the last append succeeded and there is room below the bound."""
        return not self._refused and self._written - self._freed < self._bytes_max

    def dispatched(self, record: Dispatched) -> None:
        """Write that a request is about to be sent. Raises `BooksUnavailable` when the disk refuses or the journal is at its bound."""
        if self._closed or self._written - self._freed >= self._bytes_max:
            raise BooksUnavailable("the journal is closed" if self._closed else f"the journal is full ({self._bytes_max} bytes wait for the database)")
        if self._booked:
            self._hear_booked()
        try:
            if self._owed:
                self._write_owed()
            self._append(record)
        except OSError as error:
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

    def voided(self, request_id: str) -> None:
        """Write that a dispatched request used nothing. When the disk refuses, it is written before the next dispatch or at the close."""
        self._end(request_id)
        record = Voided(request_id)
        try:
            self._append(record)
        except OSError as error:
            self.failures += 1
            self._owed.append(record)
            log.error("journal: the void of %s is only in memory: %s", request_id, error)

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
        """Delete the oldest segments that hold nothing unbooked (books thread)."""
        segments = self._segments
        while len(segments) > 1 and segments[0].retired and segments[0].booked >= segments[0].settled:
            segment = segments.popleft()
            self._freed += segment.size
            _remove(segment)

    def sync(self) -> None:
        """Push what was written to the medium (books thread). A failure is counted and logged; the records stay in the page cache."""
        try:
            os.fdatasync(self._live.fd)
        except OSError as error:
            self.failures += 1
            log.error("journal: cannot be synced: %s", error)

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
        if in_use:
            return
        self._live.retired = not self._open and not self._owed
        while self._segments:
            segment = self._segments[0]
            if not segment.retired or segment.booked < segment.settled:
                break
            _remove(self._segments.popleft())
        for segment in self._segments:
            os.close(segment.fd)

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
            if isinstance(record, Voided):
                self._append(record)
            elif record.event.id in self._unwritten:  # else it was booked meanwhile
                self._append(record)
                self._live.settled += 1
                self._late[record.event.id] = self._live
                self._unwritten.discard(record.event.id)
                self._end(record.event.id)
            self._owed.popleft()

    def _append(self, record: Record) -> None:
        payload = self._encode(record)
        data = HEADER.pack(len(payload), zlib.crc32(payload)) + payload
        segment = self._live
        if self._closed:
            raise OSError(0, "the journal is closed")
        try:
            written = append(segment.fd, data)
            if written != len(data):  # the disk filled up in the middle: take the piece back, or the next record would follow garbage
                os.ftruncate(segment.fd, segment.size)
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
            self._live = fresh = self._create()
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

    def _create(self) -> Segment:
        start_us = self._now_us()
        while True:
            path = self.folder / f"{start_us}-{os.getpid()}.wal"
            start_us += 1
            try:
                fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except FileExistsError:
                continue
            if _lock(fd) and os.fstat(fd).st_nlink:
                return Segment(path, fd)
            os.close(fd)  # a process that is replaying took it for a dead one's between the two calls: leave it to that one


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(segment: Segment) -> None:
    try:
        segment.path.unlink(missing_ok=True)
    except OSError as error:  # it is replayed at the next start, where every event in it is known already
        log.error("journal: %s cannot be deleted: %s", segment.path.name, error)
    os.close(segment.fd)
