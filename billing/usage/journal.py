"""The local journal: what was dispatched and what was used, on the disk before anything else hears of it.

Append-only segments `<start_us>-<pid>.wal` under one folder, each held by flock while its process lives. One `write` per record: what
was written survives a `kill -9`; `sync` bounds what a power cut takes. Appending is the event loop's; `release`, `sweep` and
`sync` are the books thread's. Neither takes a lock: each counter has one writer. Segments go oldest first, once all that was
settled in them is booked; what is still open is carried into the next segment at rotation, so nothing in an old one is missed.
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
        self._void_owed: deque[Voided] = deque()  # voids that the disk refused; until they are written nothing new is dispatched
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
        return len(self._open)

    def dispatched(self, record: Dispatched) -> None:
        """Write that a request is about to be sent. Raises `BooksUnavailable` when the disk refuses or the journal is at its bound."""
        if self._closed or self._written - self._freed >= self._bytes_max:
            raise BooksUnavailable("the journal is closed" if self._closed else f"the journal is full ({self._bytes_max} bytes wait for the database)")
        try:
            while self._void_owed:
                self._append(self._void_owed[0])
                self._void_owed.popleft()
            self._append(record)
            self._open[record.id] = record
            if self._live.size >= self._segment_bytes:
                self._rotate()
        except OSError as error:
            self.failures += 1
            raise BooksUnavailable(f"the journal in {self.folder} cannot be written: {error.strerror}") from error

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
        """Write a settled event; return the segment that waits for it to be booked, or None when the disk refused (counted, logged)."""
        self._open.pop(event.id, None)
        if self._progress:
            self._progress.pop(event.id, None)
        try:
            self._append(Settled(event))
        except (OSError, OverflowError) as error:  # a figure past 64 bits cannot be written either: the books will park it
            self.failures += 1
            log.error("journal: event %s of tenant %s is only in memory until it is booked: %s", event.id, event.tenant_id, error)
            return None
        segment = self._live
        segment.settled += 1
        return segment

    def voided(self, request_id: str) -> None:
        """Write that a dispatched request used nothing. When the disk refuses, it is written before the next dispatch."""
        self._open.pop(request_id, None)
        self._progress.pop(request_id, None)
        record = Voided(request_id)
        try:
            self._append(record)
        except OSError as error:
            self.failures += 1
            self._void_owed.append(record)
            log.error("journal: the void of %s is only in memory: %s", request_id, error)

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

    def close(self) -> None:
        """Let go of every segment; those with nothing open and nothing unbooked are deleted, the others are replayed at the next start."""
        if self._closed:
            return
        self._closed = True
        self._live.retired = not self._open and not self._void_owed
        while self._segments:
            segment = self._segments[0]
            if not segment.retired or segment.booked < segment.settled:
                break
            _remove(self._segments.popleft())
        for segment in self._segments:
            os.close(segment.fd)

    def _append(self, record: Record) -> None:
        payload = self._encode(record)
        data = HEADER.pack(len(payload), zlib.crc32(payload)) + payload
        segment = self._live
        if self._closed:
            raise OSError(0, "the journal is closed")
        written = os.write(segment.fd, data)
        if written != len(data):  # the disk filled up in the middle: take the piece back, or the next record would follow garbage
            os.ftruncate(segment.fd, segment.size)
            raise OSError(28, "No space left on device")
        segment.size += written
        self._written += written

    def _rotate(self) -> None:
        old = self._live
        try:
            self._live = self._create()
        except OSError as error:  # stay on the old one: it only grows longer than wished
            self.failures += 1
            log.error("journal: no new segment, going on with %s: %s", old.path.name, error)
            return
        try:
            for record in self._open.values():
                self._append(record)
            for last in self._progress.values():
                self._append(last)
        except OSError:
            self._freed += self._live.size
            _remove(self._live)
            self._live = old
            raise
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
