"""One connection to a model server, and the answer that is arriving on it.

httptools calls back into `Connection`, which fills the `DirectAnswer` of the exchange under way. Only the answer waits: it has one
future at a time (for the head, for bytes, or for room to send), woken by whatever happens next. A connection has one timer that is
moved lazily: setting a deadline is an assignment, and a timer that fires too early sleeps on. So a limit costs no task and, in the
normal case, no timer call either.
"""

import asyncio
import math
import socket
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from backends.errors import BackendError, BadAnswer, Disconnected, TimedOut, Unreachable
from backends.transport.seam import Buffer, Origin, Take, Timeouts, whole

BUFFERED_BYTES_MAX = 256 * 1024  # reading pauses above it, until the answer's reader has taken everything
HEAD_BYTES_MAX = 64 * 1024  # the head; also trailers and chunk extensions between two pieces of body
JOINED_BYTES_MAX = 64 * 1024  # head and body go out in one write up to here
SLICE_BYTES = 256 * 1024  # a larger body is written so much at a time, never copied as a whole
NEVER = math.inf


class Keeper(Protocol):
    """Who gets a connection back: the pool."""

    def put(self, connection: "Connection") -> None:
        """Take a connection whose exchange has ended well."""
        ...

    def lost(self, connection: "Connection") -> None:
        """Hear that a connection is gone."""
        ...


