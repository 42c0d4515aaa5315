"""A TCP server whose every byte a test decides, and the loops and transports that the transport tests run over.

A test's script is a coroutine over a `Peer`: it reads requests, writes what it likes, and waits for events, never for time.
"""

import asyncio
import contextlib
import functools
import inspect
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from backends.errors import BackendError
from backends.transport.direct import DirectTransport
from backends.transport.over_httpx import HttpxTransport
from backends.transport.seam import Answer, Exchange, Origin, Timeouts, Transport

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
TEST_S_MAX = 30.0
BRIEF = Timeouts(connect_s=5.0, first_byte_s=5.0, idle_s=5.0)

DIRECT = ("direct-asyncio", "direct-uvloop")
EVERY = (*DIRECT, "pumped-uvloop", "httpx-asyncio", "httpxpumped-asyncio")


class Peer:
    """One accepted connection."""

    def __init__(self, server: "RawServer", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self.reader, self.writer = server, reader, writer

    async def request(self) -> tuple[bytes, bytes]:
        """Read one request: its head and its body."""
        head = await self.head()
        length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
        return head, await self.reader.readexactly(length)

    async def head(self) -> bytes:
        """Read one request's head."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        self.server.requests += 1
        return head

    async def send(self, data: bytes) -> None:
        """Write and flush."""
        self.writer.write(data)
        await self.writer.drain()

    async def until_gone(self) -> None:
        """Wait until the other side has closed."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


Script = Callable[[Peer], Awaitable[None]]


class RawServer:
    """Runs `script` for each connection, and closes it after. `handle` is done when a script ended."""

    def __init__(self, script: Script, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.script, self.tls, self.host = script, tls, host
        self.connections = self.requests = 0
        self.errors: list[BaseException] = []
        self.tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> "RawServer":
        self.server = await asyncio.start_server(self._serve, self.host, 0, ssl=self.tls, limit=2**20)
        port = self.server.sockets[0].getsockname()[1]
        self.origin = Origin("https" if self.tls else "http", "localhost" if self.tls else self.host, port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        assert not self.errors, self.errors

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.connections += 1
        try:
            await self.script(Peer(self, reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client went away, or the test is over
        except BaseException as error:  # noqa: BLE001  told by __aexit__, in the test
            self.errors.append(error)
        finally:
            self.tasks.discard(task)
            if self.tls is not None and task.cancelling():
                writer.transport.abort()  # an idle client need not answer a TLS goodbye
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()

    def get(self, path: str = "/v1/models", *, method: str = "GET", timeouts: Timeouts = BRIEF) -> Exchange:
        """Make a request without a body."""
        return Exchange(method=method, origin=self.origin, path=path, timeouts=timeouts)

    def post(self, *body: bytes, timeouts: Timeouts = BRIEF) -> Exchange:
        """Make a request with a body."""
        headers = (("content-type", "application/json"),)
        return Exchange(method="POST", origin=self.origin, path="/v1/chat/completions", headers=headers, body=body or (b"{}",), timeouts=timeouts)


def answer(body: bytes = b"ok", status: str = "200 OK", *headers: str) -> bytes:
    """Write an answer with a Content-Length."""
    return "\r\n".join([f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]).encode() + body


def always(reply: bytes) -> Script:
    """Answer every request on a connection with the same bytes."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(reply)

    return script


def once(reply: bytes) -> Script:
    """Answer one request, then close."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply)

    return script


class PumpedAnswer(Answer):
    """An answer that is read by its `pump`: what holds for `read` holds for both."""

    def __init__(self, answer: Answer) -> None:
        self.status, self.headers = answer.status, answer.headers
        self._answer = answer
        self._news: asyncio.Queue[bytes | BackendError] = asyncio.Queue()
        self._last: bytes | BackendError | None = None
        self._pumping: asyncio.Task[None] | None = None

    async def read(self) -> bytes:
        if self._pumping is None:
            self._pumping = asyncio.create_task(self._pump())
        news = self._last if self._last is not None else await self._news.get()
        if isinstance(news, BackendError) or not news:
            self._last = news
        if isinstance(news, BackendError):
            raise news
        return news

    def abort(self) -> None:
        self._answer.abort()

    async def _pump(self) -> None:
        try:
            while not await self._answer.pump(self._take):  # what it took last, it wanted no more of
                pass
            self._news.put_nowait(b"")
        except BackendError as error:
            self._news.put_nowait(error)

    def _take(self, data: bytes) -> bool:
        self._news.put_nowait(data)
        return self._news.qsize() < 3


class PumpedTransport:
    """A transport whose answers are pumped."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def open(self, exchange: Exchange) -> Answer:
        return PumpedAnswer(await self._transport.open(exchange))

    async def aclose(self) -> None:
        await self._transport.aclose()


async def read_all(reply: Any) -> bytes:
    """Read an answer to its end."""
    data = b""
    while piece := await reply.read():
        data += piece
    return data


def over(*kinds: str) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Run a test's coroutine over each kind of transport and loop; a test that asks for `tls` gets a (server, client) pair of contexts."""

    def wrap(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        def run(kind: str, **more: Any) -> None:
            transport_name, loop_name = kind.split("-")

            async def main() -> None:
                tls = more["tls"][1] if "tls" in more else None
                transport: Transport = HttpxTransport(tls=tls) if transport_name.startswith("httpx") else DirectTransport(tls=tls)
                if transport_name.endswith("pumped"):
                    transport = PumpedTransport(transport)
                try:
                    await asyncio.wait_for(test(transport, **more), TEST_S_MAX)
                finally:
                    await transport.aclose()

            with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
                runner.run(main())

        functools.update_wrapper(run, test)
        shown = list(inspect.signature(test).parameters.values())[1:]  # pytest asks for these, and not for the transport
        vars(run)["__signature__"] = inspect.Signature([inspect.Parameter("kind", inspect.Parameter.POSITIONAL_OR_KEYWORD), *shown])
        return pytest.mark.parametrize("kind", kinds)(run)

    return wrap


def make_tls(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Make a certificate for localhost, and the contexts of a server that shows it and a client that trusts it."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
        f" -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout {key} -out {cert}".split(),
        check=True,
        capture_output=True,
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    return server, ssl.create_default_context(cafile=str(cert))
