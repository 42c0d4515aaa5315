"""What failures leave behind: no connection that is counted for ever, and nothing of what came in an error's text."""

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from backends.errors import BadAnswer, Disconnected, TimedOut, Unreachable
from backends.transport.direct import DirectTransport
from backends.transport.seam import Timeouts, Transport
from tests.raw_server import DIRECT, EVERY, Peer, RawServer, answer, once, over, read_all

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something holds; the test's own limit ends it otherwise."""
    while not condition():
        await asyncio.sleep(0)


async def _given_up(transport: DirectTransport, server: RawServer, kind: str) -> None:
    """One exchange that ends as its kind says."""
    timeouts = Timeouts(connect_s=5.0, first_byte_s=0.05 if kind == "silent" else 5.0, idle_s=0.05 if kind == "stall" else 5.0)
    exchange = server.get(f"/{kind}", timeouts=timeouts)
    if kind == "cancelled":
        opening = asyncio.create_task(transport.open(exchange))
        await until(lambda: server.requests > 0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        return
    with contextlib.suppress(BadAnswer, Disconnected, TimedOut, Unreachable):
        reply = await transport.open(exchange)
        if kind in ("left", "sick"):
            reply.abort()
        await read_all(reply)


@over(*DIRECT)
async def test_no_connection_is_left_counted_after_failures_of_every_kind(transport: DirectTransport) -> None:
    answers = {"good": answer(), "sick": answer(b"{}", "503 Busy"), "cut": CHUNKED_HEAD + b"5\r\nhel", "html": b"<html>", "closed": b""}

    async def script(peer: Peer) -> None:
        while True:
            kind = (await peer.head()).split(b" ")[1][1:].decode()
            if kind in ("silent", "cancelled"):
                await peer.until_gone()
            elif kind in ("stall", "left"):
                await peer.send(CHUNKED_HEAD + b"3\r\none\r\n")
                await peer.until_gone()
            else:
                await peer.send(answers[kind])
            if kind != "good":
                return

    kinds = ["good", "sick", "cut", "html", "closed", "silent", "cancelled", "stall", "left"]
    async with RawServer(script) as server:
        for _ in range(2):
            await asyncio.gather(*[_given_up(transport, server, kind) for kind in kinds * 3])
        await until(lambda: transport.pool.count == transport.pool.idle(server.origin) <= 3)
        refused = server.get()
    with pytest.raises((Unreachable, TimedOut)):
        await transport.open(refused)
    await transport.aclose()
    await until(lambda: transport.pool.count == 0)


@over(*EVERY)
async def test_the_text_of_an_error_holds_nothing_of_what_came(transport: Transport) -> None:
    for secret in (b"<html>my-secret-answer</html>\r\n\r\n", CHUNKED_HEAD + b"3\r\nabc\r\nmy-secret-answer\r\n", answer(b"", "200 OK", "my-secret-answer")):
        async with RawServer(once(secret)) as server:
            with pytest.raises(BadAnswer) as raised:
                await read_all(await transport.open(server.get()))
            assert "secret" not in str(raised.value)
            assert str(server.origin.port) in str(raised.value) or "127.0.0.1" in str(raised.value)
