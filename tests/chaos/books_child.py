"""The process that `test_kill_nine` kills: it records requests and dies by SIGKILL at a named point, the n-th time it gets there.

On standard output it says what a client would have seen: `sent <number>` once a request may go upstream, `ended <number>` once it is settled.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlmodel import Session

from billing.db import Database
from billing.usage import recorder as recorder_module
from billing.usage.journal import Journal
from billing.usage.records import Dispatched
from tests.books import dispatched, event, request_id
from tests.clock import ManualClock

REQUESTS = 60
OVERLAP = 5  # requests that are open at once


class Killer:
    """Kills this process when a point is passed for the n-th time."""

    def __init__(self, point: str, count: int) -> None:
        self.point = point
        self.count = count

    def pass_by(self, point: str) -> None:
        if self.due(point):
            os.kill(os.getpid(), signal.SIGKILL)

    def due(self, point: str) -> bool:
        if point == self.point:
            self.count -= 1
        return point == self.point and self.count == 0


class MortalDatabase:
    def __init__(self, db: Database, killer: Killer) -> None:
        self.db = db
        self.killer = killer

    @contextmanager
    def write(self) -> Iterator[Session]:
        with self.db.write() as session:
            yield session
            self.killer.pass_by("before_commit")
        self.killer.pass_by("after_commit")

    def retrying(self, work: Any) -> Any:
        with self.write() as session:
            return work(session)


class MortalJournal(Journal):
    killer: Killer

    def _append(self, record: Any) -> None:
        if not hasattr(self, "killer"):
            return super()._append(record)
        self.killer.pass_by("before_append")
        if isinstance(record, Dispatched) and request_id(0) != record.id and record.id in self._open:
            self.killer.pass_by("while_rotating")
        if self.killer.due("torn_append"):
            os.write(self._live.fd, b"\x60\x01\x00\x00half a record")
            os.kill(os.getpid(), signal.SIGKILL)
        super()._append(record)
        self.killer.pass_by("after_append")
        return None

    def sweep(self) -> None:
        self.killer.pass_by("before_sweep")
        super().sweep()
        self.killer.pass_by("after_sweep")


def say(word: str, number: int) -> None:
    """Say one line in one write: another thread may kill this process between two."""
    os.write(1, f"{word} {number}\n".encode())


def main(url: str, folder: Path, point: str, count: int) -> None:
    """Record requests until killed."""
    killer = Killer(point, count)
    clock = ManualClock()
    journal = MortalJournal(folder, clock.now_us, segment_bytes=6_000)
    journal.killer = killer
    recorder = recorder_module.Recorder(MortalDatabase(Database(url), killer), journal, clock.now_us, flush_ms=1, batch=7)  # type: ignore[arg-type]
    recorder.start(lambda callback: callback())
    for number in range(REQUESTS + OVERLAP):
        if number < REQUESTS:
            recorder.dispatched(dispatched(number))
            say("sent", number)
        if number >= OVERLAP:
            recorder.settled(event(number - OVERLAP))
            say("ended", number - OVERLAP)
    recorder.stop()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
