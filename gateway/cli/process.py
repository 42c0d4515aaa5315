"""One process that serves: its services opened, its server run until it is told to stop, its books closed.

`weir serve` is one such process, or with `server.workers` above 1 the parent of several (`workers.py`, `worker.py`).
"""

import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence

import uvicorn

from gateway.app import create_app
from gateway.clock import Clock
from gateway.config import Settings
from gateway.server import Server, build_server, settle_heap
from gateway.services import Services, open_services
from gateway.telemetry.siblings import Siblings

log = logging.getLogger("weir")


async def serve_process(
    settings: Settings,
    clock: Clock,
    listeners: Sequence[socket.socket],
    announce: Callable[[Services], None],
    *,
    siblings: Siblings | None = None,
    opened: Callable[[Services, Server], None] = lambda _services, _server: None,
) -> int:
    """Serve on listening sockets until SIGTERM or SIGINT; return the exit status: 1 when usage was lost. The database must be migrated.

    `opened` is called before it listens, `announce`, on a thread, once it does. Raises `BooksUnavailable` or `BadConfig`.
    """
    raise_file_limit()
    async with open_services(settings, clock) as services:
        server = build_server(create_app(services, siblings), settings, lambda: announce(services))
        opened(services, server)
        settle_heap()
        await _serve(server, listeners)
    return 1 if services.recorder.lost else 0  # the recorder has logged what


def raise_file_limit() -> None:
    """Let this process have as many files open as the system allows it: a stream takes two, and the usual limit of 1,024 is there for programs of old."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError) as error:  # macOS names a hard limit that it does not grant
            log.warning("at most %d files can be open, and half as many streams: the limit cannot be raised: %s", soft, error)


async def _serve(server: uvicorn.Server, listeners: Sequence[socket.socket]) -> None:
    """Serve until SIGTERM or SIGINT. uvicorn raises the signal again when it is done; by then the books must still be closed, so it meets a handler of ours."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        await server.serve(list(listeners))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # a second signal ends the closing: what is not flushed is in the journal


def leave_stuck_threads(code: int) -> None:
    """End the process now if a thread of it waits for a database that hangs: everything is closed, and the interpreter would wait for it."""
    stuck = [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.current_thread()]
    if stuck:
        log.warning("%d threads still wait, for a database that does not answer or the like; ending without them", len(stuck))
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