class DirectAnswer:
    """The answer to one exchange (`seam.Answer`). Outlives its connection's part in it: bytes that came can still be read."""

    __slots__ = (
        "begun", "buffered", "connection", "ended", "error", "headed", "headers", "is_head",
        "limit_s", "phase", "pieces", "raised", "status", "take", "timeouts", "total_at", "unread_bytes", "waiter",
    )  # fmt: skip

    def __init__(self, connection: "Connection", timeouts: Timeouts, *, is_head: bool, total_at: float) -> None:
        self.status = self.buffered = self.unread_bytes = 0  # the last: bytes that have brought neither head nor body yet
        self.headers: list[tuple[bytes, bytes]] = []
        self.connection: Connection | None = connection
        self.timeouts, self.is_head, self.total_at = timeouts, is_head, total_at
        self.begun = self.headed = self.ended = False  # a byte has come; the head is whole; the body has ended properly
        self.error: BackendError | None = None
        self.pieces: list[bytes] = []
        self.waiter: asyncio.Future[None] | None = None
        self.take: Take | None = None  # who gets what arrives, at once
        self.raised: Exception | None = None  # by whoever took
        self.phase, self.limit_s = "first_byte", timeouts.first_byte_s

    async def read(self) -> bytes:
        """Return what has arrived since the last call (`seam.Answer.read`)."""
        pieces = self.pieces
        if self.total_at is not NEVER and self.connection is not None:
            self.connection.check_total(self)
        while not pieces:
            if self.ended:
                return b""
            if self.error is not None:
                raise self.error
            await self.wait("idle", self.timeouts.idle_s)
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.buffered = 0
        if self.connection is not None and self.connection.reading_paused:
            self.connection.resume_reading()
        return data

    async def whole(self, bytes_max: int) -> bytes | None:
        """Return the body to its end (`seam.Answer.whole`); most have come by now, at once with their heads."""
        pieces = self.pieces
        if self.ended and len(pieces) == 1 and self.buffered <= bytes_max:
            self.buffered = 0
            return pieces.pop()
        return await whole(self, bytes_max)

    async def pump(self, take: Take) -> bool:
        """Have what arrives handed over by the parser's own call, without waking anybody (`seam.Answer.pump`)."""
        while True:
            data = await self.read()
            if not data:
                return True
            if not take(data):
                return False
            if self.pieces or self.ended or self.error is not None:
                continue
            self.take = take
            try:
                await self.wait("idle", self.timeouts.idle_s)
            finally:
                stopped, self.take = self.take is None, None
            if self.raised is not None:
                raised, self.raised = self.raised, None
                raise raised
            if stopped:
                return False

    def deliver(self, take: Take) -> bool:
        """Hand over what has arrived; False: whoever waits is to look."""
        pieces = self.pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.buffered = 0
        try:
            if take(data):
                return True
        except Exception as error:  # noqa: BLE001 - it is the taker's own: raised where it waits
            self.raised = error
        self.take = None
        return False

    def abort(self) -> None:
        """Close the connection now, if the exchange is still under way (`seam.Answer.abort`)."""
        connection = self.connection
        if connection is not None:
            self.pieces.clear()
            connection.drop(Disconnected("given up by us"))

    async def wait(self, phase: str, limit_s: float) -> None:
        """Wait until anything happens on the connection, at most `limit_s`; running out of it is told by `error`."""
        connection = self.connection
        if connection is None:
            return
        loop = connection.loop
        at = loop.time() + limit_s
        if at > self.total_at:
            phase, limit_s, at = "total", self.timeouts.total_s or 0.0, self.total_at
        self.phase, self.limit_s = phase, limit_s
        waiter = self.waiter = loop.create_future()
        connection.due(at)
        try:
            await waiter
        finally:
            self.waiter = None
            if self.connection is connection:
                connection.deadline = NEVER

    def is_decided(self) -> bool:
        """Whether sending more of the request can change nothing."""
        return self.headed or self.error is not None

    def wake(self) -> None:
        """Let whoever waits look again."""
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class Connection(asyncio.Protocol):
    """One socket. `answer` is the exchange under way; None while idle."""

    def __init__(self, loop: asyncio.AbstractEventLoop, origin: Origin, keeper: Keeper) -> None:
        self.loop = loop
        self.origin = origin
        self.keeper = keeper
        self.transport: asyncio.Transport
        self.answer: DirectAnswer | None = None
        self.born_s = loop.time()
        self.idle_until_s = 0.0
        self.deadline = NEVER
        self.used = self.lost = self.writing_paused = self.reading_paused = self.sending = False
        self.keep = self.interim = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER
        self._parser = HttpResponseParser(self)

    # -- exchange ---------------------------------------------------------------------------------------------------------

    def begin(self, answer: DirectAnswer, head: bytes, body: tuple[Buffer, ...], length: int) -> bool:
        """Write a request; False: its body is large, and `send_slices` is to write it. Raises `Unreachable`."""
        if self.lost:
            answer.connection = None
            raise Unreachable(f"{self.origin.host}:{self.origin.port} closed the connection at once")
        self.answer, self.keep = answer, False
        if length > JOINED_BYTES_MAX:
            self.transport.write(head)
            return False
        self.transport.write(b"".join((head, *body)) if body else head)
        return True

    async def send_slices(self, answer: DirectAnswer, body: tuple[Buffer, ...]) -> None:
        """Write a large body as fast as the socket takes it; an answer that comes first ends the sending (RFC 9112, 9.5)."""
        self.sending = True  # and stays so when we stop early: the connection is then good for nothing else
        for part in body:
            with memoryview(part).cast("B") as view:
                for start in range(0, len(view), SLICE_BYTES):
                    if answer.is_decided():
                        return
                    self.transport.write(view[start : start + SLICE_BYTES])
                    while self.writing_paused and not answer.is_decided():
                        await answer.wait("first_byte", answer.timeouts.first_byte_s)
        self.sending = False

    def drop(self, error: BackendError) -> None:
        """End the exchange under way with an error, and close the socket without another word."""
        answer = self.answer
        if answer is not None:
            self._detach(answer)
            if not answer.ended and answer.error is None:
                answer.error = error
            answer.wake()
        self.transport.abort()

    def check_total(self, answer: DirectAnswer) -> None:
        """End the exchange if its time is over, though bytes keep coming. Raises `TimedOut`."""
        if self.loop.time() >= answer.total_at:
            error = TimedOut("total", answer.timeouts.total_s or 0.0)
            answer.pieces.clear()
            self.drop(error)
            raise error

    def resume_reading(self) -> None:
        """Let bytes come again."""
        self.reading_paused = False
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _detach(self, answer: DirectAnswer) -> None:
        self.answer = answer.connection = None

    def _finish(self, answer: DirectAnswer) -> None:
        """The answer has ended: keep the connection only if nothing is left over in either direction."""
        self._detach(answer)
        if self.sending:
            self.transport.abort()
        elif self.keep:
            if self.reading_paused:
                self.resume_reading()
            self.keeper.put(self)
        else:
            self.transport.close()

    # -- time -------------------------------------------------------------------------------------------------------------

    def due(self, at: float) -> None:
        """Set the instant (loop time) at which this connection's wait, or its idleness, is over."""
        self.deadline = at
        if at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = self.loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, NEVER
        if self.loop.time() < self.deadline - 0.001:  # moved meanwhile; a loop's clock may count in milliseconds
            if self.deadline is not NEVER:
                self.due(self.deadline)
        elif self.answer is None:
            self.transport.close()
        else:
            self.drop(TimedOut(self.answer.phase, self.answer.limit_s))

    # -- asyncio.Protocol -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; have the kernel notice a peer that vanished during a long wait for a first token."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports are none by inheritance
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say what the end of the connection means for the exchange under way."""
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.keeper.lost(self)
        answer = self.answer
        if answer is None:
            return
        self._detach(answer)
        where = f"{self.origin.host}:{self.origin.port}"
        if answer.headed and exc is None and not _is_framed(answer.headers):
            answer.ended = True  # RFC 9112, 6.3: neither length nor chunks, so the close is the end
        elif answer.begun:
            answer.error = Disconnected(f"{where} broke off its answer: {exc or 'closed'}")
        else:
            answer.error = Unreachable(f"{where} closed without an answer: {exc or 'closed'}")
        answer.wake()

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        self.writing_paused = True

    def resume_writing(self) -> None:
        """It has room again."""
        self.writing_paused = False
        if self.answer is not None:
            self.answer.wake()

    def data_received(self, data: bytes) -> None:
        """Parse what came, then wake the reader once for all of it."""
        answer = self.answer
        if answer is None:
            self.transport.abort()  # bytes that nobody asked for: the next answer on this connection could not be trusted
            return
        answer.begun = True
        before = answer.buffered
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self.keep = False
            if not answer.ended:
                self.drop(BadAnswer(f"{self.origin.host}:{self.origin.port} sent no HTTP: {error}, in {len(data)} bytes"))
                return
        if answer.buffered == before and not self._bounded(answer, data):
            return
        if answer.take is not None and answer.pieces and answer.deliver(answer.take) and not answer.ended and self.answer is answer:
            at = self.loop.time() + answer.timeouts.idle_s  # the server has its time anew for what comes next; over all, no more than there is
            if at < answer.total_at:
                self.deadline = at
            else:
                answer.phase, answer.limit_s, self.deadline = "total", answer.timeouts.total_s or 0.0, answer.total_at
            return
        if answer.ended:
            self._finish(answer)
        elif answer.buffered > BUFFERED_BYTES_MAX and not self.reading_paused:
            self.reading_paused = True
            self.transport.pause_reading()
        if answer.headed:
            answer.wake()

    def _bounded(self, answer: DirectAnswer, data: bytes) -> bool:
        """Count bytes that are not body; drop a server that sends them without end."""
        answer.unread_bytes += len(data)
        if answer.unread_bytes <= HEAD_BYTES_MAX or (answer.headed and answer.ended):
            return True
        self.drop(BadAnswer(f"{self.origin.host}:{self.origin.port} sent a head, trailers or chunk extensions over {HEAD_BYTES_MAX} bytes"))
        return False

    # -- httptools --------------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A further message after the answer is surplus: refuse it, which makes the connection close."""
        if self.answer is None or self.answer.ended:
            raise ValueError("bytes after the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header of the head; trailers carry nothing that we use."""
        answer = self.answer
        if answer is not None and not answer.headed:
            answer.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole, unless it was an interim one (1xx)."""
        answer, status = self.answer, self._parser.get_status_code()
        if answer is None:
            return
        if status < 200:
            if status == 101 or status < 100:
                raise ValueError(f"unasked status {status}")
            self.interim = True
            answer.headers.clear()
            return
        answer.status, answer.headed = status, True
        if answer.is_head:
            answer.ended = True

    def on_body(self, data: bytes) -> None:
        """Keep a piece of the body."""
        answer = self.answer
        if answer is not None and not answer.ended:
            answer.pieces.append(data)
            answer.buffered += len(data)
            answer.unread_bytes = 0

    def on_message_complete(self) -> None:
        """The body has ended, as its own framing says."""
        if self.interim:
            self.interim = False
        elif self.answer is not None:
            self.keep = not self.answer.is_head and self._parser.should_keep_alive()
            self.answer.ended = True


def _is_framed(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)
