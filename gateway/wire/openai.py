"""OpenAI's shapes: reading a request's members, writing errors, and putting the cost into an answer.

A body is decoded once, into its top-level members as slices of the bytes that came. Only the members that a decision needs are
read further; what the client sent otherwise is passed on as it was, unknown members and explicit nulls included.
"""

import re
from typing import Any, TypeVar

import msgspec

from backends.provider import Call, Endpoint
from gateway.errors import BadRequest, Refusal

T = TypeVar("T")

CHOICES_MAX = 128
OUTPUT_TOKENS_MAX = 10_000_000

_EMPTY = re.compile(rb"\[\s*\]")
_ARRAY, _ARRAY_OR_STRING = (b"[",), (b"[", b'"')  # tuples: to look for bytes in bytes costs 2,000 instructions, as they are taken for a number first
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}  # one per type read; building one costs more than using it

# What each endpoint cannot do without, and the kinds of JSON it may be.
_PROMPTS: dict[Endpoint, tuple[str, str]] = {
    "chat/completions": ("messages", "an array of messages"),
    "completions": ("prompt", "a string or an array"),
    "embeddings": ("input", "a string or an array"),
}


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What of a call decides its cost: how many prompts, how many answers in all, how long each may be (tokens; None: no limit was set),
    and in which service tier (None: none was named).
    """

    prompts: int = 1
    choices: int = 1
    output_max: int | None = None
    service_tier: str | None = None


class StreamOptions(msgspec.Struct):
    """The members of `stream_options` that we read."""

    include_usage: bool | None = None


def read_call(body: bytes, endpoint: Endpoint, request_id: str) -> tuple[Call, Wish]:
    """Read a request body. Raises `BadRequest`, naming the member, for what is not JSON, is missing, or has the wrong type."""
    try:
        members = _members.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"The body is not a JSON object: {error}. Send one, with content-type application/json.") from None
    model = member(members, "model", str)
    if not model:
        raise BadRequest("`model` is missing: name one of the models that GET /v1/models lists.", param="model")
    name, kind = _PROMPTS[endpoint]
    prompt = members.get(name)
    start = b"" if prompt is None else bytes(memoryview(prompt)[:2])
    if prompt is None or start[:1] not in (_ARRAY if endpoint == "chat/completions" else _ARRAY_OR_STRING):
        raise BadRequest(f"`{name}` must be {kind}.", param=name)
    if start != b"[{" and endpoint == "chat/completions" and _EMPTY.match(prompt):
        raise BadRequest("`messages` is empty: send at least one message.", param="messages")
    stream = "stream" in members and (member(members, "stream", bool) or False)
    if stream and endpoint == "embeddings":
        raise BadRequest("`stream` is not offered for embeddings.", param="stream")
    options = member(members, "stream_options", StreamOptions) if stream else None
    call = Call(endpoint=endpoint, request_id=request_id, model=model, members=members, body_bytes=len(body), stream=stream)
    if options is not None and options.include_usage:
        call.wants_usage = True
    return call, _wish(members, endpoint)


def member(members: dict[str, msgspec.Raw], name: str, kind: type[T]) -> T | None:
    """Read one member; None when it is absent or null. Raises `BadRequest` naming it when it has another type."""
    raw = members.get(name)
    if raw is None:
        return None
    decoder = _decoders.get(kind)
    if decoder is None:
        optional: Any = kind | None
        decoder = _decoders[kind] = msgspec.json.Decoder(optional)
    try:
        value: T | None = decoder.decode(raw)
        return value
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"`{name}` has the wrong type: {error}.", param=name) from None


def _wish(members: dict[str, msgspec.Raw], endpoint: Endpoint) -> Wish:
    tier = member(members, "service_tier", str) if "service_tier" in members else None
    if endpoint == "embeddings":
        return Wish(prompts=_prompts(members["input"]), choices=1, output_max=0, service_tier=tier)
    choices, prompts = (_count(members, "n", CHOICES_MAX) or 1) if "n" in members else 1, 1
    if endpoint == "completions":
        prompts = _prompts(members["prompt"])
        choices = prompts * max(choices, (_count(members, "best_of", CHOICES_MAX) or 1) if "best_of" in members else 1)
    limit = _count(members, "max_completion_tokens", OUTPUT_TOKENS_MAX) if "max_completion_tokens" in members else None
    legacy = _count(members, "max_tokens", OUTPUT_TOKENS_MAX) if "max_tokens" in members else None
    if limit is not None and legacy is not None and limit != legacy:  # servers differ in which of them they obey
        raise BadRequest(f"`max_completion_tokens` is {limit} and `max_tokens` is {legacy}: send one of them.", param="max_tokens")
    return Wish(prompts=prompts, choices=choices, output_max=legacy if limit is None else limit, service_tier=tier)


def _prompts(raw: msgspec.Raw) -> int:
    """Count the prompts: a string is one, and so is an array of token ids; an array of either is as many as it holds."""
    if _first(raw) != b"[":
        return 1
    items = msgspec.json.decode(raw, type=list[msgspec.Raw])
    return len(items) if items and _first(items[0]) in (b"[", b'"') else 1


def _count(members: dict[str, msgspec.Raw], name: str, most: int) -> int | None:
    value = member(members, name, int)
    if value is not None and not 0 <= value <= most:
        raise BadRequest(f"`{name}` is {value}; it must be between 0 and {most}.", param=name)
    return value


def _first(raw: msgspec.Raw) -> bytes:
    return bytes(memoryview(raw)[:1])


def error_body(refusal: Refusal, request_id: str) -> bytes:
    """Write a refusal in OpenAI's shape."""
    error: dict[str, Any] = {"message": refusal.public, "type": refusal.type, "param": refusal.param, "code": refusal.code, "request_id": request_id}
    return _encode({"error": error})


def error_event(refusal: Refusal, request_id: str) -> bytes:
    """Write a refusal as the last event of a stream; SDKs raise it as an APIError with its code."""
    return b"data: " + error_body(refusal, request_id) + b"\n\n"


def with_cost(body: bytes, members: dict[str, msgspec.Raw], extra: bytes) -> bytes:
    """Put members (`"cost":1.5,...`) into the usage object of an answer; the rest of its bytes stay as they came."""
    usage = members.get("usage")
    inner = b"" if usage is None else bytes(usage)
    if not inner.startswith(b"{"):
        return body
    kept = inner[:-1].rstrip()
    priced = b"".join((kept, b"" if kept == b"{" else b",", extra, b"}"))
    at = body.rfind(inner)
    if at >= 0 and body.find(inner) == at:  # it stands there once: cheaper than writing every member anew
        return b"".join((body[:at], priced, body[at + len(inner) :]))
    members = members | {"usage": msgspec.Raw(priced)}
    return b"{" + b",".join(_encode(name) + b":" + bytes(raw) for name, raw in members.items()) + b"}"
