"""The short way: a hot route's request and its answer straight on the connection.

Takes the place of uvicorn's cycle for one request, so uvicorn goes on owning the connection: its parser, pipelining, back-pressure and shutdown. What
uvicorn asks of a cycle is here under uvicorn's names: `response_complete`, `keep_alive`, `more_body`, `disconnected`, and `message_event.set()`
for "something has happened".
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.errors import BodyTimeout
from gateway.wire.caller import ClientGone, check_body, too_large

S = TypeVar("S")
T = TypeVar("T")

PIECE_BYTES = 4096

log = logging.getLogger("weir.server")


class Door(Protocol):
    """The connection, as far as one request needs it."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    flow: FlowControl

    def default_lines(self) -> bytes:
        """Return the header lines that every answer has."""
        ...

    def ended(self, caller: "HotCaller") -> None:
        """Hear that nothing more is done for a request."""
        ...

    def answered(self) -> None:
        """Hear that the answer is written to its end: the next request may begin."""
        ...


class HotCaller:
    """`gateway.wire.caller.Caller` on a connection of ours. `task` runs it, and is cancelled when the client leaves."""

    __slots__ = (
        "_bytes", "_bytes_max", "_door", "_expects", "_gone", "_head", "_parts", "_there", "_waiter",
        "disconnected", "ended", "headers", "keep_alive", "more_body", "response_complete", "status", "task",
    )  # fmt: skip

    def __init__(self, door: Door, headers: Mapping[bytes, bytes], *, keep_alive: bool, expects_continue: bool) -> None:
        self.headers = headers
        self.keep_alive = keep_alive
        self.status: int | None = None
        self.ended = self.response_complete = self.disconnected = False
        self.more_body = True
        self.task: asyncio.Task[None] | None = None
        self._door = door
        self._expects = expects_continue
        self._parts: list[bytes | bytearray] = []
        self._bytes = self._bytes_max = 0
        self._waiter: asyncio.Future[None] | None = None
        self._there = self._gone = False
        self._head = b""

    async def run(self, endpoint: Callable[[S, "HotCaller"], Awaitable[None]], services: S) -> None:
        """Have a request served. However that ends, the client has an answer's end, or its connection is closed."""
        try:
            await endpoint(services, self)
        except Exception:  # the endpoint answers for itself where it can; here it has begun an answer and cannot end it
            log.exception("a request ended in the middle of its answer")
        finally:
            self._door.ended(self)
            self.task = None
            self._parts = []
            if not self.response_complete:
                self.response_complete = True
                self._door.transport.abort()

    # -- the request ------------------------------------------------------------------------------------------------------

    async def body(self, bytes_max: int, timeout_s: float) -> bytes:
        """Read the request's body (`Caller.body`)."""
        check_body(self.headers, bytes_max)
        if self.more_body and not self.disconnected:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._rest(bytes_max)
            except TimeoutError:
                raise BodyTimeout(f"The body did not arrive within {timeout_s:g} s.") from None
        self._door.flow.resume_reading()  # or nobody would hear the client leave: a body may have come whole before anybody read it
        if self.disconnected:
            raise ClientGone
        if self._bytes > bytes_max:
            raise too_large(bytes_max)
        parts, self._parts = self._parts, []
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    async def while_there(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Await `work` until its end or the client's leaving (`Caller.while_there`)."""
        task = self.task
        assert task is not None
        if self.disconnected:
            work.close()
            return None
        self._there = True
        try:
            return await work
        except asyncio.CancelledError:
            if not self._gone:
                raise
            task.uncancel()
            return None
        finally:
            self._there = False

    def took(self, data: bytes) -> None:
        """Keep a piece of the body; while nobody reads it, only so much of it is taken from the client."""
        if self.response_complete:
            return
        if self._parts and len(data) < PIECE_BYTES:  # a body of tiny chunks must not become as many objects
            if type(self._parts[-1]) is bytearray:
                self._parts[-1] += data
            else:
                self._parts.append(bytearray(data))
        else:
            self._parts.append(data)
        self._bytes += len(data)
        if self._waiter is None:
            if self._bytes > HIGH_WATER_LIMIT:
                self._door.flow.pause_reading()
        elif self._bytes > self._bytes_max:
            self._wake()

    def whole(self) -> None:
        """Hear that the body has ended."""
        self.more_body = False
        self._wake()

    def lost(self) -> None:
        """Hear that the connection is gone."""
        self.disconnected = True
        self._wake()
        if self._there and not self.ended and self.task is not None:
            self._gone = True
            self.task.cancel()

    async def _rest(self, bytes_max: int) -> None:
        door, self._bytes_max = self._door, bytes_max
        if self._expects and not door.transport.is_closing():
            self._expects = False
            door.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        door.flow.resume_reading()
        while self.more_body and not self.disconnected and self._bytes <= bytes_max:
            self._waiter = door.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- the answer -------------------------------------------------------------------------------------------------------

    async def answer(self, status: int, written: bytes, body: bytes) -> None:
        """Send an answer that is known whole (`Caller.answer`)."""
        if not self.ended:
            self.ended = True
            head = self._lines(status, written)
            if self._door.flow.write_paused:
                await self.drained()
            self._send_last(b"".join((head, b"content-length: %d\r\n\r\n" % len(body), body)))

    async def head(self, status: int, written: bytes) -> None:
        """Begin the answer (`Caller.head`)."""
        if not self.ended:
            self._head = self._lines(status, written) + b"transfer-encoding: chunked\r\n\r\n"
            await self.drained()
            self.put(b"")

    def _lines(self, status: int, written: bytes) -> bytes:
        self.status = status
        return STATUS_LINE[status] + self._door.default_lines() + written + (b"" if self.keep_alive else b"connection: close\r\n")

    def put(self, data: bytes) -> bool:
        """Send a part of the body now (`Caller.put`). Nothing is waited for with a client that is gone."""
        door = self._door
        if self.disconnected or self.ended or door.transport.is_closing():
            return True
        if data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head:
            data, self._head = self._head + data, b""
        if data:
            door.transport.write(data)
        return not door.flow.write_paused

    async def drained(self) -> None:
        """Wait until the client's socket can take more (`Caller.drained`)."""
        flow = self._door.flow
        if flow.write_paused and not self.disconnected:
            await flow.drain()

    async def write(self, data: bytes) -> None:
        """Send a part of the body (`Caller.write`)."""
        if not self.put(data):
            await self.drained()

    async def end(self, data: bytes = b"") -> None:
        """Send the last part (`Caller.end`)."""
        if not self.ended:
            self.ended = True
            head, self._head = self._head, b""
            if self._door.flow.write_paused:
                await self.drained()
            self._send_last(head + (b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"))

    def _send_last(self, data: bytes) -> None:
        """Write what ends the answer, and hand the connection on."""
        door = self._door
        if self.disconnected or door.transport.is_closing():
            return
        door.transport.write(data)
        self.response_complete = True
        if not self.keep_alive:
            door.transport.close()
        door.answered()

    # -- for uvicorn ------------------------------------------------------------------------------------------------------

    @property
    def message_event(self) -> "HotCaller":
        """Who is told that something has happened."""
        return self

    def set(self) -> None:
        """Hear that something has happened."""
        if self.disconnected:
            self.lost()
