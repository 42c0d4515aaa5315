"""The chores run beside the requests, and a database that is away stops them for a while and not for ever."""

import asyncio
from pathlib import Path

import pytest

from billing.db import Database
from billing.errors import BooksUnavailable
from billing.jobs import Report
from gateway import chores
from gateway.chores import Chores
from tests.clock import START_US, ManualClock


async def test_every_job_runs_with_the_clock_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(f"sqlite:///{tmp_path / 'weir.db'}")
    database.migrate()
    assert "expire_grants" in await Chores(database, ManualClock()).run()
    seen: list[int] = []

    def run_jobs(_database: Database, now_us: int, _report: Report) -> dict[str, int]:
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

    def run_jobs(_database: Database, now_us: int, _report: Report) -> dict[str, int]:
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


async def test_it_tells_how_long_ago_each_job_ended_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database, clock = Database(f"sqlite:///{tmp_path / 'weir.db'}"), ManualClock()
    database.migrate()
    beside = Chores(database, clock)
    clock.advance(60)
    assert set(beside.ages().values()) == {60.0} and ("expire_grants",) in beside.ages()
    await beside.run()
    clock.advance(5)
    assert set(beside.ages().values()) == {5.0}
    assert beside.clock_ahead_s is None, "SQLite has no clock of its own"

    def run_jobs(_database: Database, _now_us: int, report: Report) -> dict[str, int]:
        report.clock_off_us = 7_200_000_000
        report.succeeded.add("expire_grants")
        raise BooksUnavailable("a lock")

    monkeypatch.setattr(chores, "run_jobs", run_jobs)
    with pytest.raises(BooksUnavailable):
        await beside.run()
    assert (beside.ages()[("expire_grants",)], beside.ages()[("prune_changes",)]) == (0.0, 5.0)
    assert vars(beside)["clock_ahead_s"] == 7200.0
    database.close()
