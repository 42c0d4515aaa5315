"""The chores run beside the requests, and a database that is away stops them for a while and not for ever."""

import asyncio
from pathlib import Path

import pytest

from billing.db import Database
from billing.errors import BooksUnavailable
from gateway import chores
from gateway.chores import Chores
from tests.clock import START_US, ManualClock


async def test_every_job_runs_with_the_clock_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(f"sqlite:///{tmp_path / 'weir.db'}")
    database.migrate()
    assert "expire_grants" in await Chores(database, ManualClock()).run()
    seen: list[int] = []

    def run_jobs(_database: Database, now_us: int) -> dict[str, int]:
        seen.append(now_us)
        return {}

    monkeypatch.setattr(chores, "run_jobs", run_jobs)
    await Chores(database, ManualClock()).run()
    assert seen == [START_US]
    database.close()


async def test_a_database_that_is_away_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(f"sqlite:///{tmp_path / 'weir.db'}")
    again = asyncio.Event()
    loop = asyncio.get_running_loop()
    tries: list[int] = []

    def run_jobs(_database: Database, now_us: int) -> dict[str, int]:
        tries.append(now_us)
        if len(tries) == 1:
            raise BooksUnavailable("away")
        loop.call_soon_threadsafe(again.set)
        return {}

    monkeypatch.setattr(chores, "run_jobs", run_jobs)
    following = asyncio.create_task(Chores(database, ManualClock(), every_s=0).follow())
    async with asyncio.timeout(10):
        await again.wait()
    following.cancel()
    database.close()
