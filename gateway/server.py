"""The HTTP server: uvicorn on httptools and uvloop, with the limits that it lacks.

uvicorn waits for ever for a request's head, however long, and for a client to take its answer. Here a connection that has not sent a
whole head in time is closed, a head past 64 KB is refused, and a connection whose client takes nothing of an answer is ended by the
kernel (TCP_USER_TIMEOUT: a timer of ours would cost each chunk more than the rest of its way), which cancels the request like any
client that leaves. So a client that drips or stalls holds a slot for seconds. The body's limit is the endpoint's (`wire/asgi.py`).

A stop gives requests under way their grace, then ends them with an answer, and waits until they have: the books close after them.
"""

import asyncio
import contextlib
import gc
import socket
from collections.abc import Callable
from typing import Any, Protocol, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.app import Gateway
from gateway.config import Settings
from gateway.errors import Unavailable
from gateway.vitals import Vitals
from gateway.wire.asgi import AsgiClient, Receive, Scope, Send, refuse

BACKLOG = 4096
GC_THRESHOLDS = (50_000, 20, 50)
HEAD_BYTES_MAX = 64 * 1024
LAST_WORD_S = 0.5  # for the answer to a request that is ended by the stop
ENDING_S = 2.0  # for all of them to end
TOO_LONG = f"The request's head is over {HEAD_BYTES_MAX} bytes, which is the most that is accepted."


def settle_heap() -> None:
    """Take what was loaded at start out of the garbage collector's sight, and let it look less often.

    Python's default walks the whole heap of imported code every few thousand requests: 40 us of CPU each, measured. What a request
    leaves behind is freed by reference counts; the few cycles (exceptions, cancelled tasks) are still found, later.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


class Entrance(Protocol):
    """Another way in than a listening socket of this process's own."""

    def open(self, make: Callable[[], asyncio.Protocol]) -> None:
        """Take connections from now on."""

    def close(self) -> None:
        """Take no more."""

    async def wait_closed(self) -> None:
        """Wait until none is taken any more."""


class Server(uvicorn.Server):
    """uvicorn's server, which says when it listens, and whose stop leaves no request behind. `entrance`: set before it is served."""

    entrance: Entrance | None = None

    def __init__(self, config: uvicorn.Config, vitals: Vitals, announce: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._vitals = vitals
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then say so."""
        await super().startup(sockets)
        if self.started and self.entrance is not None:
            self.entrance.open(self._protocol)
            self.servers.append(cast(Any, self.entrance))
        if self.started and self._announce is not None:
            await asyncio.to_thread(self._announce)

    def _protocol(self) -> asyncio.Protocol:
        """Make the protocol of one connection, as uvicorn does."""
        made: asyncio.Protocol = cast(Any, self.config.http_protocol_class)(config=self.config, server_state=self.server_state, app_state={}, _loop=None)
        return made

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests under way end until the deadline; end what is left of them, also when a second signal cut the wait short."""
        self._vitals.stop()
        await super().shutdown(sockets)
        tasks = set(self.server_state.tasks)
        for task in tasks:
            if not task.cancelling():  # one that is being ended already must not be disturbed while it says so
                task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=ENDING_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class Guarded(HttpToolsProtocol):
    """uvicorn's protocol, which closes a connection whose request's head is late or too long."""

    header_timeout_s: float  # set by `build_server`: uvicorn chooses protocols by class
    write_timeout_s: float
    _late: asyncio.TimerHandle | None = None
    _in_head = False
    _head_bytes = 0  # of a head that is not whole yet
    _too_long = False

    def connection_made(self, transport: Any) -> None:
        """Have the kernel watch over the writing, and wait for a head."""
        super().connection_made(transport)
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self.write_timeout_s * 1000))
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Parse, and see that a head ends in time and within its bound."""
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._too_long = True
                self.send_400_response("")
            elif self._late is None:
                self._wait_for_head()

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """End a head; one that came at once is measured here."""
        self._in_head = False
        if self._late is not None:
            self._late.cancel()
            self._late = None
        if len(self.url) + sum([len(name) + len(value) for name, value in self.headers]) > HEAD_BYTES_MAX:  # it came at once
            self._too_long = True
            raise ValueError(TOO_LONG)  # which makes the parser stop, and uvicorn call `send_400_response`
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, or one whose head is too long, and close."""
        if not self._too_long:
            super().send_400_response(msg)
            return
        said = TOO_LONG.encode()
        head = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
        self.transport.write(head + b"content-length: %d\r\n\r\n" % len(said) + said)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting for a head."""
        if self._late is not None:
            self._late.cancel()
            self._late = None
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._late = self.loop.call_later(self.header_timeout_s, self.transport.close)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        super()._start_asgi_task(cycle, _ending_well(cycle, app))


def build_server(app: Gateway, settings: Settings, announce: Callable[[], None] | None = None) -> Server:
    """Make the server of one process. `announce` is called, on a thread, once it listens."""
    limits = settings.server

    config = uvicorn.Config(
        app,
        host=limits.host,
        port=limits.port,
        http=type("Guarded", (Guarded,), {"header_timeout_s": limits.header_timeout_s, "write_timeout_s": limits.write_timeout_s}),
        loop="uvloop",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        date_header=True,
        timeout_keep_alive=limits.keep_alive_s,
        timeout_graceful_shutdown=limits.shutdown_grace_s,
        backlog=BACKLOG,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
    )
    return Server(config, app.services.vitals, announce)


def _ending_well(cycle: Any, app: Any) -> Any:
    """Wrap the application for one request: one that the stop cancels, and that does not answer for itself, ends without a traceback."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            if not cycle.response_started:
                with contextlib.suppress(TimeoutError):  # a client that takes nothing hears nothing
                    async with asyncio.timeout(LAST_WORD_S):
                        await refuse(AsgiClient(send), Unavailable("The gateway is stopping. Try again in a moment.", retry_after_s=2), "")
            if not cycle.response_complete:
                cycle.transport.abort()
                cycle.response_started = cycle.response_complete = True  # or uvicorn logs an error over what was meant

    return serve
