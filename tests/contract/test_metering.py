"""What is charged when usage is said by halves, late, wrongly or not at all: never less than what was produced, never what was not."""

import asyncio
import json
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends.errors import BadAnswer
from backends.stream import StreamTap
from backends.tokens import TEMPLATE_TOKENS
from billing.operations import keys
from billing.usage.records import Dispatched
from gateway.lanes.queue import Ticket
from gateway.lanes.standing import Lane
from tests.house import TENANT, House, open_house
from tests.real.upstream import CLOSE, RESET, STALL, STREAM_END, STREAM_HEAD, ScriptedUpstream, Step, Wait, answer, delta, event, json_answer, usage

MESSAGES = [{"role": "user", "content": "x"}]


@pytest.fixture
async def house(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> AsyncIterator[House]:
    """Models: `m` (plain), `vllm` and `local` (their dialects), all answered by the scripted upstream."""
    upstreams: dict[str, Any] = {"m": scripted_upstream.base_url}
    for provider in ("vllm", "local"):
        upstreams[provider] = {"provider": provider, "urls": [scripted_upstream.base_url], "slots": 4, "probe_every_s": 3600, "priority_scheduling": False}
    async with open_house(tmp_path, upstreams) as house:
        yield house


def chat_answer(*messages: dict[str, Any], said: dict[str, Any] | None) -> bytes:
    choices = [{"index": index, "message": {"role": "assistant", **message}, "finish_reason": "stop"} for index, message in enumerate(messages)]
    return json_answer({"id": "x", "object": "chat.completion", "choices": choices, "usage": said})


def tokenized(count: int) -> bytes:
    """What llama.cpp's /tokenize answers."""
    return json_answer({"tokens": list(range(count))})


async def read_and_leave(house: House, model: str, upto: str, **members: Any) -> None:
    """Read a stream until a text has come, then hang up."""
    seen = ""
    body = {"model": model, "messages": MESSAGES, "stream": True, **members}
    async with house.client.stream("POST", "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {house.key}"}) as response:
        async for text in response.aiter_text():
            seen += text
            if upto in seen:
                return
    raise AssertionError(f"`{upto}` never came: {seen}")


def said_chunk(text: str, index: int, completion_tokens: int) -> bytes:
    """A chunk of vLLM's, with continuous usage: of this choice alone."""
    chunk = delta(text)
    chunk["choices"][0]["index"] = index
    return event({**chunk, "usage": usage(5, completion_tokens)})


async def test_a_cut_stream_of_several_choices_is_charged_for_all_of_them(house: House, scripted_upstream: ScriptedUpstream) -> None:
    words = [said_chunk(f" word{number}", index, number + 1) for number in range(20) for index in range(4)]
    scripted_upstream.play(STREAM_HEAD, *words, STALL)
    scripted_upstream.script = (tokenized(77),)
    await read_and_leave(house, "vllm", "word19", n=4, max_tokens=50)
    [booked] = await house.events(1)
    assert (booked.outcome, booked.source, booked.input, booked.output) == ("cut", "partial", 5, 77)


