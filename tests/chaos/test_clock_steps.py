"""The wall clock stepped back and forth under load: nothing is lost, nothing counts twice, no event ends before it began."""

import asyncio
from pathlib import Path

import pytest

from tests.chaos.crowd import crowd
from tests.chaos.mortal import Offset
from tests.chaos.scene import open_scene
from tests.real.witness import Witness

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(300)]

CLIENTS = 8
MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US


async def test_an_hour_back_and_forth_under_load_changes_no_charge(tmp_path: Path, upstream: Witness, seed: int) -> None:
    with open_scene(tmp_path, upstream) as scene:
        gateway = scene.gateway(env={"MORTAL_CLOCK": str(tmp_path / "offset"), "MORTAL_SEGMENT_BYTES": "30000"}, start=False)
        offset = Offset(tmp_path / "offset")
        key = gateway.prepare()
        gateway.start()
        async with crowd([gateway.port], [key], clients=CLIENTS, seed=seed) as people:
            for step in (-HOUR_US, -HOUR_US // 2, 0, HOUR_US, 0):
                await people.until(40)
                offset.us = step
            await people.until(40)
        assert people.count(200) == len(people.answers)
        scene.stop()
        scene.check(people.seen)
        assert scene.rows("SELECT count(*) FROM usage_event WHERE ended_us < started_us")[0][0] == 0


async def test_stepped_back_and_killed_the_journal_is_read_in_the_order_it_was_written(tmp_path: Path, upstream: Witness, seed: int) -> None:
    """Segments carry an instant in their name: stepped back, a later one sorts before an earlier one."""
    with open_scene(tmp_path, upstream) as scene:
        gateway = scene.gateway(env={"MORTAL_CLOCK": str(tmp_path / "offset"), "MORTAL_SEGMENT_BYTES": "5000"}, start=False)
        offset = Offset(tmp_path / "offset")
        key = gateway.prepare()
        gateway.start(point="before_flush_commit:8")
        async with crowd([gateway.port], [key], clients=CLIENTS, seed=seed, words="out=5 token_ms=3") as people:
            while gateway.child is not None and gateway.child.process.poll() is None:
                offset.us -= MINUTE_US
                await asyncio.sleep(0.02)
            await asyncio.to_thread(gateway.start)
            await people.until(3 * CLIENTS)
        scene.stop()
        scene.check(people.seen, recovered_max=CLIENTS)
