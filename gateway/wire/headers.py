"""Names and forms of our headers, in one place: requests' that we read, answers' that we write."""

import re
from collections.abc import Mapping

from billing.money import format_credits

Headers = list[tuple[bytes, bytes]]

CONTENT_JSON = (b"content-type", b"application/json")
CONTENT_SSE = (b"content-type", b"text/event-stream; charset=utf-8")
CACHE_NONE = (b"cache-control", b"no-store")
NO_BUFFERING = (b"x-accel-buffering", b"no")  # nginx in front of us must not collect a stream

REQUEST_ID = b"x-request-id"
EVENT_ID = b"x-weir-event"
LANE = b"x-weir-lane"
LANE_REASON = b"x-weir-lane-reason"
STANDING = b"x-weir-standing"
CREDITS_LIMIT = b"x-weir-credits-limit"
CREDITS_REMAINING = b"x-weir-credits-remaining"
CREDITS_RESET = b"x-weir-credits-reset"
QUEUE_MS = b"x-weir-queue-ms"
BACKEND = b"x-weir-backend"
MODEL = b"x-weir-model"  # only where another model serves than was asked for
ATTEMPTS = b"x-weir-attempts"
COST = b"x-weir-cost"

_LISTS = (b"content-encoding", b"expect")  # those that matter to us
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def lines(headers: Headers) -> bytes:
    """Write headers as lines, each with its end. Raises `ValueError` for a value that would write another line."""
    written = b"".join([b"%b: %b\r\n" % header for header in headers])
    if not written.count(b"\n") == written.count(b"\r") == len(headers) or b"\0" in written:
        raise ValueError("a header holds a CR, LF or NUL")
    return written


def by_name(headers: Headers) -> dict[bytes, bytes]:
    """Return a request's headers by their name; of those that came twice the first, but of lists all, joined as RFC 9110, 5.3 has it."""
    named = dict(reversed(headers))
    if len(named) != len(headers):
        named |= {listed: b", ".join([value for name, value in headers if name == listed]) for listed in _LISTS if listed in named}
    return named


def request_id(headers: Mapping[bytes, bytes], own: str) -> str:
    """Return the client's X-Request-Id where it is printable ASCII of at most 128 characters; else our own."""
    value = headers.get(REQUEST_ID)
    return own if value is None or _REQUEST_ID.fullmatch(value) is None else value.decode("ascii")


def is_traceparent(value: bytes) -> bool:
    """Tell whether a header value is a W3C traceparent, fit to be passed on."""
    return _TRACEPARENT.fullmatch(value) is not None


def find(headers: Headers, wanted: bytes) -> bytes | None:
    """Return the first header of that (lower-case) name."""
    for name, value in headers:
        if name == wanted:
            return value
    return None


def credits(remaining_ncr: int, limit_ncr: int, reset_s: int | None) -> Headers:
    """Give the balance: credits as decimals, and the seconds until the allowance is granted anew."""
    headers = [(CREDITS_LIMIT, format_credits(limit_ncr).encode()), (CREDITS_REMAINING, format_credits(max(0, remaining_ncr)).encode())]
    if reset_s is not None:
        headers.append((CREDITS_RESET, b"%d" % reset_s))
    return headers
