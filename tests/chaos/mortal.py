"""The gateway with an end built in: `python -m tests.chaos.mortal serve ...` is `weir serve ...` that dies at a named point.

    MORTAL_POINT="after_settle_record:3"    kill -9 when that point is passed for the third time
    MORTAL_POINT="frozen_flush_commit:2"    it stops there (SIGSTOP), with its locks, until somebody sends SIGCONT
    MORTAL_POINT="lost_flush_commit:2"      the commit happens, and its answer is lost, the second time
    MORTAL_CLOCK=file                       the wall clock is off by the microseconds in that file (8 bytes, see `Offset`)
    MORTAL_TWIN=1                           it believes to be the process that is in the books already, as a copied machine does
    MORTAL_SEGMENT_BYTES=4000               the journal rotates this early

All of it is patched in from here; the product has no fault points. The monotonic clock is left alone: it is what a host never steps.
"""

import mmap
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlmodel import Session

from backends.pool import Pool
from billing.credits import accounts as accounts_module
from billing.leases import store as leases
from billing.leases.store import Replica
from billing.usage import journal as journal_module
from billing.usage import recorder as recorder_module
from billing.usage.journal import Journal
from gateway.cli import main
from gateway.clock import SystemClock

OFFSET = struct.Struct("<q")


class Offset:
    """How far the wall clock is stepped, in a file that both sides map: a test writes it, the gateway reads it at every look."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(OFFSET.pack(0))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), OFFSET.size)

    @property
    def us(self) -> int:
        return int(OFFSET.unpack_from(self._map)[0])

    @us.setter
    def us(self, value: int) -> None:
        OFFSET.pack_into(self._map, 0, value)


class Fate:
    """Knows the point at which this process ends, and counts how often it was passed."""

    def __init__(self, wish: str) -> None:
        self.point, _, count = wish.partition(":")
        self.left = int(count or "1")
        self._lock = threading.Lock()

    def due(self, point: str) -> bool:
        if point != self.point:
            return False
        with self._lock:
            self.left -= 1
            return self.left == 0

    def pass_by(self, point: str) -> None:
        if self.due(point):
            self.die()

    def die(self) -> None:
        os.write(2, f"mortal: killed at {self.point}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    def frame(self, owner: Any, name: str, point: str) -> None:
        """Put `before_<point>` and `after_<point>` around a function."""
        inner: Callable[..., Any] = getattr(owner, name)

        def framed(*args: Any, **kwargs: Any) -> Any:
            self.pass_by(f"before_{point}")
            result = inner(*args, **kwargs)
            self.pass_by(f"after_{point}")
            return result

        setattr(owner, name, framed)


def mark_transactions(fate: Fate) -> None:
    """Put points around the commits of flushes, leases, beats and burials, told apart by what was called in their session."""

    def name_by(owner: Any, name: str, kind: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        def named(*args: Any, **kwargs: Any) -> Any:
            next(one for one in args if isinstance(one, Session)).info["mortal"] = kind
            return inner(*args, **kwargs)

        setattr(owner, name, named)

    name_by(recorder_module, "book", "flush")
    name_by(accounts_module, "draw", "lease")
    name_by(leases, "register", "join")
    name_by(leases, "beat", "beat")

    def before(session: Session) -> None:
        if kind := session.info.get("mortal"):
            fate.pass_by(f"before_{kind}_commit")
            if fate.due(f"frozen_{kind}_commit"):
                os.write(2, f"mortal: frozen_{kind}_commit\n".encode())
                os.kill(os.getpid(), signal.SIGSTOP)

    def after(session: Session) -> None:
        if kind := session.info.get("mortal"):
            fate.pass_by(f"after_{kind}_commit")
            if fate.due(f"lost_{kind}_commit"):
                os.write(2, f"mortal: lost_{kind}_commit\n".encode())
                raise OperationalError("COMMIT", {}, ConnectionError("the answer to the commit was lost"))

    event.listen(Session, "before_commit", before)
    event.listen(Session, "after_commit", after)


def mark_upstream(fate: Fate) -> None:
    """`after_upstream_head`: the upstream has begun to answer, and nothing of it has been seen."""
    inner = Pool.open

    async def opened(self: Pool, *args: Any, **kwargs: Any) -> Any:
        answer = await inner(self, *args, **kwargs)
        fate.pass_by("after_upstream_head")
        return answer

    Pool.open = opened  # type: ignore[method-assign]


def mark_journal(fate: Fate) -> None:
    points = {"dispatched": "dispatch_record", "settled": "settle_record", "progress": "progress_record", "sweep": "sweep", "_push": "push"}
    for name, point in points.items():
        fate.frame(Journal, name, point)
    inside = vars(journal_module)
    append, create = inside["append"], inside["create"]

    def torn(fd: int, data: bytes) -> Any:
        if b"\xa1t\xa1s" in data[:32] and fate.due("torn_settle_record"):
            append(fd, data[: len(data) // 2])
            fate.die()
        return append(fd, data)

    def created(*args: Any) -> Any:
        segment = create(*args)
        fate.pass_by("after_new_segment")
        return segment

    inside.update(append=torn, create=created)


def be_a_twin() -> None:
    """Enter the books once as whoever is there already: its name, its beat, and so its leases."""
    register = leases.register

    def found(session: Session, mine: Replica) -> None:
        vars(leases)["register"] = register
        (first, *_) = leases.replicas(session)
        for field in ("id", "beat"):
            msgspec.structs.force_setattr(mine, field, getattr(first, field))

    vars(leases)["register"] = found


def patch(env: dict[str, str]) -> None:
    """Put in what the environment asks for."""
    if wish := env.get("MORTAL_POINT"):
        fate = Fate(wish)
        mark_journal(fate)
        mark_upstream(fate)
        mark_transactions(fate)
        fate.frame(recorder_module.Recorder, "stop", "close")
    if env.get("MORTAL_TWIN"):
        be_a_twin()
    if size := env.get("MORTAL_SEGMENT_BYTES"):
        defaults = Journal.__init__.__kwdefaults__
        assert defaults is not None
        defaults["segment_bytes"] = int(size)
    if path := env.get("MORTAL_CLOCK"):
        offset, now_us = Offset(Path(path)), SystemClock.now_us
        SystemClock.now_us = lambda self: now_us(self) + offset.us  # type: ignore[method-assign]


if __name__ == "__main__":
    patch(dict(os.environ))
    main(sys.argv[1:])
