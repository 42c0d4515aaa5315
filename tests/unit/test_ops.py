"""/ready and /metrics over a running gateway: neither says that all is well when it is not."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from billing.errors import BooksUnavailable
from billing.operations import rates
from billing.rates.store import all_rates
from billing.usage.journal import Journal
from billing.usage.recorder import Recorder
from gateway.changes import ChangeFeed
from tests.clock import START_US, ManualClock
from tests.house import House, open_house


async def readiness(house: House) -> tuple[int, list[str]]:
    answer = await house.client.get("/ready")
    return answer.status_code, answer.json()["missing"]


async def figures(house: House) -> dict[tuple[Any, ...], float]:
    families = text_string_to_metric_families((await house.client.get("/metrics")).text)
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


async def test_a_gateway_that_is_well_is_ready_and_every_watched_figure_has_a_source(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}) as house:
        assert await readiness(house) == (200, [])
        async with asyncio.timeout(10):
            while (found := await figures(house)).get(("weir_ledger_imbalance_ncr",)) is None:
                await asyncio.sleep(0.01)
        assert found[("weir_ready",)] == 1 and found[("weir_ledger_imbalance_ncr",)] == 0
        assert found[("weir_queue_depth", "echo", "fast")] == found[("weir_slots_used", "echo")] == 0
        assert found[("weir_slots", "echo")] == 64
        for name in ("weir_journal_failures_total", "weir_usage_rejected_total", "weir_usage_backlog", "weir_usage_oldest_seconds"):
            assert found[(name,)] == 0, name


async def test_a_journal_that_cannot_be_written_or_is_full_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_house(tmp_path, {}) as house:
        with monkeypatch.context() as patched:
            patched.setattr(Journal, "healthy", property(lambda _: False))
            assert await readiness(house) == (503, ["the usage journal cannot be written"])
            assert (await figures(house))[("weir_ready",)] == 0
        monkeypatch.setattr(Journal, "bytes", property(lambda _: house.settings.books.journal_bytes_max))
        assert await readiness(house) == (503, ["the usage journal is full"])


async def test_usage_that_waits_for_a_minute_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    async with open_house(tmp_path, {}, clock=clock) as house:
        monkeypatch.setattr(Recorder, "oldest_us", property(lambda _: START_US))
        assert await readiness(house) == (200, [])
        clock.advance(61)
        assert await readiness(house) == (503, ["usage waits for the database for more than 60 s"])
        assert (await figures(house))[("weir_usage_oldest_seconds",)] == 61


async def test_a_feed_that_ended_is_critical_and_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async def ends(_: ChangeFeed) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(ChangeFeed, "follow", ends)
    async with open_house(tmp_path, {}) as house:
        assert await readiness(house) == (503, ["the change feed has stopped"])
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]
    assert len(said) == 1 and said[0].startswith("the change feed has stopped")


async def test_a_gateway_that_is_stopping_is_not_ready(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}) as house:
        house.services.vitals.stop()
        assert await readiness(house) == (503, ["this process is stopping"])


async def test_a_ledger_that_does_not_balance_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.vitals.AUDIT_EVERY_S", 0.01)
    async with open_house(tmp_path, {}) as house:
        await house.chat(model="echo")
        await house.events()
        with house.services.database.engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO ledger_entry (tx_id, seq, account, amount_ncr) SELECT max(tx_id), 99, 'consumed', 7 FROM ledger_entry")
        async with asyncio.timeout(10):
            while (await figures(house)).get(("weir_ledger_imbalance_ncr",)) != 7:
                await asyncio.sleep(0.01)


async def test_a_rate_set_while_its_reading_fails_comes_into_force_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_house(tmp_path, {}, config="limits: {changes_poll_ms: 10}\n") as house:
        failed: list[bool] = []

        def fails(session: Any) -> Any:
            if len(failed) < 3:
                failed.append(True)
                raise BooksUnavailable("away")
            return all_rates(session)

        monkeypatch.setattr("gateway.services.all_rates", fails)
        await asyncio.to_thread(
            rates.set_rate, house.services.database, model="unpriced", prices={"input": 1, "output": 1}, now_us=house.services.clock.now_us()
        )
        async with asyncio.timeout(10):
            while (await house.chat(model="unpriced")).status_code != 200:
                await asyncio.sleep(0.01)
        assert len(failed) == 3
