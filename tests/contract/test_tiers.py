"""A rate's variants on the road: the tier that the model's rate prices reaches the upstream, and what it served is what is charged, within the hold."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from billing.operations import rates
from billing.operations.events import find_event
from billing.rating import Variant
from tests.house import House, open_house
from tests.real.upstream import STREAM_END, STREAM_HEAD, ScriptedUpstream, delta, event, json_answer, usage

VARIANTS = (
    Variant(service_tier="priority", prices={"input": 2000, "output": 4000}),
    Variant(lane="slow", prices={"input": 1, "output": 2}),
    Variant(input_over=30, prices={"input": 100, "output": 200}),
)


async def open_priced(house: House) -> None:
    def set_rate() -> None:
        now_us = house.services.clock.now_us()
        rates.set_rate(house.services.database, model="m", prices={"input": 1000, "output": 2000}, variants=VARIANTS, now_us=now_us)

    await asyncio.to_thread(set_rate)
    await house.services.tariff.load(house.services.reads.feed)


@pytest.fixture
async def house(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> AsyncIterator[House]:
    async with open_house(tmp_path, {"m": scripted_upstream.base_url}) as house:
        await open_priced(house)
        yield house


def answered(prompt: int, tier: str | None) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
    return json_answer({"object": "chat.completion", "choices": [choice], "usage": usage(prompt, 5)} | ({"service_tier": tier} if tier else {}))


@pytest.mark.parametrize(
    ("asked", "served", "sent", "tier", "ncr"),
    [
        ("priority", "priority", "priority", "priority", 10 * 2000 + 5 * 4000),
        ("priority", None, "priority", "priority", 10 * 2000 + 5 * 4000),
        ("priority", "default", "priority", None, 10 * 1000 + 5 * 2000),
        ("flex", "flex", None, None, 10 * 1000 + 5 * 2000),
        ("auto", "priority", None, None, 10 * 1000 + 5 * 2000),
        (None, "priority", None, None, 10 * 1000 + 5 * 2000),
    ],
)
async def test_the_tier_served_is_charged_where_it_was_asked_for_and_is_priced(
    house: House, scripted_upstream: ScriptedUpstream, asked: str | None, served: str | None, sent: str | None, tier: str | None, ncr: int
) -> None:
    scripted_upstream.play(answered(10, served))
    wish: dict[str, Any] = {"service_tier": asked} if asked else {}
    response = await house.chat(**wish)
    assert response.json()["usage"]["cost"] == ncr / 10**9
    assert scripted_upstream.requests[-1].json().get("service_tier") == sent
    [booked] = await house.events(1)
    assert (booked.charge_ncr, booked.service_tier, booked.lane) == (ncr, tier, "fast")
    found = await asyncio.to_thread(find_event, house.services.database, booked.id)
    assert found.prices["input"] == (2000 if tier else 1000)


@pytest.mark.parametrize("vendor", [{"provider": "vllm"}, {"vendor": "mistral"}], ids=["a server of our own", "a vendor that refuses the member"])
async def test_a_tier_that_was_not_bought_is_not_charged(tmp_path: Path, scripted_upstream: ScriptedUpstream, vendor: dict[str, Any]) -> None:
    backend = {**vendor, "urls": [scripted_upstream.base_url], "probe_every_s": 3600, "priority_scheduling": False}
    async with open_house(tmp_path, {"m": backend}) as house:
        await open_priced(house)
        scripted_upstream.play(answered(10, None))
        await house.chat(service_tier="priority")
        [booked] = await house.events(1)
        assert (booked.charge_ncr, booked.service_tier) == (10 * 1000 + 5 * 2000, None)
        assert all("service_tier" not in seen.json() for seen in scripted_upstream.requests if seen.path.endswith("/chat/completions"))


async def test_the_tier_in_a_streams_last_event_counts(house: House, scripted_upstream: ScriptedUpstream) -> None:
    last = event({"object": "chat.completion.chunk", "choices": [], "usage": usage(10, 5), "service_tier": "default"})
    scripted_upstream.play(STREAM_HEAD, event(delta("a")), last, STREAM_END)
    await house.chat(stream=True, service_tier="priority")
    [booked] = await house.events(1)
    assert (booked.charge_ncr, booked.service_tier) == (10 * 1000 + 5 * 2000, None)


async def test_a_request_over_a_cliff_is_charged_whole_at_the_other_price(house: House, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.play(answered(31, None))
    await house.chat()
    [booked] = await house.events(1)
    assert booked.charge_ncr == 31 * 100 + 5 * 200


async def test_the_slow_lane_has_its_own_price(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    async with open_house(tmp_path, {"m": scripted_upstream.base_url}, plan={"allowance_ncr": 1}) as house:
        await open_priced(house)
        scripted_upstream.play(answered(10, None))
        response = await house.chat()
        assert response.headers["x-weir-lane"] == "slow"
        [booked] = await house.events(1)
        assert (booked.charge_ncr, booked.lane) == (10 * 1 + 5 * 2, "slow")


async def test_the_models_list_says_other_prices_and_when(house: House) -> None:
    listed = (await house.client.get("/v1/models/m", headers={"authorization": f"Bearer {house.key}"})).json()["pricing"]
    assert [(one["service_tier"], one["lane"], one["input_over"], one["input"]) for one in listed["variants"]] == [
        ("priority", None, None, "2"),
        (None, "slow", None, "0.001"),
        (None, None, 30, "0.1"),
    ]
