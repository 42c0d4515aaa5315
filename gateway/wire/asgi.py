"""A caller by way of ASGI, without a framework: what reaches a hot route otherwise than straight from the connection, and any other ASGI server."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from typing import Any, TypeVar

from gateway.errors import BodyTimeout
from gateway.wire.caller import ClientGone, check_body, too_large
from gateway.wire.headers import by_name

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
T = TypeVar("T")


class AsgiCaller:
    """`caller.Caller` over the three callables of ASGI."""

    __slots__ = ("_kept", "_receive", "_send", "ended", "headers", "status")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers: Mapping[bytes, bytes] = by_name(scope["headers"])
        self.status: int | None = None
        self.ended = False
        self._receive = receive
        self._send = send
        self._kept: list[bytes] = []

    async def body(self, bytes_max: int, timeout_s: float) -> bytes:
        """Read the request's body (`Caller.body`)."""
        check_body(self.headers, bytes_max)
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            return body
        try:
            async with asyncio.timeout(timeout_s):
                return await self._more(body, bytes_max)
        except TimeoutError:
            raise BodyTimeout(f"The body did not arrive within {timeout_s:g} s.") from None

    async def while_there(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Await `work` beside a watch for the client's leaving (`Caller.while_there`)."""
        task = asyncio.current_task()
        assert task is not None
        gone = False

        async def watch() -> None:
            nonlocal gone
            while (await self._receive())["type"] != "http.disconnect":
                pass
            if not self.ended:  # a server says "disconnect" after the last byte too
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

    async def answer(self, status: int, written: bytes, body: bytes) -> None:
        """Send an answer that is known whole (`Caller.answer`)."""
        await self._begin(status, written, len(body))
        await self.end(body)

    async def head(self, status: int, written: bytes) -> None:
        """Begin the answer (`Caller.head`)."""
        await self._begin(status, written, None)

    async def _begin(self, status: int, written: bytes, length: int | None) -> None:
        if self.ended:
            return
        self.status = status
        headers = [(name, value) for name, _, value in (line.partition(b": ") for line in written.split(b"\r\n")[:-1])]
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    def put(self, data: bytes) -> bool:
        """Keep a part of the body for `drained`: ASGI sends nothing at once (`Caller.put`)."""
        self._kept.append(data)
        return False

    async def drained(self) -> None:
        """Send what was put (`Caller.drained`)."""
        data = b"".join(self._kept)
        self._kept.clear()
        if data and not self.ended:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def write(self, data: bytes) -> None:
        """Send a part of the body (`Caller.write`)."""
        self.put(data)
        await self.drained()

    async def end(self, data: bytes = b"") -> None:
        """Send the last part (`Caller.end`)."""
        if self.ended:
            return
        await self.drained()
        self.ended = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def _more(self, first: bytes, bytes_max: int) -> bytes:
        parts, size, more = [first], len(first), True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            if size > bytes_max:
                raise too_large(bytes_max)
            more = message.get("more_body", False)
        return b"".join(parts)
