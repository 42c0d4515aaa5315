"""What both transports promise, against a server whose every byte is scripted."""

import asyncio

import pytest

from backends.errors import BadAnswer, Disconnected, TimedOut, Unreachable
from backends.transport.direct import DirectTransport
from backends.transport.seam import Exchange, Origin, Timeouts, Transport
from tests.raw_server import EVERY, Peer, RawServer, always, answer, once, over, read_all

CHUNKED = b'HTTP/1.1 200 OK\r\nX-Kept: Yes\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7;note="x y"\r\n, world\r\n0\r\nX-Trailer: t\r\n\r\n'


@over(*EVERY)
async def test_a_connection_is_used_again(transport: Transport) -> None:
    async with RawServer(always(answer(b"fine"))) as server:
        for _ in range(5):
            reply = await transport.open(server.post(b'{"a":', b"1}"))
            assert (reply.status, await read_all(reply), await reply.read()) == (200, b"fine", b"")
        assert (server.connections, server.requests) == (1, 5)


@over(*EVERY)
async def test_the_request_arrives_as_it_was_made(transport: Transport) -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def script(peer: Peer) -> None:
        while True:
            seen.append(await peer.request())
            await peer.send(answer())

    async with RawServer(script) as server:
        await read_all(await transport.open(server.post(b'{"a":', b"", b"1}", bytearray(b" "), memoryview(b"\n"))))  # type: ignore[arg-type]
        await read_all(await transport.open(server.get("/v1/models?x=%20y")))
    (head, body), (bare, nothing) = seen
    lines = head.lower().split(b"\r\n")
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert b"host: 127.0.0.1:%d" % server.origin.port in lines
    assert b"content-length: 9" in lines and b"content-type: application/json" in lines
    assert b"transfer-encoding" not in head.lower() and b"accept-encoding" not in head.lower()
    assert body == b'{"a":1} \n'
    assert bare.startswith(b"GET /v1/models?x=%20y HTTP/1.1\r\n") and b"content-length" not in bare.lower() and nothing == b""


@over(*EVERY)
async def test_an_answer_may_be_cut_at_every_byte(transport: Transport) -> None:
    """Chunk extensions and trailers too; each cut is made visible by waiting until what came before it has been read."""
    for cut in range(1, len(CHUNKED)):

        async def script(peer: Peer, cut: int = cut) -> None:
            await peer.request()
            await peer.send(CHUNKED[:cut])
            await asyncio.sleep(0)  # lets the first part go out by itself
            await peer.send(CHUNKED[cut:])

        async with RawServer(script) as server:
            reply = await transport.open(server.get())
            assert await read_all(reply) == b"hello, world"
            assert (b"x-kept", b"Yes") in reply.headers


@over(*EVERY)
async def test_an_answer_may_come_byte_by_byte(transport: Transport) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        for at in range(len(CHUNKED)):
            await peer.send(CHUNKED[at : at + 1])
            await asyncio.sleep(0)

    async with RawServer(script) as server:
        assert await read_all(await transport.open(server.get())) == b"hello, world"


@over(*EVERY)
async def test_bytes_are_handed_over_as_they_arrive(transport: Transport) -> None:
    read = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await read.wait()
        await peer.send(b"3\r\ntwo\r\n0\r\n\r\n")

    async with RawServer(script) as server:
        reply = await transport.open(server.get())
        assert await reply.read() == b"one"
        read.set()
        assert await reply.read() == b"two"
        assert await reply.read() == b""


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@over(*EVERY)
async def test_statuses_without_a_body_end_at_once(transport: Transport, status: str) -> None:
    async with RawServer(always(f"HTTP/1.1 {status}\r\n\r\n".encode())) as server:
        for _ in range(2):
            reply = await transport.open(server.get())
            assert (reply.status, await reply.read()) == (int(status[:3]), b"")
        assert server.connections == 1


