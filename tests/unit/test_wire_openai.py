"""The cost in an answer's usage: put in without touching anything else."""

import msgspec
import pytest

from backends.provider import Endpoint
from gateway.errors import BadRequest
from gateway.wire.openai import read_call, with_cost


def priced(body: bytes) -> bytes:
    return with_cost(body, msgspec.json.decode(body, type=dict[str, msgspec.Raw]), b'"cost":0.5')


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a": 1, "usage": {"x": 2} , "z": "\\"usage\\""}', b'{"a": 1, "usage": {"x": 2,"cost":0.5} , "z": "\\"usage\\""}'),
        (b'{"usage":{ }}', b'{"usage":{"cost":0.5}}'),
        (b'{"usage":{"x":2 }}', b'{"usage":{"x":2,"cost":0.5}}'),
        (b'{"usage":null}', b'{"usage":null}'),
        (b'{"a":{}}', b'{"a":{}}'),
    ],
)
def test_the_cost_joins_the_usage_and_every_other_byte_stays(body: bytes, expected: bytes) -> None:
    assert priced(body) == expected


def test_an_object_like_the_usage_elsewhere_is_left_alone() -> None:
    body = b'{"copy":{"x":2},"usage":{"x":2},"after":[{"x":2}]}'
    assert msgspec.json.decode(priced(body)) == {"copy": {"x": 2}, "usage": {"x": 2, "cost": 0.5}, "after": [{"x": 2}]}


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat/completions", b'{"model":"m","messages":[{}],"service_tier":"flex"}'),
        ("completions", b'{"model":"m","prompt":"a","service_tier":"flex"}'),
        ("embeddings", b'{"model":"m","input":"a","service_tier":"flex"}'),
    ],
)
def test_the_service_tier_asked_for_is_read(endpoint: Endpoint, body: bytes) -> None:
    assert read_call(body, endpoint, "r")[1].service_tier == "flex"
    assert read_call(body.replace(b'"flex"', b"null"), endpoint, "r")[1].service_tier is None
    with pytest.raises(BadRequest) as refused:
        read_call(body.replace(b'"flex"', b"[1]"), endpoint, "r")
    assert refused.value.param == "service_tier"
