"""How several workers take connections from one listening socket: one at a time each, and who has the fewest first.

Every worker is woken for every connection, and whoever is quickest would take nearly all of them: measured, 64 connections at once went
to two of four workers. So each writes down how many connections it has, in memory that all of them share, and one that has more than
another waits two milliseconds before it takes the next: long enough for the other, and nothing to a client if that one does not come.
"""

import asyncio
import logging
import mmap
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE_S = 0.002
FULL_S = 0.5  # a pause when the process has no file descriptor left, or the like
ABSENT = -1

log = logging.getLogger("weir")


class Tally:
    """How many connections each worker has; `ABSENT` for one that does not serve. Every worker writes its own number only, so no lock is needed."""

    def __init__(self, path: Path, count: int, *, create: bool = False) -> None:
        with path.open("w+b" if create else "r+b") as file:
            if create:
                file.truncate(4 * count)
            self.counts = memoryview(mmap.mmap(file.fileno(), 4 * count)).cast("i")
        if create:
            for index in range(count):
                self.counts[index] = ABSENT

    def fewest(self) -> int:
        """Return the smallest number that a worker has."""
        return min((count for count in self.counts if count != ABSENT), default=0)


class Door:
    """One worker's way of accepting. `busy` says how many connections it has. What uvicorn asks of a server it has: `close` and `wait_closed`."""

    def __init__(self, listener: socket.socket, tally: Tally, index: int, busy: Callable[[], int]) -> None:
        self._listener = listener
        self._tally = tally
        self._index = index
        self._busy = busy
        self._make: Callable[[], asyncio.Protocol] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.get_running_loop()

    def open(self, make: Callable[[], asyncio.Protocol]) -> None:
        """Take connections from now on, each with a protocol from `make`."""
        self._make = make
        self.note()
        self._listen()

    def note(self) -> None:
        """Write down how many connections this worker has now."""
        if self._make is not None:
            self._tally.counts[self._index] = self._busy() + len(self._opening)

    def close(self) -> None:
        """Take no more. Those that wait are the other workers'."""
        if self._make is None:
            return
        self._make = None
        self._tally.counts[self._index] = ABSENT
        self._loop.remove_reader(self._listener.fileno())
        if self._timer is not None:
            self._timer.cancel()
        self._listener.close()

    async def wait_closed(self) -> None:
        """Return at once: nothing is left to close."""

    def _listen(self) -> None:
        self._timer = None
        self._loop.add_reader(self._listener.fileno(), self._knocked)

    def _knocked(self) -> None:
        self.note()
        if self._tally.counts[self._index] > self._tally.fewest():
            self._pause(PATIENCE_S, self._take_late)
        else:
            self._take()

    def _take_late(self) -> None:
        self._timer = None
        if self._take():
            self._listen()

    def _take(self) -> bool:
        """Accept one connection; tell whether to go on, which is not now when the process is full."""
        assert self._make is not None
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return True  # another worker was first, or the client has gone
        except OSError as error:
            log.error("no connection can be accepted for %g s: %s", FULL_S, error)
            self._pause(FULL_S, self._listen)
            return False
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opening = self._loop.create_task(self._open(connection, self._make))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        return True

    async def _open(self, connection: socket.socket, make: Callable[[], asyncio.Protocol]) -> None:
        try:
            await self._loop.connect_accepted_socket(make, connection)
        except OSError as error:
            log.info("a connection was lost while it was accepted: %s", error)
            connection.close()

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._timer = self._loop.call_later(seconds, then)
