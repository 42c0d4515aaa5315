"""Usage, in every dialect seen, ends in disjoint buckets; null is not zero; what cannot be is refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import BadAnswer
from backends.openai.usage import COUNT_MAX, read_usage
from backends.provider import Usage


def read(**reported: Any) -> Usage | None:
    return read_usage(json.dumps(reported).encode())


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        pytest.param(
            {"prompt_tokens": 32, "completion_tokens": 3, "total_tokens": 35, "completion_tokens_details": None},
            Usage(input=32, output=3),
            id="vLLM in a stream: details are null",
        ),
        pytest.param(
            {"prompt_tokens": 32, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 16, "created_cache_tokens": 0, "multimodal_tokens": None}},
            Usage(input=16, cache_read=16, output=3),
            id="vLLM with --enable-prompt-tokens-details",
        ),
        pytest.param(
            {"completion_tokens": 3, "prompt_tokens": 32, "total_tokens": 35, "prompt_tokens_details": {"cached_tokens": 31}},
            Usage(input=1, cache_read=31, output=3),
            id="llama.cpp",
        ),
        pytest.param({"prompt_tokens": 3, "total_tokens": 3}, Usage(input=3), id="embeddings have no output"),
        pytest.param(
            {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "prompt_tokens_details": {"cached_tokens": 40, "audio_tokens": 10},
                "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 5, "accepted_prediction_tokens": 0},
            },
            Usage(input=50, cache_read=40, audio_in=10, output=45, audio_out=5, reasoning=20),
            id="OpenAI with audio",
        ),
        pytest.param(
            {"prompt_tokens": 100, "completion_tokens": 5, "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36},
            Usage(input=36, cache_read=64, output=5),
            id="DeepSeek",
        ),
        pytest.param(
            {"completion_tokens": 5, "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36},
            Usage(input=36, cache_read=64, output=5),
            id="DeepSeek, hits and misses alone",
        ),
        pytest.param({"prompt_tokens": 100, "completion_tokens": 5, "cached_tokens": 60}, Usage(input=40, cache_read=60, output=5), id="Moonshot"),
        pytest.param(
            {"input_tokens": 1, "output_tokens": 8, "cache_read_input_tokens": 31, "cache_creation_input_tokens": 0},
            Usage(input=1, cache_read=31, cache_write_5m=0, output=8),
            id="Anthropic's shape: the cache is beside the input",
        ),
        pytest.param(
            {
                "input_tokens": 1,
                "output_tokens": 8,
                "cache_creation_input_tokens": 30,
                "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
            },
            Usage(input=1, cache_write_5m=10, cache_write_1h=20, output=8),
            id="Anthropic's writes by how long they are kept",
        ),
        pytest.param(
            {"input_tokens": 50, "output_tokens": 8, "input_tokens_details": {"cached_tokens": 30}},
            Usage(input=20, cache_read=30, output=8),
            id="responses: the cache is in the input",
        ),
        pytest.param(
            {"prompt_tokens": 50, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 48, "audio_tokens": 10}},
            Usage(input=0, cache_read=48, audio_in=2, output=1),
            id="cached audio is counted once, as cached",
        ),
        pytest.param({"prompt_tokens": 0, "completion_tokens": 0}, Usage(input=0, output=0), id="zero is not null"),
    ],
)
def test_every_dialect_ends_in_disjoint_buckets(reported: dict[str, Any], expected: Usage) -> None:
    assert read(**reported) == expected


@pytest.mark.parametrize("raw", [b"null", b"{}", b'{"total_tokens":5}', b'{"prompt_tokens":null,"completion_tokens":null}'])
def test_usage_that_counts_nothing_was_not_said(raw: bytes) -> None:
    assert read_usage(raw) is None


def test_thoughts_beside_the_output_are_taken_from_the_total() -> None:
    raw = b'{"prompt_tokens":10,"completion_tokens":5,"total_tokens":115}'
    assert read_usage(raw, reasoning_beside=True) == Usage(input=10, output=105)
    assert read_usage(raw) == Usage(input=10, output=5)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"prompt_tokens":-1,"completion_tokens":1}',
        b'{"prompt_tokens":1,"completion_tokens":-1}',
        b'{"prompt_tokens":NaN,"completion_tokens":1}',
        b'{"prompt_tokens":true,"completion_tokens":1}',
        b'{"prompt_tokens":1.5,"completion_tokens":1}',
        b'{"prompt_tokens":1.0,"completion_tokens":1}',
        b'{"prompt_tokens":"1","completion_tokens":1}',
        b'{"prompt_tokens":1e3,"completion_tokens":1}',
        b'{"prompt_tokens":99999999999,"completion_tokens":1}',
        b'{"prompt_tokens":100000000000000000000000000000,"completion_tokens":1}',
        b'{"prompt_tokens":5,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":6}}',
        b'{"prompt_tokens":5,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":-6}}',
        b'{"prompt_tokens":5,"completion_tokens":1,"prompt_tokens_details":{"audio_tokens":-6}}',
        b'{"prompt_tokens":5,"completion_tokens":1,"prompt_tokens_details":[]}',
        b'{"prompt_tokens":5,"completion_tokens":1,"completion_tokens_details":{"reasoning_tokens":2}}',
        b'{"prompt_tokens":5,"completion_tokens":1,"completion_tokens_details":{"reasoning_tokens":-2}}',
        b'{"prompt_tokens":5,"completion_tokens":1,"completion_tokens_details":{"audio_tokens":2}}',
        b"[]",
        b'"none"',
        b"7",
        b"<html>",
        b"",
    ],
)
def test_a_usage_that_cannot_be_is_a_bad_answer(raw: bytes) -> None:
    with pytest.raises(BadAnswer):
        read_usage(raw)


_COUNT = st.one_of(st.none(), st.integers(-5, 200))


@given(
    prompt=_COUNT, completion=_COUNT, cached=_COUNT, audio=_COUNT, image=_COUNT, reasoning=_COUNT, spoken=_COUNT, written=_COUNT,
)  # fmt: skip
def test_the_parts_always_sum_to_the_whole_and_none_is_negative(**n: int | None) -> None:
    reported = {
        "prompt_tokens": n["prompt"],
        "completion_tokens": n["completion"],
        "prompt_tokens_details": {"cached_tokens": n["cached"], "audio_tokens": n["audio"], "image_tokens": n["image"], "cache_write_tokens": n["written"]},
        "completion_tokens_details": {"reasoning_tokens": n["reasoning"], "audio_tokens": n["spoken"]},
    }
    try:
        usage = read(**reported)
    except BadAnswer:
        return
    if usage is None:
        return
    counts = [getattr(usage, bucket) for bucket in usage.__struct_fields__ if bucket != "service_tier"]
    assert all(count is None or 0 <= count <= COUNT_MAX for count in counts)
    if n["prompt"] is not None:
        assert sum(count or 0 for count in (usage.input, usage.cache_read, usage.cache_write_5m, usage.audio_in, usage.image_in)) == n["prompt"]
    if n["completion"] is not None:
        assert (usage.output or 0) + (usage.audio_out or 0) == n["completion"]
        assert (usage.reasoning or 0) <= (usage.output or 0)


@pytest.mark.parametrize(("said", "tier"), [("priority", "priority"), ("standard", "standard"), (None, None), (3, None), ({"a": 1}, None)])
def test_the_tier_in_a_usage_object_is_read_and_what_is_no_name_is_nothing_said(said: object, tier: str | None) -> None:
    """Anthropic's way; OpenAI says it beside the usage."""
    usage = read_usage(json.dumps({"input_tokens": 3, "output_tokens": 4, "service_tier": said}).encode())
    assert usage is not None
    assert (usage.service_tier, usage.input, usage.output) == (tier, 3, 4)