@over(*EVERY)
async def test_head_has_no_body(transport: Transport) -> None:
    async with RawServer(always(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")) as server:
        for _ in range(2):
            reply = await transport.open(server.get(method="HEAD"))
            assert (reply.status, await reply.read()) == (200, b"")


@over(*EVERY)
async def test_interim_answers_are_skipped(transport: Transport) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    async with RawServer(always(interim + answer(b"final", "201 Created"))) as server:
        for _ in range(2):
            reply = await transport.open(server.post())
            assert (reply.status, await read_all(reply)) == (201, b"final")
            assert b"link" not in dict(reply.headers)
        assert server.connections == 1


@over(*EVERY)
async def test_a_close_ends_a_body_that_has_no_length(transport: Transport) -> None:
    async with RawServer(once(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")) as server:
        assert await read_all(await transport.open(server.get())) == b"until the end"


@pytest.mark.parametrize(
    "broken",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n",
    ],
    ids=["length", "chunks", "head"],
)
@over(*EVERY)
async def test_a_close_in_the_middle_is_told(transport: Transport, broken: bytes) -> None:
    async with RawServer(once(broken)) as server:
        reply = await transport.open(server.get())
        with pytest.raises(Disconnected):
            await read_all(reply)


@over(*EVERY)
async def test_a_close_before_any_byte_is_unreachable(transport: Transport) -> None:
    async with RawServer(once(b"")) as server:
        with pytest.raises(Unreachable):
            await transport.open(server.post())
        assert server.connections == 1


@over(*EVERY)
async def test_nobody_listening_is_unreachable(transport: Transport) -> None:
    async with RawServer(once(b"")) as server:
        exchange = server.get()
    with pytest.raises(Unreachable):
        await transport.open(exchange)
    nowhere = Exchange(method="GET", origin=Origin("http", "no-such-host.invalid", 80), path="/", timeouts=Timeouts(connect_s=20))
    with pytest.raises(Unreachable):
        await transport.open(nowhere)


@pytest.mark.parametrize(
    "garbage",
    [b"<html>502 Bad Gateway</html>\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n"],
    ids=["html", "tls", "status"],
)
@over(*EVERY)
async def test_what_is_no_http_is_a_bad_answer(transport: Transport, garbage: bytes) -> None:
    async with RawServer(once(garbage)) as server:
        with pytest.raises(BadAnswer):
            await transport.open(server.get())


@over(*EVERY)
async def test_a_broken_chunk_is_a_bad_answer(transport: Transport) -> None:
    async with RawServer(once(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n")) as server:
        with pytest.raises(BadAnswer):
            await read_all(await transport.open(server.get()))


@over(*EVERY)
async def test_an_endless_head_is_a_bad_answer(transport: Transport) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nx: ")
        while True:
            await peer.send(b"y" * 16384)

    async with RawServer(script) as server:
        with pytest.raises(BadAnswer):
            await transport.open(server.get())


@over(*EVERY)
async def test_an_idle_connection_that_the_server_closed_is_replaced(transport: Transport) -> None:
    """The close is seen before the next request, or it crosses it on the way: the caller notices neither."""
    for wait in (True, False):
        closed = asyncio.Event()

        async def script(peer: Peer, closed: asyncio.Event = closed) -> None:
            await peer.request()
            await peer.send(answer())
            peer.writer.close()
            closed.set()

        async with RawServer(script) as server:
            for number in range(4):
                reply = await transport.open(server.post())
                assert await read_all(reply) == b"ok"
                if wait:
                    await closed.wait()
                assert server.connections == number + 1


@over(*EVERY)
async def test_a_request_that_kills_its_reused_connection_is_tried_once_more(transport: Transport) -> None:
    """The connection dies with the request on it, before any byte of an answer: llama.cpp does this after a stream."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer())
        await peer.request()

    async with RawServer(script) as server:
        await read_all(await transport.open(server.post()))
        assert await read_all(await transport.open(server.post())) == b"ok"
        assert (server.connections, server.requests) == (2, 3)


@over(*EVERY)
async def test_a_fresh_connection_that_dies_too_is_unreachable(transport: Transport) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.server.connections == 1:
            await peer.send(answer())
            await peer.request()

    async with RawServer(script) as server:
        await read_all(await transport.open(server.post()))
        with pytest.raises(Unreachable):
            await transport.open(server.post())
        assert (server.connections, server.requests) == (2, 3)


@over(*EVERY)
async def test_abort_is_seen_by_the_server(transport: Transport) -> None:
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await peer.until_gone()
        gone.set()

    async with RawServer(script) as server:
        reply = await transport.open(server.get())
        assert await reply.read() == b"one"
        reply.abort()
        reply.abort()
        await gone.wait()


@over(*EVERY)
async def test_abort_after_the_end_is_harmless(transport: Transport) -> None:
    async with RawServer(always(answer())) as server:
        for _ in range(3):
            reply = await transport.open(server.get())
            await read_all(reply)
            reply.abort()
        assert server.connections == 1


@over(*EVERY)
async def test_a_cancelled_open_closes_its_connection(transport: Transport) -> None:
    came, gone = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        came.set()
        await peer.until_gone()
        gone.set()

    async with RawServer(script) as server:
        opening = asyncio.create_task(transport.open(server.post()))
        await came.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await gone.wait()


@pytest.mark.parametrize("phase", ["first_byte", "idle", "total"])
@over(*EVERY)
async def test_a_stall_is_told_by_its_phase_and_closes(transport: Transport, phase: str) -> None:
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        if phase != "first_byte":
            await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await peer.until_gone()
        gone.set()

    limits = {f"{name}_s": 0.2 if name == phase else 20.0 for name in ("first_byte", "idle", "total")}
    async with RawServer(script) as server:
        with pytest.raises(TimedOut) as raised:
            await read_all(await transport.open(server.get(timeouts=Timeouts(connect_s=5.0, **limits))))
        assert (raised.value.phase, phase in str(raised.value)) == (phase, True)
        await gone.wait()


@over(*EVERY)
async def test_the_total_limit_holds_though_bytes_keep_coming(transport: Transport) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            await peer.send(b"3\r\none\r\n")
            await asyncio.sleep(0)

    async with RawServer(script) as server:
        with pytest.raises(TimedOut, match="total"):
            await read_all(await transport.open(server.get(timeouts=Timeouts(total_s=0.1))))


@over(*EVERY)
async def test_twenty_megabytes_go_through(transport: Transport) -> None:
    body = bytes(range(256)) * 4096 * 20
    got: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            got.append((await peer.request())[1])
            await peer.send(answer(got[-1]))

    async with RawServer(script) as server:
        for _ in range(2):
            assert await read_all(await transport.open(server.post(b"", body[:1000], memoryview(body)[1000:]))) == body  # type: ignore[arg-type]
            assert got.pop() == body
        assert server.connections == 1


@over(*EVERY)
async def test_an_early_refusal_of_a_large_body_is_read(transport: Transport) -> None:
    """The server answers at the head, and takes the rest of the body without looking at it."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(answer(b"too large", "413 Content Too Large", "connection: close"))
        await peer.until_gone()

    async with RawServer(script) as server:
        reply = await transport.open(server.post(bytes(20_000_000)))
        assert (reply.status, await read_all(reply)) == (413, b"too large")


@over(*EVERY)
async def test_many_exchanges_at_once_do_not_mix(transport: Transport) -> None:
    async def script(peer: Peer) -> None:
        while True:
            body = (await peer.request())[1]
            await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n" % len(body))
            await peer.send(body + b"\r\n0\r\n\r\n")

    many = 200 if isinstance(transport, DirectTransport) else 40  # httpx's pool looks at every connection for every request
    async with RawServer(script) as server:

        async def one(number: int) -> bool:
            body = b"%d " % number * (number + 1)
            return await read_all(await transport.open(server.post(body))) == body

        for _ in range(2):
            assert all(await asyncio.gather(*[one(number) for number in range(many)]))
        assert server.connections <= many


@over(*EVERY)
async def test_what_the_taker_raises_is_raised_where_it_waits_and_leaves_the_rest_to_be_read(transport: Transport) -> None:
    read = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await read.wait()
        await peer.send(b"3\r\ntwo\r\n")
        await peer.send(b"5\r\nthree\r\n0\r\n\r\n")

    def take(data: bytes) -> bool:
        read.set()
        if data.startswith(b"two"):
            raise LookupError("not mine")
        return True

    async with RawServer(script) as server:
        reply = await transport.open(server.get())
        with pytest.raises(LookupError, match="not mine"):
            await reply.pump(take)
        assert await read_all(reply) in (b"three", b"")
