"""A plan's terms as an application meets them: months that begin at first use, a key's own credits, a change of plan under a running gateway."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from billing.operations import plans, subscriptions
from billing.plans.terms import PlanTerms
from tests.house import TENANT, House, open_house

CREDIT = 10**9


async def credits(house: House) -> dict[str, Any]:
    answer = await house.client.get("/v1/credits", headers={"authorization": f"Bearer {house.key}"})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


@pytest.mark.parametrize("looked", [False, True])
async def test_a_month_begins_with_the_first_request_and_pays_for_it(tmp_path: Path, looked: bool) -> None:
    async with open_house(tmp_path, {}, plan={"activate_on_first_use": True, "on_exhausted": "block"}) as house:
        if looked:
            for _ in range(2):
                seen = await credits(house)
                assert (seen["limit"], seen["standing"], seen["reset_at"]) == ("1000", "fast", None)
        first = await house.chat("echo")
        assert (first.status_code, first.headers["x-weir-lane"]) == (200, "fast")
        (event,) = await house.events()
        assert event.charge_ncr == event.covered_ncr > 0, "the month covers the request that began it"
        seen = await credits(house)
        assert (seen["debt"], seen["reset_at"] is not None) == ("0", True)


async def test_a_keys_own_credits_are_used_before_the_tenants(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}, plan={"seat_allowance_ncr": 5 * CREDIT}) as house:
        assert (await house.chat("echo")).status_code == 200
        (event,) = await house.events()
        assert event.purses is not None and [name.partition(":")[0] for name in event.purses] == ["key"]
        seen = await credits(house)
        assert seen["limit"] == "1005"


async def test_more_credits_of_a_larger_plan_are_there_at_once(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}, plan={"allowance_ncr": 1, "on_exhausted": "block"}) as house:
        assert (await house.chat("echo")).status_code == 429

        def move() -> None:
            now_us = house.services.clock.now_us()
            plans.set_plan(house.services.database, PlanTerms(plan="large", allowance_ncr=1000 * CREDIT, on_exhausted="block"), now_us)
            subscriptions.change_plan(house.services.database, TENANT, "large", now_us)

        await asyncio.to_thread(move)
        async with asyncio.timeout(5):
            while (answer := await house.chat("echo")).status_code != 200:
                await asyncio.sleep(0.02)
        assert answer.headers["x-weir-lane"] == "fast"
