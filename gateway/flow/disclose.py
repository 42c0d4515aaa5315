"""What every answer says about itself: lane, standing, balance, limits, cost, and how long each step took.

Written as the lines that go out, by templates: every value is a number, a word of ours, a name that the configuration may hold, or an id that was
looked at, so none can write another line.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

from billing.money import format_credits
from gateway.flow.reserve import FALLBACK
from gateway.flow.settle import Settler
from gateway.flow.states import Settled
from gateway.lanes import limits
from gateway.wire import headers as names

if TYPE_CHECKING:
    from gateway.services import Services


def _template(*headers: bytes) -> str:
    return "".join([f"{name.decode()}: %s\r\n" for name in headers])


_KNOWN = _template(names.REQUEST_ID, names.EVENT_ID, names.LANE, names.LANE_REASON, names.STANDING, names.CREDITS_LIMIT, names.CREDITS_REMAINING)
_RESET = _template(names.CREDITS_RESET)
_MODEL = _template(names.MODEL)
_SERVED = _template(names.QUEUE_MS, names.ATTEMPTS, b"openai-processing-ms") + "server-timing: queue;dur=%s, total;dur=%s\r\n" + _template(names.BACKEND)
_WHOLE = _template(names.COST) + names.lines([names.CONTENT_JSON]).decode()
_STREAM = names.lines([names.CONTENT_SSE, names.CACHE_NONE, names.NO_BUFFERING]).decode()


_limit = lru_cache(4096)(format_credits)  # a plan's allowance, the same in answer after answer


def whole(services: "Services", settler: Settler, settled: Settled) -> bytes:
    """Write the head of an answer that is known whole, its cost included."""
    return (_known(services, settler) + _served(services, settler) + _WHOLE % settled.cost).encode()


def stream(services: "Services", settler: Settler) -> bytes:
    """Write the head of a stream; its cost follows in its last chunk."""
    return (_known(services, settler) + _served(services, settler) + _STREAM).encode()


def waiting(services: "Services", settler: Settler) -> bytes:
    """Write the head of a stream that waits for a slot: who serves it, and how long it waited, a comment says when it is known."""
    return (_known(services, settler) + _STREAM).encode()


def comment(settler: Settler) -> bytes:
    """Write what the head of a stream lacks that was begun while it waited, as a comment, which clients pass over."""
    backend = "" if settler.attempt is None else settler.attempt.backend
    return b": %b: %d, %b: %b, %b: %b\n\n" % (
        names.QUEUE_MS, settler.queue_us // 1000, names.BACKEND, backend.encode(), names.LANE, settler.reserved.lane.encode(),
    )  # fmt: skip


def _served(services: "Services", settler: Settler) -> str:
    """Write what is known when a backend has it."""
    assert settler.attempt is not None
    elapsed_ms = int((services.clock.monotonic_s() - settler.reserved.admitted.received.at_s) * 1000)
    queue_ms = settler.queue_us // 1000
    return _SERVED % (queue_ms, settler.attempts, elapsed_ms, queue_ms, elapsed_ms, settler.attempt.backend)


def _known(services: "Services", settler: Settler) -> str:
    """Write what is known before a backend has it."""
    reserved = settler.reserved
    admitted = reserved.admitted
    received, account, claims = admitted.received, admitted.account, reserved.hold.claims
    written = _KNOWN % (
        received.shown_id, received.call.request_id, reserved.lane.text, reserved.reason, reserved.standing.text,
        _limit(claims.limit_ncr), format_credits(max(0, claims.remaining_ncr)),
    )  # fmt: skip
    if account.reset_us is None and not admitted.limits and reserved.reason != FALLBACK:
        return written
    now_us = services.clock.now_us()
    if reserved.reason == FALLBACK:
        written += _MODEL % received.call.model
    if account.reset_us is not None:
        written += _RESET % (max(0, account.reset_us - now_us) // 1_000_000)
    if admitted.limits:
        written += names.lines(limits.headers(admitted.limits, now_us)).decode()
    return written
