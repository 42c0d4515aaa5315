"""Admins, exports and webhooks that use up the pool of connections keep nobody's usage from the books, and no process from its leases."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.house import open_house


@pytest.mark.postgres
async def test_while_every_other_connection_is_taken_usage_is_booked_and_the_process_beats(tmp_path: Path, postgres_url: str) -> None:
    async with open_house(tmp_path, {}, database_url=postgres_url) as house:
        services = house.services
        assert (await house.chat(model="echo")).status_code == 200  # who asks is known from here on
        await house.events()
        with ExitStack() as taken:
            for _ in range(services.database.pool_max):
                taken.enter_context(services.database.read()).connection()
            async with asyncio.timeout(4):  # less than anybody waits for a connection
                await services.beat.beat()
                assert (await house.chat(model="echo")).status_code == 200
                while services.recorder.booked < 2:
                    await asyncio.sleep(0.01)
        assert services.recorder.failures == 0


async def test_both_pools_together_are_what_the_setting_allows(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}) as house:
        assert house.services.database.pool_max + house.services.books.pool_max == house.settings.database.pool_max
