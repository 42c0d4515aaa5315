"""The order of things: the only file that knows it.

    admit -> reserve -> for each attempt: queue, journal, open, relay -> settle

An attempt that fails before its first byte is followed by the next one; whatever happens, the hold comes back and the slot too.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from backends.errors import BackendError
from backends.transport.seam import Answer
from billing.errors import BooksUnavailable
from gateway.errors import Refusal, Unavailable, UpstreamRefused
from gateway.flow import queue
from gateway.flow.admit import admit
from gateway.flow.pace import pace_of, paced
from gateway.flow.refuse import NotServed, not_served
from gateway.flow.relay import is_stream, recorded, relay_stream, relay_whole, settle_unseen
from gateway.flow.reserve import reserve, reserve_again
from gateway.flow.settle import Settler
from gateway.flow.states import Admitted, Received
from gateway.lanes.standing import FAST, priority_of
from gateway.wire.caller import Client

if TYPE_CHECKING:
    from backends.planner import Attempt
    from gateway.services import Services

log = logging.getLogger("weir.flow")

Failure = BackendError | Refusal | None  # why an attempt failed, so that the next may be made; None: the client has its answer


async def run(services: "Services", received: Received, client: Client) -> Settler:
    """Serve one call, from its key to its last byte. Raises a `Refusal` as long as nothing has been answered."""
    admitted = await admit(services, received)
    settler = Settler(services, await reserve(services, admitted))
    try:
        await _attempts(services, settler, admitted, client)
    except Refusal as refusal:
        settler.close(status=refusal.status)
        if settler.dispatched:
            await recorded(services)
        raise
    except BooksUnavailable as error:
        raise Unavailable(
            "The usage journal takes no entries now, so no work is taken on. Try again in a moment.", internal=str(error), retry_after_s=5
        ) from error
    except asyncio.CancelledError:
        if settler.out and not settler.ended:  # a stream under way has ended itself
            settle_unseen(settler)
        raise
    except Exception:  # a bug of ours: the client gets a 500, and so does the event
        settler.close(status=500)
        await recorded(services)
        raise
    finally:
        settler.close()
    return settler


async def _attempts(services: "Services", settler: Settler, admitted: Admitted, client: Client) -> None:
    """Try the model's backends in their order until one has answered. Raises the last one's `Refusal`."""
    failure: Failure = None
    left = list(services.planner.plan(settler.reserved.admitted.received.call.model))
    while left:
        place = queue.enter_if_free(services, settler, left[0]) or await queue.enter(services, settler, left, client)
        if place is None:  # its tenant has credits again: another lane, and perhaps another model
            await reserve_again(services, settler, admitted)
            left = list(services.planner.plan(settler.reserved.admitted.received.call.model))
            continue
        attempt = place.attempt
        per_s = pace_of(settler.reserved)
        if per_s is None:
            failure = await _try(services, settler, attempt, client)
        else:
            async with paced(services, client, per_s) as out:
                failure = await _try(services, settler, attempt, out)
        if failure is None:
            return
        log.warning("request %s: backend %s: %s", admitted.received.call.request_id, attempt.backend, failure)
        if not _without_flex(settler, attempt, failure):
            left.remove(attempt)
    raise not_served(failure, settler.reserved.admitted.received.call.model)


def _try(services: "Services", settler: Settler, attempt: "Attempt", client: Client) -> Coroutine[Any, Any, Failure]:
    work = _in_slot(services, settler, attempt, client)
    return _undisturbed(settler, work) if attempt.pool.drains else work


def _without_flex(settler: Settler, attempt: "Attempt", failure: BackendError | Refusal) -> bool:
    """Tell whether a backend may be asked again because it refused its cheap tier only, which is then not asked for any more."""
    if not _refused_flex(settler, attempt, failure):
        return False
    settler.flex = False
    settler.tier = settler.tier_at(attempt)
    return True


def _refused_flex(settler: Settler, attempt: "Attempt", failure: BackendError | Refusal) -> bool:
    """Tell whether it is the cheap tier that was refused: it has no room now, or the model is not sold in it."""
    provider = attempt.pool.provider
    if not settler.buys_flex or settler.tier is None or settler.tier != provider.flex_tier or not isinstance(failure, UpstreamRefused):
        return False
    return provider.flex_refused(failure.status, failure.code, failure.param, failure.public)


async def _undisturbed(settler: Settler, work: Coroutine[Any, Any, Failure]) -> Failure:
    """Go on to the end also when the client leaves, for a vendor that bills the whole answer anyway; the slot is kept so long."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        settler.defer(_ended(task))
        raise


async def _ended(task: asyncio.Task[Failure]) -> None:
    try:
        await task
    except Refusal as refusal:
        log.info("nobody is left to be told: %s", refusal)


async def _in_slot(services: "Services", settler: Settler, attempt: "Attempt", client: Client) -> Failure:
    """Make one attempt, and give its slot back; None when the client has been answered. Raises a `Refusal` that no other backend would mend."""
    call = settler.reserved.admitted.received.call
    outcome = ""  # nothing was sent
    answer: Answer | None = None
    try:
        settler.dispatch(attempt)
        outcome, settler.out, settler.sent_s = "failed", True, services.clock.monotonic_s()
        answer = await attempt.pool.open(call, attempt.model, priority=_priority(services, settler), flex=settler.buys_flex)
        if answer.status == 200 and call.stream and is_stream(answer):
            outcome = "served" if await relay_stream(services, settler, answer, client) else "cut"
        else:
            await relay_whole(services, settler, answer, client)
            outcome = "served"
    except NotServed as error:
        settler.out = False
        if error.final and not _refused_flex(settler, attempt, error.refusal):
            outcome = "refused"
            raise error.refusal from None
        return error.refusal
    except BackendError as error:
        settler.out = False
        return error
    except asyncio.CancelledError:
        outcome = outcome and "left"
        raise
    finally:
        if outcome in ("failed", "left"):
            settler.upstream_s += services.clock.monotonic_s() - settler.sent_s
        try:
            if answer is not None:
                answer.abort()  # before the slot is given on: an exchange under way at a server that is out still counts beside the slots
        finally:
            queue.leave(settler)
        if outcome:
            services.metrics.attempted(attempt.backend, outcome)
    return None


def _priority(services: "Services", settler: Settler) -> int | None:
    """Return the place in the engine that a slow request asks for; None for a fast one, which has the first without asking."""
    reserved = settler.reserved
    if reserved.lane is FAST:
        return None
    return priority_of(reserved.lane, reserved.admitted.terms, settler.queue_us, services.settings.lanes.slow.age_ms_max * 1000)
