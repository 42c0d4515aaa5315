"""The parent of several workers: it holds the listening socket, starts them, starts one again that died or hangs, and ends them.

A worker is a whole gateway in a process of its own (`worker.py`), started fresh and not forked. Two pipes tie it to this one: through
the first it gets its brief and what the parent knows, and its end tells it that the parent is gone; through the second it says that it
serves, and every second that its event loop turns.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gateway.cli.door import ABSENT, Tally
from gateway.cli.failure import Failure
from gateway.config import Settings
from gateway.telemetry import names

COMMAND = (sys.executable, "-P", "-m", "gateway.cli.worker")
PATH_BYTES_MAX = 100  # of a socket's name in the file system, which the kernel bounds
AWAY = 75  # a worker's exit status for a database that is away: no fault of its own
START_S_MAX = 120.0
HANG_S = 60.0  # a worker whose loop has not turned for this long is ended
LOOK_S = 1.0
DEATHS_MAX = 3  # before it served, one after another
BACK_OFF_S, BACK_OFF_S_MAX = 0.5, 30.0
STABLE_S = 60.0  # a run this long clears what was held against a worker
END_S = 15.0  # past the grace: for the books to close

log = logging.getLogger("weir.workers")

Figures = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Brief:
    """What a worker is told at its start. `fields` are those of its `Settings`."""

    index: int
    count: int
    folder: Path
    fields: Mapping[str, Any]


def tally_of(folder: Path) -> Path:
    """Name the file in which the workers count their connections."""
    return folder / "connections"


class Worker:
    """One worker over all its lives. Belongs to the parent's event loop."""

    def __init__(self, brief: Brief, listener: socket.socket, stopping: asyncio.Event, changed: Callable[["Worker"], None]) -> None:
        self.brief = brief
        self.restarts = 0
        self.ready = asyncio.Event()  # set once, at its first service
        self._listener = listener
        self._stopping = stopping
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._down: Connection | None = None
        self._serves = False
        self._heard_s = 0.0

    async def keep(self) -> int:
        """Keep it running until all are to stop; return its last status, 0 if it did not serve then. Raises `Failure` if it cannot be started."""
        failures = deaths = 0
        while True:
            began_s = time.monotonic()
            status = await self._live()
            if self._stopping.is_set():
                return status if self._serves else 0
            deaths = 0 if self._serves or (status == AWAY and self.ready.is_set()) else deaths + 1
            if deaths >= DEATHS_MAX:
                raise Failure(f"worker {self.brief.index} {_ended(status)} before it served, {deaths} times in a row; its lines in the log say why")
            failures = 0 if time.monotonic() - began_s >= STABLE_S else failures
            pause_s = min(BACK_OFF_S * 2.0**failures, BACK_OFF_S_MAX)
            failures = min(failures + 1, 16)
            log.error("worker %d %s; starting it again in %.1f s", self.brief.index, _ended(status), pause_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
                return 0
            self.restarts += 1

    def signal(self, number: int) -> None:
        """Send it a signal. Harmless when it is not running."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                self._process.send_signal(number)

    def tell(self, word: str, content: Any = None) -> None:
        """Tell it something, if it is there."""
        if self._down is not None:
            with contextlib.suppress(OSError):  # it ended meanwhile
                self._down.send((word, content))

    async def _live(self) -> int:
        """Start it and wait for its end; return its exit status."""
        self._serves = False
        hears, tells = multiprocessing.Pipe(duplex=False)
        listens, says = os.pipe()
        os.set_blocking(listens, False)
        loop = asyncio.get_running_loop()
        try:
            given = (self._listener.fileno(), hears.fileno(), says)
            self._process = await asyncio.create_subprocess_exec(*COMMAND, *map(str, given), stdin=asyncio.subprocess.DEVNULL, pass_fds=given)
        finally:
            hears.close()
            os.close(says)
        self._heard_s = time.monotonic()
        loop.add_reader(listens, self._hear, listens)
        try:
            with contextlib.suppress(OSError):  # it ended at once
                tells.send(self.brief)
            self._down = tells
            self._changed(self)
            if self._stopping.is_set():  # all were asked to end while this one was being started
                self.signal(signal.SIGTERM)
            return await self._end(self._process)
        finally:
            loop.remove_reader(listens)
            os.close(listens)
            tells.close()
            self._down = None

    def _hear(self, listens: int) -> None:
        said = os.read(listens, 4096)
        self._heard_s = time.monotonic()
        if b"r" in said:
            self._serves = True
            self.ready.set()
        if not said:  # it is ending: there is nothing more to hear
            asyncio.get_running_loop().remove_reader(listens)

    async def _end(self, process: asyncio.subprocess.Process) -> int:
        """Wait for its end; one that hangs is killed: its journal tells the next one what it had under way."""
        while True:
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(process.wait(), LOOK_S)
            silent_s = time.monotonic() - self._heard_s
            if silent_s > (HANG_S if self._serves else START_S_MAX):
                log.error("worker %d (process %d) has given no sign for %.0f s: killed", self.brief.index, process.pid, silent_s)
                self.signal(signal.SIGKILL)
                return await process.wait()


def fields_of(settings: Settings) -> dict[str, Any]:
    """Return the settings of a worker: all of them. What they share, such as a backend's slots, they share out among themselves."""
    return {name: getattr(settings, name) for name in Settings.model_fields}


class Workers:
    """All workers of one gateway, from the first start to the last end. `children` tells how often each server of ours was started again."""

    def __init__(self, settings: Settings, listener: socket.socket, folder: Path, children: Callable[[], Mapping[str, int]]) -> None:
        count = settings.server.workers
        self.stopping = asyncio.Event()
        self._tally = Tally(tally_of(folder), count, create=True)
        self.all = [Worker(Brief(index, count, folder, fields_of(settings)), listener, self.stopping, self._begun) for index in range(count)]
        self._children = children
        self._grace_s = settings.server.shutdown_grace_s
        self._told: Figures = {}

    def figures(self) -> Figures:
        """Return what only the parent can count: metric name -> label value -> number."""
        restarts = {str(worker.brief.index): worker.restarts for worker in self.all}
        return {names.WORKER_RESTARTS.name: restarts, names.CHILD_RESTARTS.name: dict(self._children())}

    async def run(self, announce: Callable[[], None]) -> int:
        """Run them until `stopping`; return the exit status: 1 when one of them lost usage, or had to be killed.

        `announce` is called, on a thread, once all serve. Raises `Failure` when one cannot be started.
        """
        keepers = [asyncio.create_task(worker.keep(), name=f"worker {worker.brief.index}") for worker in self.all]
        beside = [asyncio.create_task(self._announce(announce)), asyncio.create_task(self._follow_children())]
        stop = asyncio.create_task(self.stopping.wait())
        waiting: set[asyncio.Task[Any]] = {*keepers, *beside, stop}
        try:
            while not stop.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # raises what one of them failed of
        finally:
            for task in (*beside, stop):
                task.cancel()
            code = await self._stop(keepers)
        return code

    async def _announce(self, announce: Callable[[], None]) -> None:
        for worker in self.all:
            await worker.ready.wait()
        await asyncio.to_thread(announce)

    async def _follow_children(self) -> None:
        """Pass on what the parent counts, when it changed."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self.figures() != self._told:
                self._tell()

    def _begun(self, worker: Worker) -> None:
        self._tally.counts[worker.brief.index] = ABSENT  # until it serves: what the one before it had written is no longer true
        self._tell()

    def _tell(self) -> None:
        self._told = self.figures()
        for worker in self.all:
            worker.tell("figures", self._told)

    async def _stop(self, keepers: list[asyncio.Task[int]]) -> int:
        """Ask all to end and wait until they have; who needs longer than the grace and the closing of the books is killed."""
        self.stopping.set()
        for worker in self.all:
            worker.signal(signal.SIGTERM)
        _, left = await asyncio.wait(keepers, timeout=self._grace_s + END_S)
        if left:
            log.error("%s did not end in time: killed; the next start books what the journal has of it", ", ".join(task.get_name() for task in left))
            for worker in self.all:
                worker.signal(signal.SIGKILL)
            await asyncio.wait(left)
        ends = [1 if keeper.cancelled() or keeper.exception() is not None else keeper.result() for keeper in keepers]
        return 1 if any(ends) else 0

    def hurry(self) -> None:
        """Have the workers end what is under way now."""
        for worker in self.all:
            worker.tell("now")


async def run_workers(settings: Settings, listener: socket.socket, announce: Callable[[], None], children: Callable[[], Mapping[str, int]]) -> int:
    """Run `server.workers` workers until SIGTERM or SIGINT, whose second cuts the grace short; return the exit status. Raises `Failure`."""
    loop = asyncio.get_running_loop()
    with run_directory() as folder:
        workers = Workers(settings, listener, folder, children)

        def told() -> None:
            if workers.stopping.is_set():
                workers.hurry()
            workers.stopping.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told)
        return await workers.run(announce)


@contextlib.contextmanager
def run_directory() -> Generator[Path]:
    """Make the folder of the workers' own sockets, which no other user may enter. Raises `Failure`."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="weir-"))
    except OSError as error:
        raise Failure(f"no run directory can be made for the workers: {error.strerror or error}; name a folder that is writable with TMPDIR") from None
    try:
        if len(os.fsencode(folder)) > PATH_BYTES_MAX - len("/255.sock"):
            raise Failure(f"the path of the workers' run directory, {folder}, is too long for a socket; name a shorter folder with TMPDIR")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ended(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
