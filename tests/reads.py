"""A database whose reads a test can make fail or hang: the books are real, only the way to them is the test's."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sqlmodel import Session

from billing.db import Database
from gateway.reads import BookReads
from tests.desk import migrated

T = TypeVar("T")


class Reads(BookReads):
    """Reads that raise `trouble` while it is set; `hangs` makes one wait until `answers` is set."""

    def __init__(self, db: Database) -> None:
        super().__init__(db, threads=2)
        self.trouble: Exception | None = None
        self.hangs = False
        self.answers = asyncio.Event()
        self.asked = 0
        self.tried = asyncio.Event()

    async def run(self, read: Callable[[Session], T]) -> T:
        self.asked += 1
        self.tried.set()
        if self.hangs:
            await self.answers.wait()
        if self.trouble is not None:
            raise self.trouble
        return await super().run(read)

    async def attempts(self, count: int) -> None:
        """Wait until so many more reads were asked for, so that those before were dealt with."""
        async with asyncio.timeout(10):
            for _ in range(count):
                self.tried.clear()
                await self.tried.wait()


@contextmanager
def books(folder: Path) -> Iterator[Database]:
    """Open a migrated, empty database."""
    (folder / "books.db").write_bytes(migrated())
    database = Database(f"sqlite:///{folder / 'books.db'}")
    try:
        yield database
    finally:
        database.close()
