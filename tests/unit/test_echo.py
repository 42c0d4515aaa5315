"""The echo answers as a server of OpenAI's dialect would, the same every time, with counts that are exact."""

import base64
import json
import struct
from typing import Any

import pytest

from backends.config import BackendConfig
from backends.echo.words import tokens, vector
from backends.errors import Disconnected, TimedOut
from backends.opened import Opened
from backends.pool import Pool
from tests.transport import ScriptedTransport, call_of


async def opened(body: dict[str, Any], *, endpoint: str = "chat/completions", **config: Any) -> Opened:
    pool = Pool("echo", BackendConfig.model_validate({"provider": "echo", **config}), ScriptedTransport())
    raw = json.dumps({"model": "public", **body}).encode()
    return await pool.open(call_of(raw, endpoint=endpoint, stream=bool(body.get("stream"))), "echo-1")


async def whole(body: dict[str, Any], *, endpoint: str = "chat/completions") -> tuple[int, Any]:
    answer = await opened(body, endpoint=endpoint)
    raw = await answer.read()
    assert await answer.read() == b""
    return answer.status, json.loads(raw)


async def streamed(body: dict[str, Any], *, endpoint: str = "chat/completions") -> list[Any]:
    answer = await opened({"stream": True, **body}, endpoint=endpoint)
    events = []
    while event := await answer.read():
        assert event.startswith(b"data: ")
        assert event.endswith(b"\n\n")
        events.append(event[6:-2])
    assert events.pop() == b"[DONE]"
    return [json.loads(event) for event in events]


def said(*texts: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text} for text in texts]}


async def test_it_says_that_it_is_an_echo_of_the_last_thing_the_user_said() -> None:
    status, answer = await whole({"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello big world"}]})
    assert status == 200
    assert answer["choices"][0]["message"]["content"] == "This is an echo of what was sent: hello big world"
    assert (answer["system_fingerprint"], answer["model"], answer["id"]) == ("weir-echo", "echo-1", "chatcmpl-r-1")
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 11, "total_tokens": 16}


async def test_a_stream_holds_one_token_an_event_and_joins_to_the_same_text_and_usage() -> None:
    _, answer = await whole(said("hello big world"))
    chunks = await streamed(said("hello big world"))
    contents = [choice["delta"]["content"] for chunk in chunks for choice in chunk["choices"] if "content" in choice["delta"]]
    assert "".join(contents) == answer["choices"][0]["message"]["content"]
    assert len(contents) == answer["usage"]["completion_tokens"]
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], answer["usage"])


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_the_length_is_obeyed(name: str) -> None:
    _, answer = await whole({**said("a b c"), name: 4})
    assert answer["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": "This is an echo", "refusal": None},
        "logprobs": None,
        "finish_reason": "length",
    }
    assert answer["usage"]["completion_tokens"] == 4


async def test_every_choice_is_counted() -> None:
    _, answer = await whole({**said("a"), "n": 3, "max_tokens": 2})
    assert ([choice["index"] for choice in answer["choices"]], answer["usage"]["completion_tokens"]) == ([0, 1, 2], 6)
    chunks = await streamed({**said("a"), "n": 3, "max_tokens": 2})
    assert chunks[-1]["usage"]["completion_tokens"] == 6


async def test_it_stops_where_it_is_told_to() -> None:
    _, answer = await whole({**said("one two three"), "stop": ["three", " two"]})
    assert answer["choices"][0]["message"]["content"] == "This is an echo of what was sent: one"


async def test_old_completions_are_echoed_prompt_by_prompt() -> None:
    _, answer = await whole({"prompt": ["a b", "c"]}, endpoint="completions")
    assert [choice["text"] for choice in answer["choices"]] == ["This is an echo of what was sent: a b", "This is an echo of what was sent: c"]
    assert answer["usage"]["prompt_tokens"] == 3
    chunks = await streamed({"prompt": "a b"}, endpoint="completions")
    assert "".join(choice["text"] for chunk in chunks for choice in chunk["choices"]) == "This is an echo of what was sent: a b"


async def test_the_text_parts_of_a_message_are_echoed_and_an_image_is_passed_over() -> None:
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    _, answer = await whole({"messages": [{"role": "user", "content": parts}]})
    assert answer["choices"][0]["message"]["content"].endswith(" look")
    _, answer = await whole({"messages": []})
    assert answer["choices"][0]["message"]["content"] == "This is an echo: no text was sent."


async def test_embeddings_are_the_same_for_the_same_input_in_floats_and_in_base64() -> None:
    _, plain = await whole({"input": ["a b", "c", "a b"]}, endpoint="embeddings")
    first, second, third = (item["embedding"] for item in plain["data"])
    assert first == third != second
    assert len(first) == 64
    assert sum(value * value for value in first) == pytest.approx(1.0)
    assert plain["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    _, coded = await whole({"input": "a b", "encoding_format": "base64", "dimensions": 64}, endpoint="embeddings")
    assert struct.unpack("<64f", base64.b64decode(coded["data"][0]["embedding"])) == pytest.approx(tuple(first))
    _, numbered = await whole({"input": [[1, 2, 3], [4]], "dimensions": 3}, endpoint="embeddings")
    assert (numbered["usage"]["prompt_tokens"], len(numbered["data"][0]["embedding"])) == (4, 3)


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 4096])
def test_a_vector_has_the_length_asked_for(length: int) -> None:
    assert len(vector(b"x", length)) == length


@pytest.mark.parametrize(
    ("body", "endpoint"),
    [
        ({"messages": "hi"}, "chat/completions"),
        ({}, "chat/completions"),
        ({}, "completions"),
        ({}, "embeddings"),
        ({"messages": [], "n": 10**9}, "chat/completions"),
    ],
)
async def test_400_for_a_request_that_is_none(body: dict[str, Any], endpoint: str) -> None:
    status, answer = await whole(body, endpoint=endpoint)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


async def test_trouble_can_be_ordered() -> None:
    status, answer = await whole({**said("a"), "echo": {"status": 429}})
    assert (status, answer["error"]["type"]) == (429, "rate_limit_error")
    _, answer = await whole({**said("a"), "echo": {"usage": False}})
    assert "usage" not in answer
    cut = await opened({**said("a b c"), "stream": True, "echo": {"cut_after": 2}})
    assert await cut.read()
    assert await cut.read()
    with pytest.raises(Disconnected):
        await cut.read()
    stalled = await opened({**said("a b c"), "stream": True, "echo": {"stall_after": 1}}, timeouts={"idle_s": 0.01})
    assert await stalled.read()
    with pytest.raises(TimedOut):
        await stalled.read()


async def test_what_is_aborted_says_no_more() -> None:
    answer = await opened({**said("a"), "stream": True})
    answer.abort()
    with pytest.raises(Disconnected):
        await answer.read()


def test_tokens_join_to_the_text() -> None:
    assert "".join(tokens("  a\n b\tc")) == "  a\n b\tc"
