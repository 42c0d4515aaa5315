"""From an ASGI connection to the flow and back: the frame that every model endpoint shares.

A client that leaves cancels its request, wherever that is; what it had used by then is charged by the flow itself.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from backends.provider import Endpoint
from gateway.errors import Internal, Refusal, Unavailable
from gateway.flow.admit import authenticate
from gateway.flow.run import run
from gateway.flow.settle import Settler
from gateway.flow.states import Received
from gateway.ids import uuid7
from gateway.wire import headers as names
from gateway.wire.asgi import AsgiClient, ClientGone, Receive, Scope, Send, read_body, refuse, secret_of
from gateway.wire.openai import error_event, read_call

if TYPE_CHECKING:
    from gateway.services import Services

T = TypeVar("T")

log = logging.getLogger("weir.serve")


async def serve(services: "Services", endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one call of a model endpoint."""
    clock, metrics = services.clock, services.metrics
    at_us, at_s = clock.now_us(), clock.monotonic_s()
    request_id = uuid7(at_us)
    headers = scope["headers"]
    shown_id = names.request_id(headers, request_id)
    client = AsgiClient(send)
    model = ""
    metrics.inflight += 1
    try:
        principal = await authenticate(services, secret_of(headers))  # before the body: a stranger's is not even read
        body = await read_body(scope, receive, bytes_max=services.settings.server.body_bytes_max, timeout_s=services.settings.server.body_timeout_s)
        call, wish = read_call(body, endpoint, request_id)
        session, traceparent = names.find(headers, b"x-session-id"), names.find(headers, b"traceparent")
        call.session = session.decode("latin-1") if session else None
        call.traceparent = traceparent.decode("latin-1") if traceparent and names.is_traceparent(traceparent) else None
        received = Received(principal=principal, shown_id=shown_id, call=call, wish=wish, at_us=at_us, at_s=at_s)
        settler = await _until_gone(run(services, received, client), client, receive)
        model = call.model
        if settler is not None:
            _count(services, settler, endpoint, at_s)
    except Refusal as refusal:
        metrics.refused(refusal.code or str(refusal.status))
        log.info("request %s refused: %d %s: %s", request_id, refusal.status, refusal.code, refusal.internal or refusal.public)
        if client.status is None:
            await refuse(client, refusal, shown_id)
        elif not client.ended:  # a stream that was begun while it waited
            await client.end(error_event(refusal, shown_id))
    except ClientGone:
        client.status = 499
    except asyncio.CancelledError:  # the gateway is stopping, and the request's grace is over; what it used is charged
        stopping = Unavailable("The gateway is stopping. Try again in a moment.", retry_after_s=2)
        if client.status is None:
            await refuse(client, stopping, shown_id)
        elif not client.ended:
            await client.end(error_event(stopping, shown_id))
    except Exception:  # the last line of defence: whatever it is, the client gets an answer in our shape and the log has all of it
        log.exception("request %s failed", request_id)
        if client.status is None:
            await refuse(client, Internal(f"The gateway failed. Tell your admin the request id {shown_id}."), shown_id)
        else:
            raise
    finally:
        metrics.inflight -= 1
        metrics.requested(endpoint, model, client.status or 499, clock.monotonic_s() - at_s)


async def _until_gone(work: Coroutine[Any, Any, T], client: AsgiClient, receive: Receive) -> T | None:
    """Await `work`; when the client leaves first, cancel it. None: the client left."""
    task = asyncio.current_task()
    assert task is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        if not client.ended:  # a server says "disconnect" after the last byte too
            gone = True
            task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if not gone:
            raise
        task.uncancel()
        return None
    finally:
        watcher.cancel()


def _count(services: "Services", settler: Settler, endpoint: str, at_s: float) -> None:
    received, metrics = settler.reserved.admitted.received, services.metrics
    queue_s = settler.queue_us / 1e6
    if settler.first_us is None:
        own_s = services.clock.monotonic_s() - at_s - queue_s - settler.upstream_s
    else:
        metrics.first_token(endpoint, received.call.model, (settler.first_us - received.at_us) / 1e6)
        own_s = settler.sent_s - at_s - queue_s - settler.upstream_s
    metrics.own_time(endpoint, max(0.0, own_s))
