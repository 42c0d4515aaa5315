"""Lanes as an application meets them: it waits and is told so, is called back by a grant, spills over, is paced, and never cut off without an instant."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from backends.health import eject
from billing.money import NCR_PER_CREDIT
from billing.operations import grants
from gateway.lanes.standing import Lane
from tests.clock import ManualClock
from tests.house import TENANT, House, open_house
from tests.real.upstream import STREAM_HEAD, ScriptedUpstream, Wait, completion, event, json_answer, stream

CREDIT = NCR_PER_CREDIT
PATIENT = {"connect_s": 1.0, "first_byte_s": 20.0, "whole_s": 20.0, "idle_s": 20.0}
ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50, "stream": True}
QUICK_COMMENTS = "\nlanes: {comment_every_s: 1, slow: {wait_ms_max: 1600}}\n"


def one_slot(upstream: ScriptedUpstream, **more: Any) -> dict[str, Any]:
    return {"urls": [upstream.base_url], "slots": 1, "timeouts": PATIENT, **more}


async def until(house: House, lane: Lane, waiting: int, backend: str = "m") -> None:
    async with asyncio.timeout(5):
        while house.services.gates[backend].queue.waiting(lane) != waiting:
            await asyncio.sleep(0.005)


async def topped_up(house: House, amount_ncr: int = CREDIT) -> None:
    now_us = house.services.clock.now_us()
    await asyncio.to_thread(grants.add_grant, house.services.database, tenant_id=TENANT, kind="topup", amount_ncr=amount_ncr, now_us=now_us)


async def holding(house: House, upstream: ScriptedUpstream, model: str = "m") -> tuple[threading.Event, "asyncio.Task[httpx.Response]"]:
    """Take the only slot; it is free when the event is set."""
    gate = threading.Event()
    upstream.play(Wait(gate), completion("first"))
    seen = len(upstream.requests)
    task = asyncio.create_task(house.chat(model))
    async with asyncio.timeout(5):
        while len(upstream.requests) == seen:
            await asyncio.sleep(0.005)
    return gate, task


async def test_a_stream_that_waits_is_told_so_and_then_served_whole(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    async with open_house(tmp_path, {"m": one_slot(scripted_upstream)}, config="\nlanes: {comment_every_s: 1}\n") as house:
        gate, first = await holding(house, scripted_upstream)
        scripted_upstream.play(*stream("one ", "two"))
        body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 10, "stream": True, "stream_options": {"include_usage": True}}
        async with house.client.stream("POST", "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {house.key}"}) as answer:
            parts = answer.aiter_raw()
            told = await anext(parts)
            gate.set()
            rest = b"".join([part async for part in parts])
        assert (await first).status_code == 200
        await house.events(2)
    assert answer.status_code == 200
    assert (answer.headers["x-weir-lane"], answer.headers["x-weir-standing"]) == ("fast", "fast")
    assert told.startswith(b": waiting for a slot in the fast lane, 1 s so far\n\n")
    assert rest.startswith(b": x-weir-queue-ms: 1") and b"x-weir-backend: m, x-weir-lane: fast\n\n" in rest
    assert b'"content": "one "' in rest and b'"cost":' in rest and rest.endswith(b"data: [DONE]\n\n")


async def test_the_sdk_reads_a_stream_that_waited(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    async with open_house(tmp_path, {"m": one_slot(scripted_upstream)}, config="\nlanes: {comment_every_s: 1}\n") as house:
        gate, first = await holding(house, scripted_upstream)
        scripted_upstream.play(*stream("one ", "two"))
        asyncio.get_running_loop().call_later(1.3, gate.set)
        async with openai.AsyncOpenAI(base_url=f"{house.base_url}/v1", api_key=house.key) as client:
            answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], max_tokens=10, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in answer if chunk.choices])
        await first
    assert text == "one two"


async def test_a_stream_that_waited_in_vain_ends_with_the_refusal(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    async with open_house(tmp_path, {"m": one_slot(scripted_upstream)}, plan={"allowance_ncr": 0}, config=QUICK_COMMENTS) as house:
        gate, first = await holding(house, scripted_upstream)
        async with openai.AsyncOpenAI(base_url=f"{house.base_url}/v1", api_key=house.key, max_retries=0) as client:
            answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], max_tokens=10, stream=True)
            with pytest.raises(openai.APIError, match=r"did not come to this request within 1.6 s. Try again in \d+ s") as refused:
                async for _ in answer:
                    pass
        assert refused.value.code == "slow_down"
        gate.set()
        assert (await first).status_code == 200
        assert house.services.gates["m"].queue.running == 0
        assert len(await house.events(1)) == 1, "what was never sent upstream is no event"


async def test_a_stream_that_waited_gets_the_upstreams_refusal_as_its_last_event(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    async with open_house(tmp_path, {"m": one_slot(scripted_upstream)}, config="\nlanes: {comment_every_s: 1}\n") as house:
        gate, first = await holding(house, scripted_upstream)
        scripted_upstream.play(json_answer({"error": {"message": "no", "type": "invalid_request_error", "param": "stop", "code": "odd"}}, status=400))
        asyncio.get_running_loop().call_later(1.3, gate.set)
        answer = await house.chat(stream=True)
        await first
        assert answer.status_code == 200
        assert b'"code":"odd"' in answer.content and b'"param":"stop"' in answer.content


async def test_a_server_that_does_not_stream_answers_a_stream_that_waited(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    async with open_house(tmp_path, {"m": one_slot(scripted_upstream)}, config="\nlanes: {comment_every_s: 1}\n") as house:
        gate, first = await holding(house, scripted_upstream)
        scripted_upstream.play(completion("whole"))
        asyncio.get_running_loop().call_later(1.3, gate.set)
        answer = await house.chat(stream=True)
        await first
        *_, whole, done, _ = answer.content.split(b"\n\n")
        assert whole.startswith(b"data: {") and b'"content": "whole"' in whole and b'"cost":' in whole
        assert done == b"data: [DONE]"
        assert len(await house.events(2)) == 2


async def test_a_client_that_leaves_while_it_waits_leaves_nothing_behind(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    async with open_house(tmp_path, {"m": one_slot(scripted_upstream)}) as house:
        gate, first = await holding(house, scripted_upstream)
        task = asyncio.create_task(house.chat(stream=True))
        await until(house, Lane.FAST, 1)
        task.cancel()
        await until(house, Lane.FAST, 0)
        gate.set()
        assert (await first).status_code == 200
        assert len(await house.events(1)) == 1
        assert house.account.held_ncr == 0 and not house.account.open_requests


@pytest.mark.parametrize("wants_stream", [False, True])
async def test_a_grant_brings_what_waits_in_the_slow_lane_into_the_fast_one(tmp_path: Path, scripted_upstream: ScriptedUpstream, wants_stream: bool) -> None:
    async with open_house(tmp_path, {"m": one_slot(scripted_upstream)}, plan={"allowance_ncr": 0}) as house:
        gate, first = await holding(house, scripted_upstream)
        scripted_upstream.play(*(stream("a") if wants_stream else [completion("a")]))
        waits = asyncio.create_task(house.chat(stream=wants_stream))
        await until(house, Lane.SLOW, 1)
        await topped_up(house)
        await until(house, Lane.FAST, 1)
        assert house.services.gates["m"].queue.waiting(Lane.SLOW) == 0
        gate.set()
        assert (await first).headers["x-weir-lane"] == "slow"
        answer = await waits
        booked = await house.events(2)
    assert (answer.headers["x-weir-lane"], answer.headers["x-weir-lane-reason"]) == ("fast", "credits")
    assert sorted(one.lane for one in booked) == ["fast", "slow"]
    assert all(one.cover_ncr == one.charge_ncr > 0 for one in booked), "the one that ended in the slow lane found free credits too"


async def test_a_paced_plan_holds_slow_requests_back(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    async with open_house(tmp_path, {"m": one_slot(scripted_upstream)}, plan={"allowance_ncr": 0, "slow_delay_ms": 400}) as house:
        scripted_upstream.play(completion("a"))
        slow = await house.chat()
    assert int(slow.headers["openai-processing-ms"]) >= 400, "the delay counts from the request's arrival"


async def test_a_paced_plan_holds_no_fast_ones_back_and_a_grant_ends_the_holding(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    async with open_house(tmp_path, {"m": one_slot(scripted_upstream)}, plan={"allowance_ncr": 0, "slow_delay_ms": 60_000}) as house:
        scripted_upstream.play(completion("a"))
        waits = asyncio.create_task(house.chat())
        async with asyncio.timeout(10):
            while not house.services.gates["m"].paced:
                await asyncio.sleep(0.005)
        await topped_up(house)
        house.services.accounts.refresh(TENANT)
        async with asyncio.timeout(20):  # a third of the delay
            assert (await waits).headers["x-weir-lane"] == "fast"
            scripted_upstream.play(completion("a"))
            assert (await house.chat()).headers["x-weir-lane"] == "fast"


async def test_a_slow_streams_text_comes_at_the_plans_pace_and_its_slot_is_free_before(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    plan = {"allowance_ncr": 0, "slow_tokens_per_second": 4}
    async with open_house(tmp_path, {"m": one_slot(scripted_upstream)}, plan=plan) as house:
        scripted_upstream.play(*stream(*"abcdefghijkl"))
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with house.client.stream("POST", "/v1/chat/completions", json=ASKED, headers={"authorization": f"Bearer {house.key}"}) as answer:
            parts = answer.aiter_raw()
            text = await anext(parts)
            async with asyncio.timeout(2):  # of the three seconds that its text takes
                while house.services.gates["m"].queue.running:
                    await asyncio.sleep(0.005)
            text += b"".join([part async for part in parts])
        whole_s = loop.time() - began
        (booked,) = await house.events(1)
    assert booked.outcome == "complete"
    assert whole_s > 11 / 4, "the first comes at once, each of the others a quarter of a second after the one before"
    assert text.count(b'"content": "') == 12 and text.endswith(b"data: [DONE]\n\n")


async def test_a_tool_calls_json_is_never_held_up(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    def call(text: str) -> dict[str, Any]:
        delta = {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
        return {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}

    plan = {"allowance_ncr": 0, "slow_tokens_per_second": 1}
    async with open_house(tmp_path, {"m": one_slot(scripted_upstream)}, plan=plan) as house:
        scripted_upstream.play(STREAM_HEAD, *(event(call(text)) for text in "abcdefgh"), *stream()[2:])
        async with asyncio.timeout(5):  # at the plan's pace it were seven seconds
            answer = await house.chat(stream=True)
        assert answer.content.count(b"tool_calls") == 8


async def test_who_leaves_a_paced_stream_is_charged_for_what_the_engine_made(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    plan = {"allowance_ncr": 0, "slow_tokens_per_second": 1}
    async with open_house(tmp_path, {"m": one_slot(scripted_upstream)}, plan=plan) as house:
        scripted_upstream.play(*stream("a", "b", "c", prompt_tokens=7))
        task = asyncio.create_task(house.chat(stream=True))
        (booked,) = await house.events(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        (again,) = await house.events(1)
    assert (booked.outcome, booked.charge_ncr) == (again.outcome, again.charge_ncr) == ("complete", 7 * 1_000_000 + 3 * 3_000_000)


async def test_an_answer_that_a_vendor_bills_anyway_is_drained_when_its_client_leaves_a_paced_stream(
    tmp_path: Path, scripted_upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.flow.pace.BYTES_MAX", 500)  # so that the upstream has to wait for the pace
    plan = {"allowance_ncr": 0, "slow_tokens_per_second": 1}
    async with open_house(tmp_path, {"m": one_slot(scripted_upstream, on_disconnect="drain")}, plan=plan) as house:
        scripted_upstream.play(*stream(*(["word "] * 50)))
        async with house.client.stream("POST", "/v1/chat/completions", json=ASKED, headers={"authorization": f"Bearer {house.key}"}) as answer:
            await anext(answer.aiter_raw())
        (booked,) = await house.events(1)
        assert (booked.outcome, booked.charge_ncr) == ("complete", 7 * 1_000_000 + 50 * 3_000_000)
        assert house.services.gates["m"].queue.running == 0


@pytest.fixture
def second_upstream() -> Iterator[ScriptedUpstream]:
    upstream = ScriptedUpstream()
    yield upstream
    upstream.close()


@pytest.mark.parametrize(
    ("plan", "served_by"),
    [
        ({"spill_after_ms": 0}, "dear"),
        ({"spill_after_ms": 100}, "dear"),
        ({}, "own"),
        ({"spill_after_ms": 0, "allowance_ncr": 0}, "own"),
    ],
    ids=["pays at once", "pays after a wait", "does not pay", "pays, and has no credits"],
)
async def test_a_fast_request_spills_over_where_its_plan_pays_and_a_slow_one_never(
    tmp_path: Path, scripted_upstream: ScriptedUpstream, second_upstream: ScriptedUpstream, plan: dict[str, Any], served_by: str
) -> None:
    upstreams = {"own": one_slot(scripted_upstream), "dear": one_slot(second_upstream)}
    async with open_house(tmp_path, upstreams, plan=plan) as house:
        gate, first = await holding(house, scripted_upstream, "f")
        (second_upstream if served_by == "dear" else scripted_upstream).play(completion("second"))
        second = asyncio.create_task(house.chat("f"))
        if served_by == "own":
            await until(house, Lane.SLOW if plan else Lane.FAST, 1, "own")
            gate.set()
        answer = await second
        assert (answer.status_code, answer.headers["x-weir-backend"]) == (200, served_by)
        gate.set()
        await first
        assert all(gate.queue.running == 0 for gate in house.services.gates.values())
        assert len(await house.events(2)) == 2


@pytest.mark.parametrize(("allowance", "lane"), [(1000 * CREDIT, Lane.FAST), (0, Lane.SLOW)], ids=["fast", "slow"])
async def test_who_waits_at_a_backend_that_goes_out_goes_to_one_that_is_up(
    tmp_path: Path, scripted_upstream: ScriptedUpstream, second_upstream: ScriptedUpstream, allowance: int, lane: Lane
) -> None:
    upstreams = {"own": one_slot(scripted_upstream), "dear": one_slot(second_upstream)}
    async with open_house(tmp_path, upstreams, plan={"allowance_ncr": allowance}) as house:
        gate, first = await holding(house, scripted_upstream, "f")
        second_upstream.play(completion("second"))
        second = asyncio.create_task(house.chat("f"))
        await until(house, lane, 1, "own")
        (server,) = house.services.pools["own"].replicas
        eject(server, house.services.clock.monotonic_s())  # its probes failed
        answer = await second
        assert (answer.status_code, answer.headers["x-weir-backend"], answer.headers["x-weir-lane"]) == (200, "dear", lane.value)
        gate.set()
        await first
        assert all((gate.queue.running, gate.queue.waiting(lane)) == (0, 0) for gate in house.services.gates.values())
        assert len(await house.events(2)) == 2


async def test_who_waits_where_no_other_backend_is_up_stays(tmp_path: Path, scripted_upstream: ScriptedUpstream, second_upstream: ScriptedUpstream) -> None:
    upstreams = {"own": one_slot(scripted_upstream), "dear": one_slot(second_upstream)}
    async with open_house(tmp_path, upstreams) as house:
        gate, first = await holding(house, scripted_upstream, "f")
        second = asyncio.create_task(house.chat("f"))
        await until(house, Lane.FAST, 1, "own")
        for pool in house.services.pools.values():
            eject(pool.replicas[0], house.services.clock.monotonic_s())
        house.services.gates["own"].stir()
        await asyncio.sleep(0)
        await until(house, Lane.FAST, 1, "own")
        scripted_upstream.play(completion("second"))
        gate.set()
        assert [(await task).status_code for task in (first, second)] == [200, 200]


NO_FLEX = [
    (429, {"message": "Resource unavailable", "type": "resource_unavailable", "code": "resource_unavailable", "param": None}),
    (498, {"message": "Flex tier capacity exceeded", "type": "capacity_exceeded", "code": "capacity_exceeded"}),
    (400, {"message": "Flex is not available for this model.", "type": "invalid_request_error", "code": None, "param": None}),
    (400, {"message": "Invalid service_tier argument", "type": "invalid_request_error", "code": None, "param": "service_tier"}),
]


@pytest.mark.parametrize(("status", "refusal"), NO_FLEX, ids=["no room", "no room at Groq", "not sold for this model", "not sold to this project"])
async def test_a_slow_request_buys_the_vendors_cheap_tier_and_goes_without_where_that_is_refused(
    tmp_path: Path, scripted_upstream: ScriptedUpstream, status: int, refusal: dict[str, Any]
) -> None:
    backend = one_slot(scripted_upstream, vendor="openai", api_key="k")
    async with open_house(tmp_path, {"m": backend}, plan={"allowance_ncr": 0}) as house:
        scripted_upstream.play(completion("a"))
        assert (await house.chat()).status_code == 200
        assert scripted_upstream.requests[-1].json()["service_tier"] == "flex"
        scripted_upstream.play(json_answer({"error": refusal}, status=status))
        scripted_upstream.play(completion("b"))
        answer = await house.chat()
        booked = await house.events(2)
    assert (answer.status_code, answer.headers["x-weir-attempts"]) == (200, "2")
    assert "service_tier" not in scripted_upstream.requests[-1].json()
    assert [one.service_tier for one in booked] == ["flex", None]


@pytest.mark.parametrize("plan", [{}, {"allowance_ncr": 0, "slow_flex": False}], ids=["fast", "a plan that does not want it"])
async def test_the_cheap_tier_is_bought_for_no_other_request(tmp_path: Path, scripted_upstream: ScriptedUpstream, plan: dict[str, Any]) -> None:
    async with open_house(tmp_path, {"m": one_slot(scripted_upstream, vendor="openai", api_key="k")}, plan=plan) as house:
        scripted_upstream.play(completion("a"))
        assert (await house.chat()).status_code == 200
        (booked,) = await house.events(1)
    assert "service_tier" not in scripted_upstream.requests[-1].json() and booked.service_tier is None


@pytest.mark.parametrize(("allowance", "sent"), [(1000 * CREDIT, None), (0, 77)], ids=["fast", "slow"])
async def test_the_engine_is_told_the_plans_priority_for_slow_requests_alone(
    tmp_path: Path, scripted_upstream: ScriptedUpstream, allowance: int, sent: int | None
) -> None:
    backend = one_slot(scripted_upstream, provider="vllm", priority_scheduling=True, probe_every_s=3600)
    async with open_house(tmp_path, {"m": backend}, plan={"allowance_ncr": allowance, "slow_priority": 77}) as house:
        scripted_upstream.play(completion("a"))
        assert (await house.chat()).status_code == 200
    asked = [seen.json() for seen in scripted_upstream.requests if seen.path.endswith("/chat/completions")]
    assert asked[-1].get("priority") == sent


async def test_429_with_the_tenants_midnight_when_the_slow_lanes_day_is_spent(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    clock = ManualClock()
    plan = {"allowance_ncr": 0, "slow_daily_cap_ncr": 1}
    async with open_house(tmp_path, {"m": one_slot(scripted_upstream)}, plan=plan, clock=clock) as house:
        scripted_upstream.play(completion("a"))
        assert (await house.chat()).status_code == 200
        refused = await house.chat()
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "credit_balance_exhausted")
        assert "wait for the reset at 2026-11-04T00:00:00" in refused.json()["error"]["message"]
        assert (refused.headers["x-weir-standing"], refused.headers["x-weir-lane-reason"]) == ("capped", "slow_daily_cap")
        assert refused.headers["x-should-retry"] == "false"
        await house.events(1)
        clock.advance(13 * 3600)
        scripted_upstream.play(completion("a"))
        again = await house.chat()
        assert (again.status_code, again.headers["x-weir-lane"]) == (200, "slow")


async def test_a_tenants_whole_way_from_fast_to_capped_and_back_with_a_grant(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    """Every standing in its order, each at the very request at which the balance reaches it; a grant ends it at the next one."""
    plan = {"allowance_ncr": 20 * CREDIT, "slow_daily_cap_ncr": CREDIT}
    scripted_upstream.script = (completion("a", prompt_tokens=300, completion_tokens=10),)
    async with open_house(tmp_path, {"m": one_slot(scripted_upstream)}, plan=plan) as house:
        way: list[tuple[str, str, str]] = []
        while (answer := await house.chat(max_tokens=1)).status_code == 200:
            way.append((answer.headers["x-weir-standing"], answer.headers["x-weir-lane"], answer.headers["x-weir-lane-reason"]))
            assert len(way) < 100
        assert (answer.status_code, answer.headers["x-weir-standing"]) == (429, "capped")
        changes = [here for here, before in zip(way, [None, *way], strict=False) if here != before]
        assert changes == [
            ("fast", "fast", "credits"),
            ("warn", "fast", "credits"),
            ("glide", "fast", "credits"),
            ("slow", "slow", "credits_too_few"),
            ("slow", "slow", "credits_exhausted"),
        ]
        seen = (await house.client.get("/v1/credits", headers={"authorization": f"Bearer {house.key}"})).json()
        assert (seen["standing"], seen["lane"], seen["lane_reason"]) == ("capped", None, "slow_daily_cap")
        await topped_up(house, 20 * CREDIT)
        house.services.changes.wake()
        async with asyncio.timeout(5):
            while (back := await house.chat(max_tokens=1)).status_code != 200:
                await asyncio.sleep(0.01)
        assert (back.headers["x-weir-standing"], back.headers["x-weir-lane"]) == ("fast", "fast")
