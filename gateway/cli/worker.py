"""One worker of several: `python -m gateway.cli.worker LISTENER HEARS SAYS`, three file descriptors given by the parent (`workers.py`).

A whole gateway: its own journal, books thread and accounts; only the port and the run directory are shared. It ends in good order
when the parent asks, when it is asked itself (SIGTERM), and when the parent is gone, however that ended. A terminal's Ctrl-C is the parent's.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from multiprocessing.connection import Connection

import uvloop

from backends.errors import BackendError
from billing.errors import BillingError, BooksUnavailable
from gateway.cli.door import Door, Tally
from gateway.cli.failure import Failure
from gateway.cli.process import leave_stuck_threads, serve_process
from gateway.cli.workers import AWAY, END_S, Brief, tally_of
from gateway.clock import SystemClock
from gateway.config import ConfigError, Settings
from gateway.server import Server
from gateway.services import Services
from gateway.telemetry.logs import configure_logging
from gateway.telemetry.siblings import Siblings, socket_of

PULSE_S = 1.0

log = logging.getLogger("weir")


class Tie:
    """The worker's ends of the two pipes. `hears` is read on a thread of its own, so that the parent's end is noticed whatever the loop does."""

    def __init__(self, hears: Connection, says: int, brief: Brief, settings: Settings) -> None:
        self.siblings = Siblings(brief.folder, brief.index, brief.count)
        self.door: Door | None = None
        self.orphaned = False
        self._hears = hears
        self._says = says
        self._grace_s = settings.server.shutdown_grace_s
        os.set_blocking(says, False)  # a parent that hangs must not hold this one up

    def say(self, word: bytes) -> None:
        """Say one byte to the parent; unheard it is lost."""
        with contextlib.suppress(OSError):
            os.write(self._says, word)

    def follow(self, server: Server) -> None:
        """Follow the parent's words from now on."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._hear, args=(server, loop), name="weir-parent", daemon=True).start()

    async def pulse(self) -> None:
        """Say every second that the loop turns, until cancelled."""
        while True:
            self.say(b".")
            if self.door is not None:
                self.door.note()
            await asyncio.sleep(PULSE_S)

    def _hear(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            try:
                word, content = self._hears.recv()
            except (EOFError, OSError):
                break
            if word == "figures":
                self.siblings.figures = content
            elif word == "now":
                loop.call_soon_threadsafe(setattr, server, "force_exit", True)
        self.orphaned = True
        log.error("the parent process is gone: ending in good order")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self._grace_s + END_S)
        os._exit(1)


def main() -> None:
    """Serve until told to end; exit with 1 when usage was lost."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    listener, hears, says = socket.socket(fileno=int(sys.argv[1])), Connection(int(sys.argv[2]), writable=False), int(sys.argv[3])
    for fd in (listener.fileno(), hears.fileno(), says):
        os.set_inheritable(fd, False)
    try:
        brief: Brief = hears.recv()
    except EOFError:
        raise SystemExit(1) from None  # the parent is gone
    settings = Settings.model_construct(**brief.fields)
    configure_logging(settings.log.level, settings.log.format)
    _name_lines(brief.index)
    tie = Tie(hears, says, brief, settings)
    try:
        code = uvloop.run(_work(brief, settings, listener, tie))
    except BooksUnavailable as error:
        log.error("%s", error)
        code = AWAY
    except (Failure, BackendError, BillingError, ConfigError) as error:
        log.error("%s", error)
        code = 1
    if tie.orphaned:
        _tidy(brief)
    leave_stuck_threads(code)
    raise SystemExit(code)


async def _work(brief: Brief, settings: Settings, listener: socket.socket, tie: Tie) -> int:
    path = socket_of(brief.folder, brief.index)
    path.unlink(missing_ok=True)  # of a worker before this one

    def opened(_services: Services, server: Server) -> None:
        tie.door = Door(listener, Tally(tally_of(brief.folder), brief.count), brief.index, lambda: len(server.server_state.connections))
        server.entrance = tie.door
        tie.follow(server)

    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(path))
        own.listen()
        own.setblocking(False)
        pulse = asyncio.create_task(tie.pulse())
        try:
            return await serve_process(settings, SystemClock(), [own], lambda _services: tie.say(b"r"), siblings=tie.siblings, opened=opened)
        finally:
            pulse.cancel()


def _name_lines(index: int) -> None:
    """Put the worker's number on every line of its log."""

    def name(record: logging.LogRecord) -> bool:
        record.worker = index
        return True

    for handler in logging.getLogger().handlers:
        handler.addFilter(name)


def _tidy(brief: Brief) -> None:
    """Take away what the parent would have: its own socket, and the folder with the last one."""
    with contextlib.suppress(OSError):
        socket_of(brief.folder, brief.index).unlink(missing_ok=True)
        tally_of(brief.folder).unlink(missing_ok=True)
        brief.folder.rmdir()


if __name__ == "__main__":
    main()
