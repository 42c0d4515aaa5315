"""What only our own transport promises: no byte too many, bounded buffers, a bounded pool."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest

from backends.errors import BadAnswer, Disconnected, TimedOut, Unreachable
from backends.transport.connection import BUFFERED_BYTES_MAX, HEAD_BYTES_MAX, DirectAnswer
from backends.transport.direct import DirectTransport
from backends.transport.request import body_bytes, host_of
from backends.transport.seam import Answer, Origin, Timeouts, Transport
from tests.raw_server import DIRECT, LOOPS, Peer, RawServer, always, answer, once, over, read_all

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something holds; the test's own limit ends it otherwise."""
    while not condition():
        await asyncio.sleep(0)


@pytest.mark.parametrize("surplus", [answer(b"evil"), b"H", b"garbage", b"HTTP/1.1 200 OK\r\n"], ids=["answer", "byte", "garbage", "half"])
@over(*DIRECT)
async def test_surplus_bytes_after_an_answer_close_the_connection(transport: DirectTransport, surplus: bytes) -> None:
    async with RawServer(always(answer(b"good") + surplus)) as server:
        for number in range(3):
            assert await read_all(await transport.open(server.post())) == b"good"
            assert (transport.pool.idle(server.origin), server.connections) == (0, number + 1)


@over(*DIRECT)
async def test_bytes_on_an_idle_connection_close_it(transport: DirectTransport) -> None:
    free = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer())
        await free.wait()
        await peer.send(answer(b"evil"))
        await peer.until_gone()

    async with RawServer(script) as server:
        await read_all(await transport.open(server.post()))
        assert transport.pool.idle(server.origin) == 1
        free.set()
        await until(lambda: transport.pool.count == 0)
        assert await read_all(await transport.open(server.post())) == b"ok"


@over(*DIRECT)
async def test_an_upgrade_that_nobody_asked_for_is_a_bad_answer(transport: Transport) -> None:
    for head in (b"upgrade: x\r\nconnection: upgrade\r\n", b""):
        async with RawServer(once(b"HTTP/1.1 101 Switching Protocols\r\n" + head + b"\r\nhello")) as server:
            with pytest.raises(BadAnswer):
                await transport.open(server.get())


@over(*DIRECT)
async def test_half_a_head_is_no_silence(transport: Transport) -> None:
    async with RawServer(once(b"HTTP/1.1 200 OK\r\ncontent-le")) as server:
        with pytest.raises(Disconnected):
            await transport.open(server.get())


