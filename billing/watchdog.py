"""The bound that no server gives: a connection whose other end acknowledges everything and answers nothing.

A hung pooler, a proxy or the server's disk leaves the network in order, so no timeout of the kernel ends the wait, and those of the server
are not kept. So a thread of ours looks at how long each piece of work (getting a connection, a statement, a commit) has lasted; past the
limit it shuts the sockets of the whole engine down. Whoever waits then hears that the connection is gone, and a new one is tried.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import Engine, event

LOOKS = 8  # how often it looks in the time of the limit

log = logging.getLogger(__name__)


class Watchdog:
    """Watches the connections that one PostgreSQL engine opens from now on. `limit_s` bounds a piece of work, in seconds; `cuts` counts those cut off."""

    def __init__(self, engine: Engine, limit_s: float) -> None:
        self._limit_s = limit_s
        self._sockets: dict[int, socket.socket] = {}
        self._lock = threading.Lock()
        self._due_s: dict[int, float] = {}  # by thread
        self._ended = threading.Event()
        self.cuts = 0
        event.listen(engine, "connect", self._opened, insert=True)  # before the dialect asks its first questions
        for name in ("close", "close_detached"):
            event.listen(engine, name, self._closed)
        for name in ("before_cursor_execute", "after_cursor_execute", "commit", "rollback"):
            event.listen(engine, name, self._goes_on)
        threading.Thread(target=self._main, name="weir-watchdog", daemon=True).start()

    @contextmanager
    def watch(self) -> Generator[None]:
        """Watch what this thread does with the engine inside. Each statement begins the time anew: the server bounds every one of them."""
        me = threading.get_ident()
        self._due_s[me] = time.monotonic() + self._limit_s
        try:
            yield
        finally:
            self._due_s.pop(me, None)

    def close(self) -> None:
        """Watch no longer."""
        self._ended.set()

    def _goes_on(self, *_anything: object) -> None:
        me = threading.get_ident()
        if me in self._due_s:
            self._due_s[me] = time.monotonic() + self._limit_s

    def _opened(self, connection: Any, _record: object) -> None:
        # A duplicate of its own: the number of the driver's may be another file's by the time it is shut down.
        with self._lock:
            self._sockets[id(connection)] = socket.socket(fileno=os.dup(connection.fileno()))

    def _closed(self, connection: Any, *_record: object) -> None:
        with self._lock:
            mine = self._sockets.pop(id(connection), None)
        if mine is not None:
            mine.close()

    def _main(self) -> None:
        while not self._ended.wait(self._limit_s / LOOKS):
            now_s = time.monotonic()
            late = [thread for thread, due_s in list(self._due_s.items()) if now_s >= due_s]
            if late:
                self._cut(late)

    def _cut(self, late: list[int]) -> None:
        self.cuts += 1
        log.error("the database has not answered for %g s, and no timeout of its own ended that: its connections are cut off", self._limit_s)
        with self._lock:
            for one in self._sockets.values():
                with suppress(OSError):  # it was broken already
                    one.shutdown(socket.SHUT_RDWR)
        for thread in late:
            if thread in self._due_s:
                self._due_s[thread] = time.monotonic() + self._limit_s