async def test_a_cut_stream_of_one_choice_is_charged_by_the_last_usage_said(house: House, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.play(STREAM_HEAD, said_chunk("a", 0, 1), said_chunk("b", 0, 2), said_chunk("last", 0, 3), STALL)
    await read_and_leave(house, "vllm", "last")
    [booked] = await house.events(1)
    assert (booked.outcome, booked.source, booked.input, booked.output) == ("cut", "partial", 5, 3)


async def test_known_buckets_survive_an_estimate(house: House, scripted_upstream: ScriptedUpstream) -> None:
    said = {"prompt_tokens": 1000, "completion_tokens": 3, "total_tokens": 1003, "prompt_tokens_details": {"cached_tokens": 990}}
    scripted_upstream.play(chat_answer({"content": "one two three"}, {"content": "four five"}, said=said))
    scripted_upstream.script = (tokenized(5),)
    response = await house.chat("local", n=2)
    details = response.json()["usage"]["cost_details"]
    assert (details["usage_source"], details["input_tokens"], details["output_tokens"]) == ("estimated", 1000, 5)
    [booked] = await house.events(1)
    assert (booked.source, booked.input, booked.cache_read, booked.output) == ("estimated", 10, 990, 5)


async def test_several_choices_are_never_charged_less_than_one_of_them(house: House, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.play(chat_answer({"content": "a"}, {"content": "b"}, said=usage(10, 9)))
    scripted_upstream.script = (tokenized(2),)
    await house.chat("local", n=2)
    assert [row.output for row in await house.events(1)] == [9]


async def test_tool_calls_and_reasoning_count_as_output(house: House, scripted_upstream: ScriptedUpstream) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look_up", "arguments": '{"city": "' + "Paris " * 40 + '"}'}}
    scripted_upstream.play(chat_answer({"content": None, "tool_calls": [call]}, said=None))
    scripted_upstream.play(chat_answer({"content": "", "reasoning_content": "Let me think about it. " * 20}, said=None))
    for _ in range(2):
        assert (await house.chat(max_tokens=500)).status_code == 200
    events = await house.events(2)
    assert all(row.source == "estimated" and row.output and row.output > 40 for row in events)


async def test_output_that_was_relayed_is_charged_whole_where_the_client_set_no_limit(house: House, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script = (STREAM_HEAD, *(event(delta(" word" * 1000)) for _ in range(6)), event(delta(" end")), CLOSE)
    response = await house.chat(stream=True, max_tokens=None)
    assert "backend_disconnected" in response.text
    [booked] = await house.events(1)
    assert booked.output is not None and booked.output >= 6000  # above the 4,096 that were held for


async def test_several_prompts_are_counted_where_the_server_says_one_of_them(house: House, scripted_upstream: ScriptedUpstream) -> None:
    choices = [{"index": index, "text": " ok", "finish_reason": "stop"} for index in range(3)]
    scripted_upstream.play(json_answer({"object": "text_completion", "choices": choices, "usage": usage(100, 1)}))
    scripted_upstream.play(tokenized(300))
    scripted_upstream.play(tokenized(3))
    await house.post("/v1/completions", {"model": "local", "prompt": ["word " * 100] * 3, "max_tokens": 2})
    [booked] = await house.events(1)
    assert (booked.source, booked.input, booked.output) == ("estimated", 300, 3)


async def test_dispatch_and_event_say_who_asked_for_what_and_when(house: House, scripted_upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are written by position: a swap of two texts would go unseen by types."""
    scripted_upstream.script = (chat_answer({"content": "hi"}, said=usage(7, 3)),)
    services, sent = house.services, list[Dispatched]()
    issued = keys.issue_key(services.database, services.hasher, tenant_id=TENANT, project="lab", now_us=services.clock.now_us())
    told = services.recorder.dispatched

    def tell(record: Dispatched) -> None:
        sent.append(record)
        told(record)

    monkeypatch.setattr(services.recorder, "dispatched", tell)
    before_us = services.clock.now_us()
    body = {"model": "m", "messages": MESSAGES, "max_tokens": 9}
    response = await house.client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {issued.secret}"})
    after_us = services.clock.now_us()
    [booked], [record] = await house.events(1), sent
    account, priced = services.accounts.get(TENANT), services.tariff.card.at("m", after_us)
    assert account is not None and priced is not None and response.status_code == 200
    for said in (booked, record):
        assert (said.id, said.tenant_id, said.key_id, said.project) == (response.headers["x-weir-event"], TENANT, issued.id, "lab")
        assert (said.model, said.backend, said.upstream_model, said.endpoint) == ("m", "m", "upstream-m", "chat/completions")
        assert (said.lane, said.stream, said.rate_id, said.service_tier) == ("fast", False, priced.rate.id, None)
        assert (said.day_us, said.period_us) == (account.day_at(after_us), account.period_us)
    assert before_us <= record.started_us == booked.started_us <= booked.ended_us <= after_us
    assert (record.covered, record.held) == (True, None)
    assert record.prompt_estimate == (TEMPLATE_TOKENS + len(json.dumps(MESSAGES, separators=(",", ":")))) // 4
    assert (booked.status, booked.outcome, booked.source, booked.attempts, booked.queue_ms, booked.ttft_us) == (200, "complete", "reported", 1, 0, None)
    assert (booked.input, booked.output, booked.requests) == (7, 3, 1)
    assert booked.charge_ncr == booked.cover_ncr == booked.covered_ncr > 0


async def test_token_ids_are_counted(house: House, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script = (json_answer({"object": "list", "data": [], "model": "x"}),)
    assert (await house.post("/v1/embeddings", {"model": "m", "input": [1] * 5000})).status_code == 200
    assert (await house.post("/v1/embeddings", {"model": "m", "input": [[1] * 100, [2] * 50]})).status_code == 200
    assert [(row.source, row.input) for row in await house.events(2)] == [("estimated", 5000), ("estimated", 150)]


async def test_a_batch_is_held_and_counted_for_every_prompt_in_it(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    async with open_house(tmp_path, {"m": scripted_upstream.base_url}, plan={"allowance_ncr": 10**9, "on_exhausted": "block"}) as house:
        house.services.planner.contexts["m"] = 512
        response = await house.post("/v1/embeddings", {"model": "m", "input": ["word " * 500] * 200})
        assert response.status_code == 429, "200 prompts were held like one"
        assert scripted_upstream.requests == []


async def test_usage_that_no_request_can_have_is_counted_instead(house: House, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script = (chat_answer({"content": "hi there"}, said=usage(5 * 10**8, 3)),)
    await house.chat()
    [booked] = await house.events(1)
    assert booked.source == "estimated" and booked.input and booked.charge_ncr > 0


async def test_a_stream_whose_first_event_is_an_error_costs_nothing_and_the_next_backend_is_tried(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    second = ScriptedUpstream()
    try:
        async with open_house(tmp_path, {"m": scripted_upstream.base_url, "n": second.base_url}) as house:
            broken: tuple[Step, ...] = (STREAM_HEAD, event({"error": {"message": "out of memory", "code": 500}}), STREAM_END)
            scripted_upstream.script = broken
            response = await house.chat("m", stream=True)
            assert response.status_code == 502
            second.script = (STREAM_HEAD, event(delta("fine")), event({**delta(""), "choices": [], "usage": usage(3, 1)}), event(b"[DONE]"), STREAM_END)
            response = await house.chat("f", stream=True)
            assert response.status_code == 200 and "fine" in response.text
            assert [(row.outcome, row.charge_ncr) for row in await house.events(2)] == [("failed", 0), ("complete", 6_000_000)]
    finally:
        second.close()


async def test_nothing_is_charged_while_no_backend_has_the_request(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    """The first backend failed, and the client leaves while the request waits for the second one's slot."""
    second = ScriptedUpstream(script=(STALL,))
    try:
        async with open_house(tmp_path, {"m": scripted_upstream.base_url, "n": {"urls": [second.base_url], "slots": 1}}) as house:
            scripted_upstream.script = (answer(b"busy", status=503),)
            holder = asyncio.create_task(read_and_leave(house, "n", "never"))
            gate = house.services.gates["n"].queue
            async with asyncio.timeout(5):
                while not gate.running:
                    await asyncio.sleep(0.005)
            await house.ask_and_leave(lambda: gate.waiting(Lane.FAST), "f")
            [booked] = await house.events(1)
            assert (booked.outcome, booked.source, booked.charge_ncr) == ("failed", "none", 0)
            holder.cancel()
    finally:
        second.close()


async def test_a_vendor_that_bills_the_whole_answer_is_read_to_its_end_and_the_slot_kept(tmp_path: Path) -> None:
    go_on = threading.Event()
    upstream = ScriptedUpstream()
    try:
        async with open_house(tmp_path, {"m": {"urls": [upstream.base_url], "slots": 2, "on_disconnect": "drain"}}) as house:
            last = [event(delta(" two")), event({**delta(""), "choices": [], "usage": usage(3, 2)}), event(b"[DONE]"), STREAM_END]
            upstream.play(STREAM_HEAD, event(delta("one")), Wait(go_on), *last)
            await read_and_leave(house, "m", "one")
            assert house.services.gates["m"].queue.running == 1, "the slot was given away while the upstream still worked"
            go_on.set()
            [booked] = await house.events(1)
            assert (booked.outcome, booked.source, booked.output) == ("complete", "reported", 2)
            assert house.services.gates["m"].queue.running == 0
            assert house.account.held_ncr == 0
            whole = threading.Event()
            upstream.play(Wait(whole), chat_answer({"content": "late"}, said=usage(4, 1)))
            await house.ask_and_leave(lambda: len(upstream.requests) == 2)
            whole.set()
            assert [(row.outcome, row.input, row.output) for row in await house.events(2)][1] == ("complete", 4, 1)
    finally:
        upstream.close()


async def test_a_cut_stream_costs_its_tenant_its_turn(house: House, scripted_upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    costs: list[int] = []
    gate = house.services.gates["m"]
    leave = gate.leave

    def watched(ticket: Ticket, cost: int) -> None:
        costs.append(cost)
        leave(ticket, cost)

    monkeypatch.setattr(gate, "leave", watched)
    scripted_upstream.script = (STREAM_HEAD, event(delta("one")), STALL)
    await read_and_leave(house, "m", "one")
    await house.events(1)
    assert len(costs) == 1 and costs[0] > 0


async def test_a_client_that_leaves_before_the_first_byte_costs_its_tenant_its_turn(
    house: House, scripted_upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs: list[int] = []
    gate = house.services.gates["m"]
    leave = gate.leave

    def watched(ticket: Ticket, cost: int) -> None:
        costs.append(cost)
        leave(ticket, cost)

    monkeypatch.setattr(gate, "leave", watched)
    scripted_upstream.script = (STALL,)
    await house.ask_and_leave(lambda: scripted_upstream.requests)
    await house.events(1)
    assert len(costs) == 1 and costs[0] > 0


async def test_a_drained_stream_that_breaks_is_charged_once_for_what_came(tmp_path: Path) -> None:
    """Nobody waits for it any more and its upstream fails: both endings meet, and one of them settles."""
    go_on = threading.Event()
    upstream = ScriptedUpstream()
    try:
        async with open_house(tmp_path, {"m": {"urls": [upstream.base_url], "on_disconnect": "drain"}}) as house:
            upstream.play(STREAM_HEAD, event(delta("one two three")), Wait(go_on), RESET)
            await read_and_leave(house, "m", "three")
            go_on.set()
            [booked] = await house.events(1)
            assert (booked.outcome, booked.source, booked.output) == ("cut", "partial", 3)
            assert (house.account.held_ncr, house.account.open_requests) == (0, 0)
            assert house.services.recorder.conflicts == 0
    finally:
        upstream.close()


async def test_a_drain_that_a_stop_cuts_off_is_charged_at_the_next_start(tmp_path: Path) -> None:
    upstream = ScriptedUpstream(script=(STREAM_HEAD, event(delta("one two three")), STALL))
    backend = {"urls": [upstream.base_url], "on_disconnect": "drain"}
    try:
        async with open_house(tmp_path, {"m": backend}) as house:
            await read_and_leave(house, "m", "three")
            folder, database_url = house.settings.data_dir, house.settings.database_url
        with sqlite3.connect(database_url.removeprefix("sqlite:///")) as books:
            booked = books.execute("select outcome, source, charge_ncr from usage_event").fetchall()
        books.close()
        left = list((folder / "journal").glob("*.wal"))
        assert [row[:2] for row in booked] == [("cut", "partial")] or (booked == [] and left), "its evidence is in the books or in the journal"
        assert all(row[2] > 0 for row in booked)
    finally:
        upstream.close()


async def test_a_stream_is_settled_once_though_its_end_cannot_be_written(
    house: House, scripted_upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: StreamTap, extra: bytes = b"") -> bytes:
        raise BadAnswer("its usage cannot be rebuilt")

    monkeypatch.setattr(StreamTap, "tail", broken)
    scripted_upstream.script = (STREAM_HEAD, event(delta("a")), event({**delta(""), "choices": [], "usage": usage(3, 1)}), event(b"[DONE]"), STREAM_END)
    response = await house.chat(stream=True)
    assert "backend_bad_answer" in response.text
    assert [(row.outcome, row.input, row.output) for row in await house.events(1)] == [("complete", 3, 1)]
    assert (house.account.held_ncr, house.account.open_requests) == (0, 0)


async def test_a_lost_server_is_not_asked_to_count(house: House, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.play(STREAM_HEAD, event(delta("one two")), RESET)
    scripted_upstream.script = (STALL,)
    response = await asyncio.wait_for(house.chat("local", stream=True), 3)
    assert "backend_disconnected" in response.text
    assert [seen.path for seen in scripted_upstream.requests] == ["/v1/chat/completions"]
    [booked] = await house.events(1)
    assert booked.output == 2


async def test_the_cost_in_an_answer_is_exact_json(house: House, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script = (chat_answer({"content": "hi"}, said=usage(7, 3)),)
    response = await house.chat()
    decoded = msgspec.json.decode(response.content)
    assert decoded["usage"]["cost"] == 0.016 and response.headers["x-weir-cost"] == "0.016"
    assert decoded["usage"]["cost_details"] == {"unit": "credits", "lane": "fast", "paid_from_credits": 0.016, "usage_source": "reported"}
