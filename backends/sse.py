"""One server-sent event of an OpenAI-compatible stream: cutting, reading and rewriting it. Pure functions over bytes.

Rewriting touches only the bytes of the member concerned; a whole event is re-encoded only where its usage cannot be told apart by
position (the name occurs twice, or the data stands on several lines).
"""

import re
from collections.abc import Callable

import msgspec

from backends.errors import BadAnswer

ABSENT = (b"", b"null")
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # what decoding damaged JSON raises
_NO_ERROR = (*ABSENT, b"false", b'""', b"{}")
_BLANKS = re.compile(rb"[\r\n]+")
_END = re.compile(rb"\n\r?\n")
_RAW = msgspec.Raw(b"")
_SPACE = b" \t\r\n"


class Chunk(msgspec.Struct):
    """The members of a chunk that matter here, each as its bytes; empty where absent."""

    usage: msgspec.Raw = _RAW
    choices: msgspec.Raw = _RAW
    error: msgspec.Raw = _RAW
    object: msgspec.Raw = _RAW
    service_tier: msgspec.Raw = _RAW

    def has_choices(self) -> bool:
        """Whether there is a choice in it."""
        return bytes(self.choices) not in (b"[]", b"", b"null") and bytes(self.choices).strip(b"[] \t\r\n") != b""

    def failure(self, payload: bytes) -> msgspec.Raw | None:
        """Return the error that this chunk is, if it is one."""
        if bytes(self.error) not in _NO_ERROR:
            return self.error
        return msgspec.Raw(payload) if bytes(self.object) == b'"error"' else None


class _NestedUsage(msgspec.Struct):
    usage: msgspec.Raw = _RAW


class _Delta(msgspec.Struct):
    reasoning_content: object = None
    reasoning: object = None
    content: object = None
    refusal: object = None
    tool_calls: object = None
    function_call: object = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None  # in an answer that is not streamed
    text: object = None


class _Produced(msgspec.Struct):
    choices: list[_Choice] | None = None


_chunk = msgspec.json.Decoder(Chunk)
_one = msgspec.json.Decoder(msgspec.Raw)
_nested = msgspec.json.Decoder(list[_NestedUsage])
_produced = msgspec.json.Decoder(_Produced)
_tier: msgspec.json.Decoder[str | None] = msgspec.json.Decoder(str | None)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_string = msgspec.json.Decoder(str)
_TEXT_ALONE = re.compile(rb'"choices": ?\[\{(?:"index": ?\d+, ?)?"delta": ?\{"content": ?"((?:[^"\\]++|\\.)*+)"\}')
_OTHER = re.compile(rb'\n(?!data: |\n|\Z)|"(?:message|text)"')  # lines of other kinds, and where else a text may stand


def split_events(region: bytes) -> list[bytes]:
    """Cut a region of whole events into them, so that their join is the region.

    Blank lines beyond the one that ends an event are pieces of their own: what becomes of the event must not depend on them.
    """
    if region.find(b"\n\n") == len(region) - 2 and region.find(b"\r") < 0 and not region.startswith(b"\n"):
        return [region]
    pieces, start = [], 0
    while start < len(region):
        found = _BLANKS.match(region, start) or _END.search(region, start)
        end = len(region) if found is None else found.end()
        pieces.append(region[start:end])
        start = end
    return pieces


