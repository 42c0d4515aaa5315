"""What every answer says about itself: lane, standing, balance, limits, cost, and how long each step took."""

from typing import TYPE_CHECKING

from billing.money import format_credits
from gateway.flow.reserve import FALLBACK
from gateway.flow.settle import Settler
from gateway.flow.states import Headers, Settled
from gateway.lanes import limits
from gateway.wire import headers as names

if TYPE_CHECKING:
    from gateway.services import Services


def whole(services: "Services", settler: Settler, settled: Settled, length: int) -> Headers:
    """Write the head of an answer that is known whole, its cost included."""
    headers = _common(services, settler)
    headers.append((names.COST, format_credits(settled.charge_ncr).encode()))
    headers.append(names.CONTENT_JSON)
    headers.append((b"content-length", b"%d" % length))
    return headers


def stream(services: "Services", settler: Settler) -> Headers:
    """Write the head of a stream; its cost follows in its last chunk."""
    headers = _common(services, settler)
    headers.append(names.CONTENT_SSE)
    headers.append(names.CACHE_NONE)
    headers.append(names.NO_BUFFERING)
    return headers


def waiting(services: "Services", settler: Settler) -> Headers:
    """Write the head of a stream that waits for a slot: who serves it, and how long it waited, a comment says when it is known."""
    headers = _known(services, settler)
    headers += [names.CONTENT_SSE, names.CACHE_NONE, names.NO_BUFFERING]
    return headers


def comment(settler: Settler) -> bytes:
    """Write what the head of a stream lacks that was begun while it waited, as a comment, which clients pass over."""
    backend = "" if settler.attempt is None else settler.attempt.backend
    return b": %b: %d, %b: %b, %b: %b\n\n" % (
        names.QUEUE_MS, settler.queue_us // 1000, names.BACKEND, backend.encode(), names.LANE, settler.reserved.lane.value.encode(),
    )  # fmt: skip


def _common(services: "Services", settler: Settler) -> Headers:
    headers = _known(services, settler)
    elapsed_ms = (services.clock.monotonic_s() - settler.reserved.admitted.received.at_s) * 1000
    queue_ms = settler.queue_us // 1000
    headers += [
        (names.QUEUE_MS, b"%d" % queue_ms),
        (names.ATTEMPTS, b"%d" % settler.attempts),
        (b"openai-processing-ms", b"%d" % elapsed_ms),
        (b"server-timing", b"queue;dur=%d, total;dur=%d" % (queue_ms, elapsed_ms)),
    ]
    if settler.attempt is not None:
        headers.append((names.BACKEND, settler.attempt.backend.encode()))
    return headers


def _known(services: "Services", settler: Settler) -> Headers:
    """Write what is known before a backend has it."""
    reserved = settler.reserved
    admitted = reserved.admitted
    received, account = admitted.received, admitted.account
    now_us = services.clock.now_us()
    headers = [
        (names.REQUEST_ID, received.shown_id.encode()),
        (names.EVENT_ID, received.call.request_id.encode()),
        (names.LANE, reserved.lane.value.encode()),
        (names.LANE_REASON, reserved.reason.encode()),
        (names.STANDING, reserved.standing.value.encode()),
    ]
    if reserved.reason == FALLBACK:
        headers.append((names.MODEL, received.call.model.encode()))
    reset_s = None if account.reset_us is None else max(0, account.reset_us - now_us) // 1_000_000
    claims = reserved.hold.claims
    headers += names.credits(claims.remaining_ncr, claims.limit_ncr, reset_s)
    if admitted.limits:
        headers += limits.headers(admitted.limits, now_us)
    return headers
