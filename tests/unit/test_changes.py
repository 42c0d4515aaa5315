"""The change feed: it outlives whatever goes wrong, and what it has not delivered it delivers later, in order."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from billing.db import Database
from billing.errors import BooksUnavailable
from billing.tenants.store import note_change, prune_changes
from gateway.changes import ChangeFeed
from tests.clock import START_US
from tests.reads import Reads, books

Heard = set[str] | None
EVERY_S = 0.005


class Ear:
    """Hears changes; `broken` makes it fail."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self.broken: Exception | None = None
        self.called = asyncio.Event()

    async def __call__(self, tenants: Heard) -> None:
        self.called.set()
        if self.broken is not None:
            raise self.broken
        self.heard.append(tenants)

    async def hears(self, count: int) -> list[Heard]:
        async with asyncio.timeout(10):
            while len(self.heard) < count:
                self.called.clear()
                await self.called.wait()
                await asyncio.sleep(0)
        return self.heard

    async def fails(self, times: int) -> None:
        async with asyncio.timeout(10):
            for _ in range(times):
                self.called.clear()
                await self.called.wait()


@asynccontextmanager
async def following(database: Database, on_change: Callable[[Heard], Awaitable[None]]) -> AsyncGenerator[tuple[Reads, ChangeFeed]]:
    reads = Reads(database)
    feed = ChangeFeed(reads, on_change, every_s=EVERY_S)
    task = asyncio.create_task(feed.follow())
    try:
        yield reads, feed
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        reads.close()


def change(database: Database, tenant: str | None) -> None:
    with database.write() as session:
        note_change(session, tenant, START_US)


async def test_an_unexpected_failure_of_a_read_is_logged_once_and_the_feed_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ear = Ear()
    with books(tmp_path) as database:
        async with following(database, ear) as (reads, _):
            reads.trouble = RuntimeError("pool is exhausted")
            await reads.attempts(4)
            reads.trouble = None
            change(database, "acme")
            assert await ear.hears(1) == [{"acme"}]
    failed = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(failed) == 1 and failed[0].exc_info is not None


async def test_a_database_that_is_away_is_said_once_without_a_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ear = Ear()
    with books(tmp_path) as database:
        async with following(database, ear) as (reads, _):
            reads.trouble = BooksUnavailable("the database cannot be used now")
            await reads.attempts(4)
            reads.trouble = None
            change(database, "acme")
            await ear.hears(1)
    failed = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(failed) == 1 and failed[0].exc_info is None


async def test_a_change_that_could_not_be_delivered_is_delivered_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ear = Ear()
    with books(tmp_path) as database:
        async with following(database, ear):
            ear.broken = BooksUnavailable("the rates cannot be read now")
            change(database, None)
            await ear.fails(2)
            ear.broken = KeyError("a bug")
            await ear.fails(2)
            ear.broken = None
            assert await ear.hears(1) == [None]
            change(database, "acme")
            assert await ear.hears(2) == [None, {"acme"}]
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 2


async def test_changes_that_were_pruned_before_it_saw_them_make_it_look_everything_up(tmp_path: Path) -> None:
    ear = Ear()
    with books(tmp_path) as database:
        for _ in range(3):
            change(database, "acme")
        with database.write() as session:
            assert prune_changes(session, START_US + 1, keep=1, limit=10) == 2
        async with following(database, ear):
            assert await ear.hears(1) == [None]
            change(database, "acme")
            assert await ear.hears(2) == [None, {"acme"}]


async def test_a_wake_is_answered_before_the_next_tick(tmp_path: Path) -> None:
    ear = Ear()
    with books(tmp_path) as database:
        reads = Reads(database)
        feed = ChangeFeed(reads, ear, every_s=3600)
        task = asyncio.create_task(feed.follow())
        await reads.attempts(1)
        change(database, "acme")
        feed.wake()
        assert await ear.hears(1) == [{"acme"}]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        reads.close()