def payload_of(event: bytes) -> bytes:
    """Return the data of an event: its data lines' values joined by line feeds, b"" if it has none."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2:
        return event[6:-2]
    return b"\n".join([line[5:].removeprefix(b" ") for line in _lines(event) if line.startswith(b"data:")])


def with_payload(event: bytes, payload: bytes) -> bytes:
    """Return the event with other data, on one line; its other lines stay."""
    newline = b"\r\n" if b"\r\n" in event else b"\n"
    others = [line for line in _lines(event) if line and not line.startswith(b"data:")]
    return newline.join([*others, b"data: " + payload.replace(b"\n", b" "), b"", b""])


def decode_chunk(payload: bytes) -> Chunk:
    """Read what matters of a chunk. Raises `BadAnswer` for what is no JSON object."""
    try:
        return _chunk.decode(payload)
    except UNREADABLE as error:
        raise BadAnswer(f"an event of {len(payload)} bytes is no JSON object") from error


def nested_usage(chunk: Chunk) -> msgspec.Raw | None:
    """Return the usage inside a choice (Moonshot's last chunk), None if there is none."""
    if bytes(chunk.choices).find(b'"usage"') < 0:
        return None
    try:
        found = [choice.usage for choice in _nested.decode(chunk.choices) if bytes(choice.usage) not in ABSENT]
    except UNREADABLE:
        return None  # choices of another shape hold no usage that we know of
    return found[-1] if found else None


def trailing_usage(event: bytes) -> tuple[bytes, msgspec.Raw] | None:
    """Split a chunk with choices, whose last member is its only usage, into the chunk without it and the usage; None for any other.

    This is the shape of vLLM's continuous usage, in every chunk of a stream, so nothing but the usage is parsed: in an object that
    ends in `,"usage":{...}}` the last brace closes the object itself, so the member is its own and not a nested one's.
    """
    at = event.rfind(b',"usage":{')
    if at < 0 or not event.endswith(b"}}\n\n") or not event.startswith(b"data: {") or event.find(b'"choices":[{') < 0 or event.find(b'"usage"') != at + 1:
        return None
    if event.find(b"\n") != len(event) - 2 or event.rfind(b'"error"') >= 0:
        return None
    try:
        return event[:at] + b"}\n\n", _one.decode(event[at + 9 : -3])
    except UNREADABLE:
        return None


def without_usage(event: bytes, usage: bytes) -> bytes:
    """Return the event without the top-level member `usage`, whose value is given."""
    start = event.find(b'"usage"')
    span = _only_value(event, start, usage)
    if span is None:
        return _rebuilt(event, lambda members: members.pop("usage", None))
    before, after = event[:start].rstrip(_SPACE), event[span[1] :].lstrip(_SPACE)
    if before.endswith(b","):
        return before[:-1] + event[span[1] :]
    return event[:start] + after.removeprefix(b",")


def with_usage_members(event: bytes, extra: bytes) -> bytes:
    """Return the event with `extra` (the bytes of members) put last inside its usage object."""
    usage = bytes(decode_chunk(payload_of(event)).usage)
    if not usage.startswith(b"{"):
        return event
    inner = usage[1:-1].strip(_SPACE)
    grown = b"{" + inner + (b"," if inner else b"") + extra + b"}"
    start = event.find(b'"usage"')
    span = _only_value(event, start, usage)
    if span is None:
        return _rebuilt(event, lambda members: members.update(usage=msgspec.Raw(grown)))
    return event[: span[0]] + grown + event[span[1] :]


def usage_event(event: bytes, usage: msgspec.Raw) -> bytes:
    """Make the event that reports usage at the end, as OpenAI writes it, from the head of an earlier chunk."""
    try:
        members = _members.decode(payload_of(event))
    except UNREADABLE:
        members = {}
    kept = {name: members[name] for name in ("id", "object", "created", "model", "system_fingerprint", "service_tier") if name in members}
    return b"data: " + msgspec.json.encode({**kept, "choices": [], "usage": usage}) + b"\n\n"


def text_of(region: bytes) -> str:
    """Return the text that the events of a region produced; events of other shapes add nothing."""
    found = _TEXT_ALONE.findall(region)
    if found and len(found) == region.count(b'"choices"') == region.count(b'"delta"') and _OTHER.search(region) is None:  # each choice is a text, no more
        try:
            return _string.decode(b'"%b"' % b"".join(found))
        except UNREADABLE:
            pass  # half a character, or broken UTF-8
    if region.startswith(b"data: ") and region.find(b"\r") < 0:
        try:
            return "".join([_text(event) for event in _produced.decode_lines(region[6:].replace(b"\n\ndata: ", b"\n"))])
        except UNREADABLE:
            pass  # a comment, an event name or an odd shape is among them: look at each event by itself
    pieces = []
    for event in split_events(region):
        try:
            pieces.append(_text(_produced.decode(payload_of(event))))
        except UNREADABLE:
            continue  # no chunk: nothing was produced by it
    return "".join(pieces)


def text_of_answer(body: bytes) -> str:
    """Return the text that a whole answer holds; of a body of another shape, the body itself."""
    try:
        return _text(_produced.decode(body))
    except UNREADABLE:
        return body.decode("utf-8", "replace")


def tier_of(raw: msgspec.Raw | None) -> str | None:
    """Read the service tier that an answer names beside its usage; None where it names none."""
    try:
        return None if raw is None else _tier.decode(raw)
    except UNREADABLE:
        return None


def _text(event: _Produced) -> str:
    pieces: list[str] = []
    for choice in event.choices or ():
        delta = choice.delta or choice.message
        if delta is None:
            pieces.append(_strings(choice.text))
            continue
        thought = delta.reasoning_content or delta.reasoning  # some servers write the same text in both
        for value in (thought, delta.content, delta.refusal, delta.tool_calls, delta.function_call):
            if value:
                pieces.append(value if isinstance(value, str) else _strings(value))  # noqa: PERF401  twice as fast as a comprehension here
    return "".join(pieces)


def _strings(value: object) -> str:
    """Join the texts inside a structured value: content parts, tool calls. Identifiers and types are no output of the model."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join([_strings(item) for item in value])
    if isinstance(value, dict):
        return "".join([_strings(item) for name, item in value.items() if name in ("function", "name", "arguments", "text", "thinking", "content")])
    return ""


def _lines(event: bytes) -> list[bytes]:
    return [line.removesuffix(b"\r") for line in event.split(b"\n")]


def _only_value(event: bytes, start: int, value: bytes) -> tuple[int, int] | None:
    """Return where the usage whose name starts at `start` stands; None unless it is `value`, the only one, and in data of one line."""
    if event.find(b'"usage"', start + 7) >= 0 or event.count(b"\ndata:") + event.startswith(b"data:") != 1:
        return None
    colon = start + 7
    while event[colon : colon + 1] in (b" ", b"\t"):
        colon += 1
    begin = colon + 1
    if event[colon:begin] != b":":
        return None
    while event[begin : begin + 1] in (b" ", b"\t"):
        begin += 1
    return (begin, begin + len(value)) if event.startswith(value, begin) else None


def _rebuilt(event: bytes, change: Callable[[dict[str, msgspec.Raw]], object]) -> bytes:
    try:
        members = _members.decode(payload_of(event))
    except UNREADABLE as error:
        raise BadAnswer(f"an event is no JSON object: {error}") from error
    change(members)
    return with_payload(event, msgspec.json.encode(members))