@over(*DIRECT)
async def test_two_lengths_are_a_bad_answer(transport: Transport) -> None:
    async with RawServer(once(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")) as server:
        with pytest.raises(BadAnswer):
            await transport.open(server.get())


@over(*DIRECT)
async def test_a_reset_does_not_end_a_body_without_length(transport: Transport) -> None:
    read = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\npart")
        await read.wait()
        raw = peer.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by reset
        peer.writer.transport.abort()

    async with RawServer(script) as server:
        reply = await transport.open(server.get())
        assert await reply.read() == b"part"
        read.set()
        with pytest.raises(Disconnected):
            await reply.read()


@pytest.mark.parametrize("endless", [b"2\r\nok\r\n0\r\nx-t: ", b"2;ext="], ids=["trailers", "extension"])
@over(*DIRECT)
async def test_endless_framing_is_a_bad_answer(transport: Transport, endless: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD + endless)
        while True:
            await peer.send(b"x" * 8192)

    async with RawServer(script) as server:
        with pytest.raises(BadAnswer):
            await read_all(await transport.open(server.get()))


@over(*DIRECT)
async def test_a_long_head_within_the_bound_is_read(transport: Transport) -> None:
    long = "x: " + "y" * (HEAD_BYTES_MAX - 1000)
    async with RawServer(once(answer(b"z" * 200_000, "200 OK", long))) as server:
        assert len(await read_all(await transport.open(server.get()))) == 200_000


@over(*DIRECT)
async def test_reading_pauses_while_nobody_reads(transport: Transport) -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 64000000\r\n\r\n")
        for _ in range(1000):
            await peer.send(bytes(64000))
            sent += 64000

    async with RawServer(script) as server:
        reply = await transport.open(server.get())
        assert isinstance(reply, DirectAnswer)
        connection = reply.connection
        assert connection is not None
        await until(lambda: connection.reading_paused)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert reply.buffered <= BUFFERED_BYTES_MAX + 300_000
        assert sent < 64_000_000
        total = 0
        while piece := await reply.read():
            total += len(piece)
        assert total == 64_000_000


@over(*DIRECT)
async def test_a_connection_paused_at_its_end_reads_again(transport: Transport) -> None:
    async with RawServer(always(answer(bytes(2_000_000)))) as server:
        for _ in range(5):
            reply = await transport.open(server.get())
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(await read_all(reply)) == 2_000_000
        assert server.connections == 1


@over(*DIRECT)
async def test_an_early_refusal_is_read_though_the_server_stops_reading(transport: DirectTransport) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(answer(b"too large", "413 Content Too Large"))
        await until(lambda: transport.pool.count == 0)  # we close: half a request has been sent on it

    async with RawServer(script) as server:
        reply = await transport.open(server.post(bytes(50_000_000)))
        assert (reply.status, await read_all(reply)) == (413, b"too large")
        assert transport.pool.idle(server.origin) == 0


@over(*DIRECT)
async def test_a_server_that_takes_no_more_of_a_body_is_timed_out(transport: Transport) -> None:
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await gone.wait()

    async with RawServer(script) as server:
        with pytest.raises(TimedOut, match="first_byte"):
            await transport.open(server.post(bytes(50_000_000), timeouts=Timeouts(first_byte_s=0.1)))
        gone.set()


@over(*DIRECT)
async def test_headers_asked_to_be_closed_are_obeyed(transport: DirectTransport) -> None:
    async with RawServer(always(answer(b"ok", "200 OK", "Connection: close"))) as server:
        for number in range(3):
            await read_all(await transport.open(server.get()))
            assert (server.connections, transport.pool.idle(server.origin)) == (number + 1, 0)


@over(*DIRECT)
async def test_the_last_used_connection_is_used_next(transport: DirectTransport) -> None:
    async with RawServer(always(answer())) as server:
        replies = await asyncio.gather(*[transport.open(server.get()) for _ in range(4)])
        for reply in replies:
            await read_all(reply)
        assert transport.pool.idle(server.origin) == 4
        last = transport.pool.take(server.origin)
        assert last is not None
        transport.pool.put(last)
        await read_all(await transport.open(server.get()))
        assert transport.pool.take(server.origin) is last
        last.transport.abort()


@pytest.mark.parametrize("loop_name", LOOPS)
def test_idle_connections_close_by_number_and_by_age(loop_name: str) -> None:
    async def main() -> None:
        transport = DirectTransport(idle_per_origin_max=2, idle_s=0.05)
        async with RawServer(always(answer())) as server:
            for reply in await asyncio.gather(*[transport.open(server.get()) for _ in range(5)]):
                await read_all(reply)
            assert transport.pool.idle(server.origin) == 2
            await until(lambda: transport.pool.count == 0)  # nothing but their age closes them
            assert transport.pool.take(server.origin) is None
            await read_all(await transport.open(server.get()))
            await transport.aclose()
            await until(lambda: transport.pool.count == 0)

    within(loop_name, main)


@pytest.mark.parametrize("loop_name", LOOPS)
def test_an_old_connection_is_not_used_again(loop_name: str) -> None:
    async def main() -> None:
        transport = DirectTransport(life_s=-1.0)
        async with RawServer(always(answer())) as server:
            for number in range(3):
                await read_all(await transport.open(server.get()))
                assert (transport.pool.idle(server.origin), server.connections) == (0, number + 1)

    within(loop_name, main)


@pytest.mark.parametrize("loop_name", LOOPS)
def test_connections_are_bounded_and_waiters_are_served(loop_name: str) -> None:
    async def main() -> None:
        transport = DirectTransport(connections_max=3)
        async with RawServer(always(answer())) as server:

            async def one() -> bytes:
                return await read_all(await transport.open(server.get()))

            assert await asyncio.gather(*[one() for _ in range(50)]) == [b"ok"] * 50
            assert server.connections == 3
            async with RawServer(always(answer(b"else"))) as other:
                assert await read_all(await transport.open(other.get())) == b"else"  # an idle connection made way
                assert transport.pool.count == 3
        await transport.aclose()

    within(loop_name, main)


@pytest.mark.parametrize("loop_name", LOOPS)
def test_waiting_for_a_connection_ends_in_time_and_loses_no_place(loop_name: str) -> None:
    async def main() -> None:
        transport = DirectTransport(connections_max=1)
        hold = asyncio.Event()

        async def script(peer: Peer) -> None:
            while True:
                await peer.request()
                await peer.send(CHUNKED_HEAD + b"2\r\nok\r\n")
                await hold.wait()
                await peer.send(b"0\r\n\r\n")

        async with RawServer(script) as server:
            first = await transport.open(server.get())
            with pytest.raises(TimedOut, match="connect"):
                await transport.open(server.get(timeouts=Timeouts(connect_s=0.05)))
            waiting = asyncio.create_task(transport.open(server.get()))
            cancelled = asyncio.create_task(transport.open(server.get()))
            await asyncio.sleep(0)
            cancelled.cancel()
            hold.set()
            assert await read_all(first) == b"ok"
            assert await read_all(await waiting) == b"ok"
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            assert server.connections == 1
        await transport.aclose()

    within(loop_name, main)


@over(*DIRECT)
async def test_ipv6_addresses_are_spoken_to(transport: Transport) -> None:
    heads: list[bytes] = []

    async def script(peer: Peer) -> None:
        heads.append((await peer.request())[0])
        await peer.send(answer())

    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:  # asked beforehand, so that an error of ours is never taken for a machine without IPv6
        pytest.skip("this machine has no IPv6 loopback")
    async with RawServer(script, host="::1") as server:
        assert await read_all(await transport.open(server.get())) == b"ok"
        assert b"\r\nhost: [::1]:%d\r\n" % server.origin.port in heads[0]


@over(*DIRECT)
async def test_an_aborted_upload_is_cancelled(transport: DirectTransport) -> None:
    started = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        started.set()
        await until(lambda: transport.pool.count == 0)

    async with RawServer(script) as server:
        opening = asyncio.create_task(transport.open(server.post(bytes(50_000_000))))
        await started.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await until(lambda: transport.pool.count == 0)


@over(*DIRECT)
async def test_reading_after_abort_says_so(transport: Transport) -> None:
    async with RawServer(once(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")) as server:
        reply: Answer = await transport.open(server.get())
        reply.abort()
        with pytest.raises(Disconnected):
            await reply.read()


@over(*DIRECT)
async def test_a_refused_tls_handshake_is_unreachable(transport: Transport) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.read(100)
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with RawServer(script) as server:
        server.origin = Origin("https", "localhost", server.origin.port)
        with pytest.raises(Unreachable):
            await transport.open(server.get())


def test_hosts_are_written_as_http_wants_them() -> None:
    assert host_of(Origin("https", "a.example", 443)) == "a.example"
    assert host_of(Origin("http", "a.example", 443)) == "a.example:443"
    assert host_of(Origin("http", "::1", 80)) == "[::1]"


def test_bodies_are_measured_in_bytes() -> None:
    assert body_bytes((b"ab", bytearray(3), memoryview(bytes(8)).cast("I"))) == 13


def within(loop_name: str, main: Callable[[], Awaitable[None]]) -> None:
    """Run a test that brings its own transport."""

    async def bounded() -> None:
        await asyncio.wait_for(main(), 30)

    with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
        runner.run(bounded())
