"""Server-sent events on their way through: whole events out, byte for byte, and usage noticed without re-encoding.

Almost every segment is passed on after a few searches for `"usage"`, `[DONE]` and `"error"`; only an event that has one of them is
parsed. A quote inside a JSON string is escaped, so a text that speaks of "usage" never looks like the member. The end of a stream
(the usage event and `[DONE]`) is withheld, for the gateway to put the cost in before the client sees it.

Framing is that of the WHATWG's server-sent events, except that a lone CR ends no line: no model server writes it.
"""

import re

import msgspec

from backends.errors import BadAnswer
from backends.sse import ABSENT, decode_chunk, nested_usage, payload_of, split_events, text_of, trailing_usage, usage_event, with_usage_members, without_usage

EVENT_BYTES_MAX = 8 * 1024 * 1024  # one event; above it the answer is taken for damage
RAW_BYTES_MAX = 16 * 1024  # events kept as they came, before their text is taken out of them

_ENDS = (b"\n\n", b"\n\r\n")
_NULLS = (b":null", b": null")
_FIRST = re.compile(rb"(?:data|event|id|retry)[:\r\n]|:")
_FIRST_NAMES = (b"data:", b"event:", b"id:", b"retry:")
_BLANK = b" \t\r\n"
_BLANK_BYTES_MAX = 4096  # before the first line
_BOM = b"\xef\xbb\xbf"


