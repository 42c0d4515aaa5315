"""What every answer says about itself: lane, standing, balance, limits, cost, and how long each step took.

Written as the lines that go out, joined from names and values: every value is a number, a word of ours, a name that the configuration may hold,
or an id that was looked at, so none can write another line.
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


def _name(header: bytes) -> str:
    return f"\r\n{header.decode()}: "


_REQUEST_ID = names.REQUEST_ID.decode() + ": "  # the first one
_EVENT_ID, _LANE, _REASON, _STANDING = _name(names.EVENT_ID), _name(names.LANE), _name(names.LANE_REASON), _name(names.STANDING)
_LIMIT, _REMAINING, _RESET, _MODEL = _name(names.CREDITS_LIMIT), _name(names.CREDITS_REMAINING), _name(names.CREDITS_RESET), _name(names.MODEL)
_QUEUE_MS, _ATTEMPTS, _PROCESSING_MS, _BACKEND, _COST = (
    _name(names.QUEUE_MS), _name(names.ATTEMPTS), _name(b"openai-processing-ms"), _name(names.BACKEND), _name(names.COST),
)  # fmt: skip
_QUEUE, _TOTAL = "\r\nserver-timing: queue;dur=", ", total;dur="
_JSON = "\r\n" + names.lines([names.CONTENT_JSON]).decode()
_STREAM = "\r\n" + names.lines([names.CONTENT_SSE, names.CACHE_NONE, names.NO_BUFFERING]).decode()

_limit = lru_cache(4096)(format_credits)  # a plan's allowance, the same in answer after answer


def whole(services: "Services", settler: Settler, settled: Settled) -> bytes:
    """Write the head of an answer that is known whole, its cost included."""
    return "".join([*_known(services, settler), *_served(services, settler), _COST, settled.cost, _JSON, _limits(services, settler)]).encode()


def stream(services: "Services", settler: Settler) -> bytes:
    """Write the head of a stream; its cost follows in its last chunk."""
    return "".join([*_known(services, settler), *_served(services, settler), _STREAM, _limits(services, settler)]).encode()


def waiting(services: "Services", settler: Settler) -> bytes:
    """Write the head of a stream that waits for a slot: who serves it, and how long it waited, a comment says when it is known."""
    return "".join([*_known(services, settler), _STREAM, _limits(services, settler)]).encode()


def comment(settler: Settler) -> bytes:
    """Write what the head of a stream lacks that was begun while it waited, as a comment, which clients pass over."""
    backend = "" if settler.attempt is None else settler.attempt.backend
    return b": %b: %d, %b: %b, %b: %b\n\n" % (
        names.QUEUE_MS, settler.queue_us // 1000, names.BACKEND, backend.encode(), names.LANE, settler.reserved.lane.encode(),
    )  # fmt: skip


def _served(services: "Services", settler: Settler) -> list[str]:
    """Write what is known when a backend has it."""
    assert settler.attempt is not None
    elapsed_ms = str(int((services.clock.monotonic_s() - settler.reserved.admitted.received.at_s) * 1000))
    queue_ms = str(settler.queue_us // 1000)
    return [
        _QUEUE_MS, queue_ms, _ATTEMPTS, str(settler.attempts), _PROCESSING_MS, elapsed_ms, _QUEUE, queue_ms, _TOTAL, elapsed_ms,
        _BACKEND, settler.attempt.backend,
    ]  # fmt: skip


def _known(services: "Services", settler: Settler) -> list[str]:
    """Write what is known before a backend has it."""
    reserved = settler.reserved
    admitted = reserved.admitted
    received, claims, reset_us = admitted.received, reserved.hold.claims, admitted.account.reset_us
    remaining_ncr = claims.remaining_ncr
    known = [
        _REQUEST_ID, received.shown_id, _EVENT_ID, received.call.request_id,
        _LANE, reserved.lane.text, _REASON, reserved.reason, _STANDING, reserved.standing.text,
        _LIMIT, _limit(claims.limit_ncr), _REMAINING, format_credits(remaining_ncr if remaining_ncr > 0 else 0),
    ]  # fmt: skip
    if reserved.reason == FALLBACK:
        known += (_MODEL, received.call.model)
    if reset_us is not None:
        known += (_RESET, str(max(0, reset_us - services.clock.now_us()) // 1_000_000))
    return known


def _limits(services: "Services", settler: Settler) -> str:
    """Write the lines of rate limits, where there are any."""
    rate_limits = settler.reserved.admitted.limits
    return names.lines(limits.headers(rate_limits, services.clock.now_us())).decode() if rate_limits else ""
