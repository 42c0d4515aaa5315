"""uvicorn's protocol on httptools, with the limits that it lacks.

uvicorn waits for ever for a request's head, however long, and for a client to take its answer. Here a connection that has not sent a
whole head in time is closed, a head past 64 KB is refused, and a connection whose client takes nothing of an answer is ended by the
kernel (TCP_USER_TIMEOUT: a timer of ours would cost each chunk more than the rest of its way), which cancels the request like any
client that leaves. So a client that drips or stalls holds a slot for seconds. The body's limit is the endpoint's (`Caller.body`).
"""

import asyncio
import contextlib
import math
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.app import Gateway
from gateway.errors import Unavailable
from gateway.server.hot import HotCaller
from gateway.wire.asgi import AsgiCaller, Receive, Scope, Send
from gateway.wire.caller import refuse
from gateway.wire.headers import by_name, lines

HEAD_BYTES_MAX = 64 * 1024
NEVER = math.inf
LAST_WORD_S = 0.5  # for the answer to a request that is ended by the stop
TOO_LONG = f"The request's head is over {HEAD_BYTES_MAX} bytes, which is the most that is accepted."


class Guarded(HttpToolsProtocol):
    """One connection. Closed when a request's head is late or too long; a hot route's request is handed to a `HotCaller`."""

    app_behind: Gateway  # set by `build_server`, as the limits are: uvicorn chooses protocols by class
    header_timeout_s: float
    write_timeout_s: float
    cycle: Any  # uvicorn's, or a `HotCaller`; with requests in a pipeline the one that came last
    _running: HotCaller | None = None
    _defaults: list[tuple[bytes, bytes]] | None = None
    _default_lines = b""
    _idle_until_s = NEVER  # when a connection without a request is closed
    _idle: asyncio.TimerHandle | None = None  # moved lazily, as most connections get their next request long before
    _late: asyncio.TimerHandle | None = None
    _in_head = False
    _head_bytes = 0  # of a head that is not whole yet, without the piece that is being parsed
    _piece_bytes = 0
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
        self._piece_bytes = len(data)
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._too_long = True
                self.send_400_response("")
            elif self._late is None:
                self._wait_for_head()

    def on_message_begin(self) -> None:
        """Begin a head. uvicorn's own beginning, a scope for ASGI, is put off until the request is known to need one."""
        self._in_head = True
        self._head_bytes = 0
        self._idle_until_s = NEVER
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header of the head. Trailers are not kept: nobody reads them, and they may neither fill the memory nor change a request (RFC 9110, 6.5.1)."""
        if self._in_head:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """End a head; one that came at once is measured here."""
        self._in_head = False
        self._idle_until_s = NEVER  # also where the head had begun before the answer to the request before it was ended
        if self._late is not None:
            self._late.cancel()
            self._late = None
        if self._head_bytes + self._piece_bytes > HEAD_BYTES_MAX < self._measured():  # some of what came may be the body
            self._too_long = True
            raise ValueError(TOO_LONG)  # which makes the parser stop, and uvicorn call `send_400_response`
        named = by_name(self.headers)
        expects = b"expect" in named and b"100-continue" in named[b"expect"].lower()
        if self._begin_hot(named, expects):
            return
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expects
        self.scope["headers"] = headers
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hand a piece of the body to whoever has the request."""
        if type(self.cycle) is HotCaller:
            self.cycle.took(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Tell whoever has the request that its body has ended."""
        if type(self.cycle) is HotCaller:
            self.cycle.whole()
        else:
            super().on_message_complete()

    def default_lines(self) -> bytes:
        """Return the lines of uvicorn's own headers, the date among them, which it writes anew every second."""
        defaults = self.server_state.default_headers
        if defaults is not self._defaults:
            self._defaults, self._default_lines = defaults, lines(defaults)
        return self._default_lines

    def ended(self, caller: HotCaller) -> None:
        """Let go of a request's task."""
        if caller.task is not None:
            self.tasks.discard(caller.task)

    def answered(self) -> None:
        """Begin the next request of the pipeline, or wait for one for as long as connections are kept."""
        self._running = None
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_until_s = self.loop.time() + self.timeout_keep_alive
        if self._idle is None:
            self._idle = self.loop.call_at(self._idle_until_s, self._look_idle)

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
        """Stop waiting for anything, and tell the request under way."""
        for timer in (self._late, self._idle):
            if timer is not None:
                timer.cancel()
        self._late = self._idle = None
        if self._running is not None and self._running is not self.cycle:  # uvicorn tells the last request of a pipeline only
            self._running.lost()
        super().connection_lost(exc)
        self._running = self.cycle = None

    def _measured(self) -> int:
        return len(self.url) + sum([len(name) + len(value) for name, value in self.headers])

    def _wait_for_head(self) -> None:
        self._late = self.loop.call_later(self.header_timeout_s, self.transport.close)

    def _look_idle(self) -> None:
        self._idle = None
        if self._idle_until_s is NEVER:
            return
        if self.loop.time() < self._idle_until_s - 0.001:  # a loop's clock may count in milliseconds
            self._idle = self.loop.call_at(self._idle_until_s, self._look_idle)
        elif not self.transport.is_closing():
            self.transport.close()

    def _begin_hot(self, headers: dict[bytes, bytes], expects_continue: bool) -> bool:
        """Take the short way with a plain request of a hot route; False: it is uvicorn's."""
        parser = self.parser
        found = self.app_behind.short.get(self.url)
        if found is None or parser.get_method() != found[0] or parser.get_http_version() != "1.1" or parser.should_upgrade():
            return False
        before, caller = self.cycle, HotCaller(self, headers, keep_alive=parser.should_keep_alive(), expects_continue=expects_continue)
        self.cycle = caller
        if before is None or before.response_complete:
            self._start_asgi_task(caller, found[1])
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((caller, found[1]))  # type: ignore[arg-type]  # uvicorn hands both to `_start_asgi_task`, as they are
        return True

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if type(cycle) is not HotCaller:
            super()._start_asgi_task(cycle, _ending_well(cycle, app))
            return
        self._running = cycle
        task = cycle.task = self.loop.create_task(cycle.run(app, self.app_behind.services))
        self.tasks.add(task)


def _ending_well(cycle: Any, app: Any) -> Any:
    """Wrap the application for one request: one that the stop cancels, and that does not answer for itself, ends without a traceback."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            if not cycle.response_started:
                with contextlib.suppress(TimeoutError):  # a client that takes nothing hears nothing
                    async with asyncio.timeout(LAST_WORD_S):
                        await refuse(AsgiCaller(scope, receive, send), Unavailable("The gateway is stopping. Try again in a moment.", retry_after_s=2), "")
            if not cycle.response_complete:
                cycle.transport.abort()
                cycle.response_started = cycle.response_complete = True  # or uvicorn logs an error over what was meant

    return serve