class StreamTap:
    """Stands between an upstream's stream and the client.

    `strip_usage`: the client did not ask for usage, so `tail` leaves the usage event out. `drop_continuous`: take the usage member
    out of chunks that also carry choices (vLLM's continuous usage; vendors that put usage in the last chunk), for a client that did
    not ask for it there.
    """

    __slots__ = (
        "_begun", "_done", "_dropped", "_events", "_pending", "_plain", "_raw", "_text", "_usage_event",
        "drop_continuous", "ended", "error", "over", "service_tier", "strip_usage", "usage",
    )  # fmt: skip

    def __init__(self, strip_usage: bool, drop_continuous: bool) -> None:
        self.strip_usage = strip_usage
        self.drop_continuous = drop_continuous
        self.usage: msgspec.Raw | None = None  # the last usage object seen
        self.service_tier: msgspec.Raw | None = None  # what stands beside it as the tier that served, in its own event
        self.error: msgspec.Raw | None = None  # the error that the upstream ended its stream with
        self.ended = False  # [DONE] was seen
        self.over = False  # ended or failed: nothing that follows is the client's
        self._begun = False  # the first line is one of server-sent events
        self._plain = False  # and nothing is pending
        self._pending = bytearray()  # the beginning of an event whose end has not come; also of the stream until its kind is known
        self._raw = bytearray()  # events that are not counted, and whose text has not been taken out, yet
        self._events = 0
        self._text: list[str] = []
        self._usage_event = b""
        self._dropped = b""  # the last event whose usage the client did not see, or saw only inside a choice
        self._done = b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they came and return what may be sent to the client now: whole events only.

        Raises `BadAnswer` for what is no event stream, for an event over `EVENT_BYTES_MAX` and for usage that is no JSON.
        """
        if self.over:
            return b""
        if not self._plain or not data.endswith(_ENDS) or len(data) > EVENT_BYTES_MAX:
            data = self._whole(data)
            if not data:
                return b""
        at = data.rfind(b'"usage"')
        if (at >= 0 and not _only_null(data, at)) or data.rfind(b"[DONE]") >= 0 or data.rfind(b'"error"') >= 0:
            return self._inspect(data)
        self._note(data)
        return data

    def close(self) -> bytes:
        """Hear that the upstream's body has ended; return what was still waiting for its end and may be sent.

        A last event without its blank line is completed if it is whole (servers exist that end `[DONE]` so), and else dropped.
        Raises `BadAnswer` where all that came was no event stream.
        """
        came = bytes(self._pending)
        rest = came.rstrip(b"\r\n")
        self._pending.clear()
        if self.over or not rest:
            return b"" if self.over or not self._begun else came
        if not self._begun:
            raise BadAnswer(f"the {len(rest)} bytes of the answer are no event stream")
        payload = payload_of(rest).strip()
        if payload != b"[DONE]":
            try:
                decode_chunk(payload)
            except BadAnswer:
                return b""
        return self._inspect(rest + (b"\r\n\r\n" if b"\r\n" in rest else b"\n\n"))

    @property
    def events(self) -> int:
        """How many events with data came; [DONE] is not counted."""
        self._compact()
        return self._events

    def text(self) -> str:
        """Return the text produced so far (content, reasoning, refusal, tool calls, legacy text), to estimate a stream that was cut."""
        self._compact()
        return "".join(self._text)

    def tail(self, extra: bytes = b"") -> bytes:
        """Return the end of the stream: the usage event with `extra` in its usage object, then `[DONE]`.

        `extra` is the bytes of JSON members, such as b'"cost":1.2', or empty. The usage event is there only for a client that asked
        for it; where the upstream gave usage only in places that the client did not see, it is made.
        """
        event = b""
        if not self.strip_usage and self.usage is not None:
            event = self._usage_event or (usage_event(self._dropped, self.usage) if self._dropped else b"")
            if event and extra:
                event = with_usage_members(event, extra)
        return event + (self._done or b"data: [DONE]\n\n")

    # -- framing ----------------------------------------------------------------------------------------------------------

    def _whole(self, data: bytes) -> bytes:
        """Join `data` to what was pending and return the part that consists of whole events."""
        pending = self._pending
        searched = max(0, len(pending) - 2)
        pending += data
        if not self._begun:
            self._begun = _begins(bytes(pending))
            if not self._begun:
                return b""
            searched = 0
        line, blank = pending.rfind(b"\n\n", searched), pending.rfind(b"\n\r\n", searched)
        cut = max(line + 2 if line >= 0 else 0, blank + 3 if blank >= 0 else 0)
        if len(pending) - cut > EVENT_BYTES_MAX:
            raise BadAnswer(f"an event of more than {EVENT_BYTES_MAX} bytes")
        whole = bytes(pending[:cut])
        del pending[:cut]
        self._plain = not pending
        if cut > EVENT_BYTES_MAX and max(map(len, split_events(whole))) > EVENT_BYTES_MAX:
            raise BadAnswer(f"an event of more than {EVENT_BYTES_MAX} bytes")
        return whole

    # -- reading ----------------------------------------------------------------------------------------------------------

    def _inspect(self, region: bytes) -> bytes:
        """Look at each event of a region that may hold usage, an error or the end; return what of it is the client's."""
        kept = []
        for event in split_events(region):
            if event.rfind(b'"usage"') >= 0 or event.rfind(b"[DONE]") >= 0 or event.rfind(b'"error"') >= 0:
                event = self._judged(event)
                if self.over:
                    break
            if event:
                self._note(event)
                kept.append(event)
        return b"".join(kept)

    def _judged(self, event: bytes) -> bytes:
        """Return the event as the client may see it: itself, without its usage, or b"" where it is withheld."""
        continuous = trailing_usage(event)
        if continuous is not None:
            without, self.usage = continuous
            if not self.drop_continuous:
                return event
            self._dropped = event
            return without
        payload = payload_of(event)
        if not payload:
            return event
        if payload.strip() == b"[DONE]":
            self.ended = self.over = True
            self._done = event
            return b""
        chunk = decode_chunk(payload)
        usage: msgspec.Raw | None = chunk.usage
        if bytes(chunk.usage) in ABSENT:
            usage = nested_usage(chunk)
            if usage is not None:
                self.usage, self._dropped, self.service_tier = usage, event, chunk.service_tier
        elif not chunk.has_choices():
            self.usage, self._usage_event, self.service_tier = usage, event, chunk.service_tier
            self._events += 1
            event = b""
        else:
            self.usage, self.service_tier = usage, chunk.service_tier
            if self.drop_continuous:
                self._dropped = event
                event = without_usage(event, bytes(chunk.usage))
        self.error = chunk.failure(payload)
        self.over = self.error is not None
        return event

    def _note(self, region: bytes) -> None:
        """Keep what is passed on, for `events` and `text`."""
        self._raw += region
        if len(self._raw) > RAW_BYTES_MAX:
            self._compact()

    def _compact(self) -> None:
        if self._raw:
            region = bytes(self._raw)
            self._events += region.count(b"\ndata:") + region.startswith(b"data:")
            self._text.append(text_of(region))
            self._raw.clear()


def _only_null(data: bytes, last: int) -> bool:
    """Whether every usage in it is null, as in each of OpenAI's chunks but the last. `last` is where the last one stands."""
    if not data.startswith(_NULLS, last + 7):
        return False
    return data.find(b'"usage"') == last or data.count(b'"usage"') == sum([data.count(b'"usage"' + null) for null in _NULLS])


def _begins(start: bytes) -> bool:
    """Whether a stream that starts so is one of events; False while it cannot be told. Raises `BadAnswer` when it is none."""
    if _BOM.startswith(start[:3]):
        start = start[3:]
    first = start.lstrip(_BLANK)
    if _FIRST.match(first) is not None:
        return True
    if len(start) - len(first) > _BLANK_BYTES_MAX or not any(name.startswith(first) for name in _FIRST_NAMES):
        raise BadAnswer(f"the answer is no event stream, as its first {len(start)} bytes tell")
    return False
