"""Reads of the books from the event loop: on threads of their own, and never waited for without a limit.

A database that hangs takes these few threads and no others: the process's shared pool keeps serving what needs no database. They are
daemons, so that one stuck in a read does not keep a process that is done from ending.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlmodel import Session

from billing.db import Database
from billing.errors import BooksUnavailable

T = TypeVar("T")

LIMIT_S = 5.0


class BookReads:
    """A few threads that read the books. What waits longer than `limit_s` (seconds) is given up."""

    def __init__(self, db: Database, *, threads: int, limit_s: float = LIMIT_S) -> None:
        self._db = db
        self._limit_s = limit_s
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._main, name=f"weir-reads-{index}", daemon=True) for index in range(threads)]
        for thread in self._threads:
            thread.start()

    async def run(self, read: Callable[[Session], T]) -> T:
        """Run a read on one of the threads and return its result. Raises `BooksUnavailable`, also when it takes too long."""
        future: Future[T] = Future()
        self._work.put(lambda: self._read(read, future))
        try:
            async with asyncio.timeout(self._limit_s):
                return await asyncio.wrap_future(future)  # its cancellation takes back what has not begun
        except TimeoutError:
            raise BooksUnavailable(f"the database did not answer within {self._limit_s:g} s") from None

    def close(self) -> None:
        """Let the threads end; one that is stuck is left behind."""
        for _ in self._threads:
            self._work.put(None)

    def _main(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    def _read(self, read: Callable[[Session], T], future: Future[T]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            with self._db.read() as session:
                result = read(session)
        except NoConnectionFree:
            future.set_exception(BooksUnavailable("the database cannot be used now: every connection is taken"))
        except BaseException as error:  # noqa: BLE001 - it is the asker's: the future raises it there
            future.set_exception(error)
        else:
            future.set_result(result)
