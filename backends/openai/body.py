"""Writing a request's body from the client's own bytes.

Every member that may stay stays the very slice that came, and a large one is passed on as a slice: a body of 20 MB costs the few
bytes around its members. Only what must differ is written anew.
"""

from collections.abc import Iterable, Mapping

import msgspec

from backends.transport.seam import Buffer

JOIN_MAX = 16_384  # bytes: members below this are joined, larger ones are a part of their own

_encode = msgspec.json.encode
_USUAL = (
    "model", "messages", "stream", "stream_options", "temperature", "top_p", "max_tokens", "max_completion_tokens", "n", "stop", "seed", "user", "tools",
    "tool_choice", "response_format", "logprobs", "top_logprobs", "prompt", "input", "encoding_format", "dimensions", "priority", "service_tier",
)  # fmt: skip
_LABELS: dict[str, bytes] = {name: _encode(name) + b":" for name in _USUAL}


def write_body(members: Iterable[tuple[str, msgspec.Raw | bytes]]) -> tuple[Buffer, ...]:
    """Write members, in their order, as the parts of one JSON object. Large values are not copied."""
    parts: list[Buffer] = []
    small: list[msgspec.Raw | bytes] = []
    lead = b"{"
    for name, value in members:
        small += (lead, _LABELS.get(name) or _encode(name) + b":")
        lead = b","
        if len(value) > JOIN_MAX:
            parts += (b"".join(small), memoryview(value))
            small = []
        else:
            small.append(value)
    small.append(b"}" if lead == b"," else b"{}")
    parts.append(b"".join(small))
    return tuple(parts)


def stream_options(given: msgspec.Raw | None, **forced: bool) -> msgspec.Raw:
    """Return the client's stream options with some forced; what is no object is left as it came, for the server to refuse."""
    options: dict[str, msgspec.Raw] = {}
    if given is not None:
        try:
            options = msgspec.json.decode(given, type=dict[str, msgspec.Raw] | None) or {}
        except msgspec.DecodeError:
            return given
    written: Mapping[str, object] = {**options, **forced}
    return msgspec.Raw(_encode(written))
