"""From a caller to the flow and back: the frame that every model endpoint shares.

A client that leaves cancels its request, wherever that is; what it had used by then is charged by the flow itself.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from backends.provider import Endpoint
from gateway.errors import Internal, Refusal, Unavailable
from gateway.flow.admit import authenticate
from gateway.flow.run import run
from gateway.flow.settle import Settler
from gateway.flow.states import Received
from gateway.ids import uuid7
from gateway.wire import headers as names
from gateway.wire.caller import Caller, ClientGone, refuse, secret_of
from gateway.wire.openai import error_event, read_call

if TYPE_CHECKING:
    from gateway.services import Services

log = logging.getLogger("weir.serve")


async def serve(services: "Services", endpoint: Endpoint, caller: Caller) -> None:
    """Serve one call of a model endpoint."""
    clock, metrics = services.clock, services.metrics
    at_us, at_s = clock.now_us(), clock.monotonic_s()
    request_id = uuid7(at_us)
    headers = caller.headers
    shown_id = names.request_id(headers, request_id)
    model, principal, settler = "", None, None
    metrics.inflight += 1
    try:
        principal = await authenticate(services, secret_of(headers))  # before the body: a stranger's is not even read
        body = await caller.body(services.body_bytes_max, services.body_timeout_s)
        call, wish = read_call(body, endpoint, request_id)
        model = call.model if call.model in services.models else ""  # no client makes up names for series
        if session := headers.get(b"x-session-id"):
            call.session = session.decode("latin-1")
        if (traceparent := headers.get(b"traceparent")) and names.is_traceparent(traceparent):
            call.traceparent = traceparent.decode("latin-1")
        received = Received(principal=principal, shown_id=shown_id, call=call, wish=wish, at_us=at_us, at_s=at_s)
        settler = await caller.while_there(run(services, received, caller))
    except Refusal as refusal:
        metrics.refused(refusal.code or str(refusal.status))
        who = {} if principal is None else {"tenant": principal.tenant_id, "key": principal.key_id, "model": model}
        log.info("request %s refused: %d %s: %s", request_id, refusal.status, refusal.code, refusal.internal or refusal.public, extra=who)
        if caller.status is None:
            await refuse(caller, refusal, shown_id)
        elif not caller.ended:  # a stream that was begun while it waited
            await caller.end(error_event(refusal, shown_id))
    except ClientGone:
        caller.status = 499
    except asyncio.CancelledError:  # the gateway is stopping, and the request's grace is over; what it used is charged
        stopping = Unavailable("The gateway is stopping. Try again in a moment.", retry_after_s=2)
        if caller.status is None:
            await refuse(caller, stopping, shown_id)
        elif not caller.ended:
            await caller.end(error_event(stopping, shown_id))
    except Exception:  # the last line of defence: whatever it is, the client gets an answer in our shape and the log has all of it
        log.exception("request %s failed", request_id)
        if caller.status is None:
            await refuse(caller, Internal(f"The gateway failed. Tell your admin the request id {shown_id}."), shown_id)
        else:
            raise
    finally:
        metrics.inflight -= 1
        ended_s = clock.monotonic_s()
        metrics.requested(endpoint, model, caller.status or 499, ended_s - at_s)
        if settler is not None:
            _count(services, settler, endpoint, ended_s)


def _count(services: "Services", settler: Settler, endpoint: str, ended_s: float) -> None:
    received, metrics = settler.reserved.admitted.received, services.metrics
    if settler.first_us is not None:
        ended_s = settler.sent_s
        metrics.first_token(endpoint, received.call.model, (settler.first_us - received.at_us) / 1e6)
    own_s = ended_s - received.at_s - settler.queue_us / 1e6 - settler.upstream_s
    metrics.own_time(endpoint, max(0.0, own_s))
