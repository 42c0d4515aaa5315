"""What a client sends reaches the model server as it was sent, but for the model's name and what metering needs."""

import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backends.openai.body import write_body
from gateway.wire.openai import read_call
from tests.house import House, open_house
from tests.real.upstream import ScriptedUpstream, stream

EVERYTHING: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief.", "name": None},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this? \u6c34 \U0001f30a"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "number"}}}}}],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}, "strict": True}},
    "logprobs": True,
    "top_logprobs": 3,
    "n": 2,
    "temperature": 0.1,
    "top_p": 1e-5,
    "seed": 9007199254740993,
    "stop": ["a", "\n"],
    "logit_bias": {"50256": -100},
    "user": None,
    "max_tokens": 12,
    "metadata": {},
    "x_unknown_member": {"deep": [1, None, {"a": []}]},
    "chat_template_kwargs": {"enable_thinking": False},
}


@pytest.fixture
async def house(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> AsyncIterator[House]:
    async with open_house(tmp_path, {"m": scripted_upstream.base_url}) as house:
        yield house


async def test_members_reach_the_server_untouched_nulls_and_unknown_ones_too(house: House, scripted_upstream: ScriptedUpstream) -> None:
    assert (await house.post("/v1/chat/completions", {"model": "m", **EVERYTHING})).status_code == 200
    assert scripted_upstream.requests[0].json() == {"model": "upstream-m", **EVERYTHING}
    assert b"9007199254740993" in scripted_upstream.requests[0].body, "a number kept its digits"


async def test_a_streams_own_options_are_kept_beside_the_usage_that_metering_needs(house: House, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script = stream("a")
    body = {"model": "m", **EVERYTHING, "stream": True, "stream_options": {"include_obfuscation": False}}
    assert (await house.post("/v1/chat/completions", body)).status_code == 200
    sent = scripted_upstream.requests[0].json()
    assert sent.pop("stream_options") == {"include_obfuscation": False, "include_usage": True}
    assert sent == {"model": "upstream-m", **EVERYTHING, "stream": True}


async def test_a_member_sent_twice_counts_once_for_us_and_for_the_server(house: House, scripted_upstream: ScriptedUpstream) -> None:
    body = b'{"model":"other","max_tokens":1,"messages":[{"role":"user","content":"x"}],"model":"m","max_tokens":5}'
    assert (await house.post("/v1/chat/completions", body)).status_code == 200
    assert scripted_upstream.requests[0].json() == {"model": "upstream-m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}


async def test_a_clients_credentials_and_cookies_never_reach_the_server(house: House, scripted_upstream: ScriptedUpstream) -> None:
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    await house.chat(headers={"cookie": "session=1", "x-forwarded-for": "10.1.1.1", "openai-organization": "org", "traceparent": traceparent})
    headers = scripted_upstream.requests[0].headers
    assert headers.keys() & {"authorization", "cookie", "x-forwarded-for", "openai-organization"} == set()
    assert headers["traceparent"] == traceparent


def test_a_20_mb_body_is_not_copied_on_its_way_through() -> None:
    image = b'{"type":"image_url","image_url":{"url":"data:image/png;base64,%b"}}' % (b"A" * (20 * 2**20 - 200))
    body = b'{"model":"m","messages":[{"role":"user","content":[%b]}]}' % image
    tracemalloc.start()
    try:
        call, _ = read_call(body, "chat/completions", "id")
        parts = write_body((name, raw) for name, raw in call.members.items())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(len(memoryview(part).cast("B")) for part in parts) == len(body)
    assert peak < 2**20, f"{peak} bytes were allocated between the socket that brought the body and the one that takes it"
