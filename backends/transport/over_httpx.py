"""The same seam over httpx: for hosts that reach their vendors through a proxy (HTTPS_PROXY, NO_PROXY), and for whoever prefers it.

Some ten times dearer than `direct.py`. Three things differ, because httpx does not tell: a head broken off half-way counts as no answer
(`Unreachable`), an early answer is noticed only once the server stops taking the request, and bytes after an answer are dropped with
their connection, unnoticed.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Any

import httpx

from backends.errors import BadAnswer, Disconnected, TimedOut, Unreachable
from backends.transport.request import body_bytes, host_of, write_head
from backends.transport.seam import Answer, Exchange

CHUNK_BYTES = 256 * 1024
_SILENT = "without sending a response"  # how httpcore tells a connection that closed before any answer
_BROKEN = "without sending complete message body"


class HttpxAnswer(Answer):
    """An answer that httpx reads (`seam.Answer`)."""

    def __init__(self, response: httpx.Response, exchange: Exchange, total_at: float | None, closing: set[asyncio.Task[None]]) -> None:
        self.status = response.status_code
        self.headers = [(name.lower(), value) for name, value in response.headers.raw]
        self._response = response
        self._bytes = response.aiter_raw()
        self._timeouts = exchange.timeouts
        self._total_at = total_at
        self._closing = closing
        self._done = False

    async def read(self) -> bytes:
        """Return the bytes that have arrived (`seam.Answer.read`)."""
        if self._done:
            return b""
        loop = asyncio.get_running_loop()
        until, phase, limit_s = loop.time() + self._timeouts.idle_s, "idle", self._timeouts.idle_s
        if self._total_at is not None and self._total_at < until:
            until, phase, limit_s = self._total_at, "total", self._timeouts.total_s or 0.0
        if until <= loop.time():
            self.abort()
            raise TimedOut(phase, limit_s)
        try:
            async with asyncio.timeout_at(until):
                return await anext(self._bytes)
        except StopAsyncIteration:
            self._done = True
            return b""
        except TimeoutError as error:
            self.abort()
            raise TimedOut(phase, limit_s) from error
        except httpx.RemoteProtocolError as error:
            self.abort()
            if _BROKEN in str(error) or _SILENT in str(error):
                raise Disconnected(f"{self._response.url.host}: {error}") from error
            raise BadAnswer(f"{self._response.url.host}: {_reason(error)}") from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            self.abort()
            raise Disconnected(f"{self._response.url.host}: {error!r}") from error

    def abort(self) -> None:
        """Close the connection; httpx can do so only in a task, which starts at once (`seam.Answer.abort`)."""
        if not self._done:
            self._done = True
            task = asyncio.get_running_loop().create_task(self._response.aclose())
            self._closing.add(task)  # the loop itself keeps no reference
            task.add_done_callback(self._closing.discard)


class HttpxTransport:
    """`seam.Transport` over `httpx.AsyncClient`. One per process and event loop. `tls`: the context for https origins."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, connections_max: int = 4096, idle_per_origin_max: int = 256, idle_s: float = 30.0) -> None:
        self._tls = tls
        self._limits = httpx.Limits(max_connections=connections_max, max_keepalive_connections=idle_per_origin_max, keepalive_expiry=idle_s)
        self._pooled: httpx.AsyncClient | None = None
        self._fresh: httpx.AsyncClient | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def open(self, exchange: Exchange) -> Answer:
        """Send a request and return the answer's head (`seam.Transport.open`). Raises ValueError for a head that HTTP does not allow."""
        length = body_bytes(exchange.body)
        write_head(exchange, length)  # for its checks: the same refusals on both transports
        if self._pooled is None:
            self._pooled = self._client(self._limits)
        total_s = exchange.timeouts.total_s
        total_at = None if total_s is None else asyncio.get_running_loop().time() + total_s
        opened: list[str] = []
        try:
            async with asyncio.timeout_at(total_at):
                try:
                    response = await self._send(self._pooled, exchange, length, opened)
                except Unreachable:
                    if opened:
                        raise
                    if self._fresh is None:
                        self._fresh = self._client(httpx.Limits(max_keepalive_connections=0))
                    response = await self._send(self._fresh, exchange, length, opened)
        except TimeoutError as error:
            raise TimedOut("total", total_s or 0.0) from error
        return HttpxAnswer(response, exchange, total_at, self._closing)

    async def aclose(self) -> None:
        """Close every idle connection."""
        for client in (self._pooled, self._fresh):
            if client is not None:
                await client.aclose()
        await asyncio.gather(*self._closing)

    def _client(self, limits: httpx.Limits) -> httpx.AsyncClient:
        return httpx.AsyncClient(verify=self._tls if self._tls is not None else True, limits=limits, trust_env=True, follow_redirects=False)

    async def _send(self, client: httpx.AsyncClient, exchange: Exchange, length: int, opened: list[str]) -> httpx.Response:
        async def trace(event: str, _: dict[str, Any]) -> None:
            if event == "connection.connect_tcp.started":
                opened.append(event)

        timeouts, origin = exchange.timeouts, exchange.origin
        limits: dict[str, float | None] = {
            "connect": timeouts.connect_s, "pool": timeouts.connect_s, "read": timeouts.first_byte_s, "write": timeouts.first_byte_s,
        }  # fmt: skip
        request = httpx.Request(
            exchange.method,
            f"{origin.scheme}://{host_of(origin)}{exchange.path}",
            headers=[
                *exchange.headers,
                *exchange.own_headers,
                *([("content-length", str(length))] if length or exchange.method in ("POST", "PUT", "PATCH") else []),
            ],
            content=_parts(exchange) if length else None,
            extensions={"timeout": limits, "trace": trace},
        )
        where = f"{origin.host}:{origin.port}"
        try:
            response = await client.send(request, stream=True)
        except (httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise TimedOut("connect", timeouts.connect_s) from error
        except httpx.TimeoutException as error:
            raise TimedOut("first_byte", timeouts.first_byte_s) from error
        except httpx.RemoteProtocolError as error:
            if _SILENT in str(error):
                raise Unreachable(f"{where}: {error}") from error
            raise BadAnswer(f"{where}: {_reason(error)}") from None
        except httpx.HTTPError as error:
            raise Unreachable(f"{where}: {error!r}") from error
        limits["read"] = None  # httpcore looks it up at each read: from here on the answer's own limits hold
        return response


def _reason(error: httpx.RemoteProtocolError) -> str:
    """Return what was wrong without what came: h11 quotes it after a colon."""
    return str(error).partition(":")[0]


async def _parts(exchange: Exchange) -> AsyncIterator[bytes]:
    for part in exchange.body:
        with memoryview(part).cast("B") as view:
            for start in range(0, len(view), CHUNK_BYTES):
                yield bytes(view[start : start + CHUNK_BYTES])
