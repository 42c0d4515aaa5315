"""The short way on a connection: what a client meets there is what it meets on uvicorn's, request by request and byte by byte.

A request whose path has a query takes uvicorn's way, so the same request can be sent on both.
"""

import asyncio
import contextlib
import re
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from gateway.wire.caller import secret_of
from gateway.wire.headers import by_name
from tests.house import House, open_house
from tests.real.upstream import STALL, ScriptedUpstream, Wait, completion, stream

SHORT, UVICORN = "/v1/chat/completions", "/v1/chat/completions?x=1"
PATHS = pytest.mark.parametrize("path", [SHORT, UVICORN], ids=["short", "uvicorn"])
CHANGING = re.compile(rb"(date|x-request-id|x-weir-event|x-weir-credits-remaining|x-weir-credits-reset|openai-processing-ms|server-timing): [^\r]*\r\n")


class Wire:
    """One connection, on which a test writes what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """Read one answer: status, headers, body."""
        async with asyncio.timeout(20):
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head[:-4].split(b"\r\n")
            headers = dict(line.split(b": ", 1) for line in lines)
            if b"content-length" in headers:
                return int(first.split()[1]), headers, await self.reader.readexactly(int(headers[b"content-length"]))
            body = b""
            while size := int(await self.reader.readline(), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            assert await self.reader.readline() == b"\r\n"
            return int(first.split()[1]), headers, body

    async def ended(self) -> bytes:
        """Wait for the connection's end; return what came before it."""
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read()
            return b""


@contextlib.asynccontextmanager
async def wire(house: House) -> AsyncGenerator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.settings.server.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


def body_of(**members: object) -> bytes:
    return msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 10, **members})


def head_of(house: House, path: str = SHORT, length: int | None = None, *, version: str = "1.1", key: str | None = None, more: str = "") -> bytes:
    framing = "transfer-encoding: chunked\r\n" if length is None else f"content-length: {length}\r\n"
    return f"POST {path} HTTP/{version}\r\nhost: x\r\nauthorization: Bearer {key or house.key}\r\n{framing}{more}\r\n".encode()


def request(house: House, path: str = SHORT, *, more: str = "", version: str = "1.1", key: str | None = None, **members: object) -> bytes:
    body = body_of(**members)
    return head_of(house, path, len(body), more=more, version=version, key=key) + body


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_both_ways_answer_with_the_same_bytes(tmp_path: Path, scripted_upstream: ScriptedUpstream, streamed: bool) -> None:
    async with open_house(tmp_path, {"m": scripted_upstream.base_url}) as house:
        seen = []
        for path in (SHORT, UVICORN):
            scripted_upstream.play(*(stream("one ", "two") if streamed else (completion("one two"),)))
            async with wire(house) as client:
                client.send(request(house, path, stream=streamed, more="connection: close\r\n"))
                seen.append(CHANGING.sub(rb"\1: -\r\n", await client.ended()))
    heads, bodies = zip(*(one.split(b"\r\n\r\n", 1) for one in seen), strict=True)
    assert sorted(heads[0].split(b"\r\n")) == sorted(heads[1].split(b"\r\n"))
    if streamed:  # how the parts fall into chunks is the sockets' matter
        bodies = tuple(re.sub(rb"(?:^|\r\n)[0-9a-f]+\r\n", b"", body) for body in bodies)
    assert bodies[0] == bodies[1]
    assert b"one two" in bodies[0] or b'"one "' in bodies[0]


@PATHS
async def test_requests_in_a_pipeline_are_answered_in_their_order(tmp_path: Path, scripted_upstream: ScriptedUpstream, path: str) -> None:
    async with open_house(tmp_path, {"m": scripted_upstream.base_url}) as house, wire(house) as client:
        for text in ("first", "second", "third"):
            scripted_upstream.play(completion(text))
        client.send(request(house, path) + request(house, path) + b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" + request(house, path))
        bodies = [(await client.answer())[2] for _ in range(4)]
        assert [text in body for text, body in zip((b"first", b"second", b'"ok"', b"third"), bodies, strict=True)] == [True] * 4
        await house.events(3)


@PATHS
async def test_a_body_may_come_byte_by_byte_or_in_chunks(tmp_path: Path, scripted_upstream: ScriptedUpstream, path: str) -> None:
    async with open_house(tmp_path, {"m": scripted_upstream.base_url}) as house, wire(house) as client:
        for whole in (request(house, path), head_of(house, path) + b"".join(b"1\r\n%c\r\n" % byte for byte in body_of()) + b"0\r\n\r\n"):
            scripted_upstream.play(completion("hi"))
            for byte in whole:
                client.send(bytes([byte]))
                await client.writer.drain()
            status, _, body = await client.answer()
            assert status == 200 and b"hi" in body


@PATHS
async def test_100_continue_is_said_before_the_body_is_read_and_not_to_a_stranger(tmp_path: Path, scripted_upstream: ScriptedUpstream, path: str) -> None:
    async with open_house(tmp_path, {"m": scripted_upstream.base_url}) as house:
        async with wire(house) as client:
            scripted_upstream.play(completion("hi"))
            body = body_of()
            client.send(head_of(house, path, len(body), more="expect: 100-continue\r\n"))
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(body)
            assert (await client.answer())[0] == 200
        async with wire(house) as client:
            client.send(head_of(house, path, 1000, more="expect: 100-continue\r\n", key="sk-weir-nobody"))
            assert (await client.answer())[0] == 401


@PATHS
async def test_413_for_a_body_past_the_limit_by_its_length_or_as_it_comes(tmp_path: Path, path: str) -> None:
    async with open_house(tmp_path, {}, config="\nlimits: {}\n") as house:
        most = house.settings.server.body_bytes_max
        async with wire(house) as client:
            client.send(head_of(house, path, most + 1))
            status, _, body = await client.answer()
            assert status == 413 and b"at most" in body
        async with wire(house) as client:
            piece = b"a" * 2**20
            client.send(head_of(house, path))
            with contextlib.suppress(ConnectionError):
                for _ in range(most // len(piece) + 2):
                    client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
                    await client.writer.drain()
            assert (await client.answer())[0] == 413


@PATHS
async def test_408_for_a_body_that_does_not_come(tmp_path: Path, path: str) -> None:
    async with open_house(tmp_path, {}, impatient=True) as house, wire(house) as client:
        client.send(head_of(house, path, 100), b"{")
        assert (await client.answer())[0] == 408


@PATHS
async def test_a_refusal_before_the_body_was_read_does_not_spoil_the_next_request(tmp_path: Path, scripted_upstream: ScriptedUpstream, path: str) -> None:
    async with open_house(tmp_path, {"m": scripted_upstream.base_url}) as house, wire(house) as client:
        scripted_upstream.play(completion("hi"))
        late = body_of(user="x" * 200_000)
        client.send(head_of(house, path, len(late), key="sk-weir-nobody"))
        assert (await client.answer())[0] == 401
        client.send(late, request(house, path))
        status, _, body = await client.answer()
        assert status == 200 and b"hi" in body


@PATHS
@pytest.mark.parametrize(("version", "more"), [("1.0", ""), ("1.1", "connection: close\r\n")], ids=["HTTP/1.0", "close"])
async def test_the_connection_is_closed_where_the_client_wants_no_other_request(
    tmp_path: Path, scripted_upstream: ScriptedUpstream, path: str, version: str, more: str
) -> None:
    async with open_house(tmp_path, {"m": scripted_upstream.base_url}) as house, wire(house) as client:
        scripted_upstream.play(completion("hi"))
        client.send(request(house, path, version=version, more=more))
        status, headers, _ = await client.answer()
        assert (status, headers[b"connection"]) == (200, b"close")
        assert await client.ended() == b""


@PATHS
async def test_a_connection_without_a_request_is_closed_in_time_and_not_before(tmp_path: Path, scripted_upstream: ScriptedUpstream, path: str) -> None:
    async with open_house(tmp_path, {"m": scripted_upstream.base_url}) as house, wire(house) as client:
        house.server.config.timeout_keep_alive = 1
        async with wire(house) as client:
            gate_s = asyncio.get_running_loop().time
            for text in ("one", "two"):
                scripted_upstream.play(completion(text))
                client.send(request(house, path))
                assert (await client.answer())[0] == 200
            answered_s = gate_s()
            assert await client.ended() == b""
            assert gate_s() - answered_s > 0.9


@PATHS
@pytest.mark.parametrize(
    "framing",
    [
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
        b"content-length: 5\r\ncontent-length: 6\r\n",
        b"transfer-encoding: chunked, identity\r\n",
        b"transfer-encoding: xchunked\r\n",
        b"content-length: +5\r\n",
        b"content-length: 5 \r\n folded: x\r\n",
    ],
)
async def test_two_ways_to_read_where_a_request_ends_are_none(tmp_path: Path, scripted_upstream: ScriptedUpstream, path: str, framing: bytes) -> None:
    async with open_house(tmp_path, {"m": scripted_upstream.base_url}) as house, wire(house) as client:
        hidden = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {house.key}\r\n".encode() + framing + b"\r\n"
        client.send(head + b"5\r\nhello\r\n0\r\n\r\n" + hidden)
        answers = await client.ended()
        assert answers.startswith(b"HTTP/1.1 400 ") or answers == b"", answers
        assert b'"ok"' not in answers, "what stood in the body was taken for a request"
        assert scripted_upstream.requests == []


async def test_a_client_that_leaves_while_its_answer_waits_for_room_ends_the_request(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    async with open_house(tmp_path, {"m": scripted_upstream.base_url}) as house, wire(house) as client:
        scripted_upstream.play(*stream(*(["word " * 2000] * 4000)))
        reading: Any = client.writer.transport
        reading.pause_reading()
        client.send(request(house, stream=True, max_tokens=8_000_000))
        async with asyncio.timeout(20):
            connections: Any = house.server.server_state.connections
            while not any(connection.flow.write_paused for connection in connections):
                await asyncio.sleep(0.005)
        client.writer.transport.abort()
        (booked,) = await house.events(1)
        assert booked.outcome == "cut"
        async with asyncio.timeout(10):
            while house.server.server_state.tasks:
                await asyncio.sleep(0.005)


async def test_what_waits_when_the_gateway_stops_is_answered_on_the_short_way(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    gate = threading.Event()
    async with open_house(tmp_path, {"m": {"urls": [scripted_upstream.base_url], "slots": 4}}) as house, wire(house) as client:
        scripted_upstream.play(Wait(gate), completion("late"))
        client.send(request(house))
        async with asyncio.timeout(10):
            while not scripted_upstream.requests:
                await asyncio.sleep(0.005)
        house.server.should_exit = True
        status, headers, body = await client.answer()
        gate.set()
        assert status == 503 and b"stopping" in body
        assert headers[b"connection"] == b"close"


@PATHS
@pytest.mark.parametrize("kilobytes", [60, 100, 200, 1000])
async def test_a_client_that_leaves_is_noticed_whatever_the_length_of_its_body(
    tmp_path: Path, scripted_upstream: ScriptedUpstream, path: str, kilobytes: int
) -> None:
    async with open_house(tmp_path, {"m": {"urls": [scripted_upstream.base_url], "slots": 4}}) as house, wire(house) as client:
        scripted_upstream.play(STALL)
        client.send(request(house, path, user="x" * kilobytes * 1000))
        async with asyncio.timeout(10):
            while not scripted_upstream.requests:
                await asyncio.sleep(0.005)
        client.writer.transport.abort()
        (booked,) = await house.events(1)
        assert (booked.outcome, booked.status) == ("cut", 499)


async def test_a_body_of_tiny_chunks_takes_no_more_memory_than_one_of_large_ones(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}) as house, wire(house) as client:
        body = body_of(user="x" * 2_000_000)
        client.send(head_of(house))
        process = psutil.Process()
        before = process.memory_info().rss
        piece = b"".join(b"2\r\n%b\r\n" % body[start : start + 2] for start in range(0, 100_000, 2))
        for _ in range(20):
            client.send(piece)
            await client.writer.drain()
        connection: Any = next(iter(house.server.server_state.connections))
        async with asyncio.timeout(20):
            while connection.cycle is not None and connection.cycle._bytes < 1_900_000 and not connection.cycle.response_complete:
                await asyncio.sleep(0.005)
        assert len(connection.cycle._parts) < 100
        assert process.memory_info().rss - before < 50_000_000


@PATHS
async def test_a_request_whose_head_began_before_the_last_answer_ended_is_not_taken_for_idleness(
    tmp_path: Path, scripted_upstream: ScriptedUpstream, path: str
) -> None:
    async with open_house(tmp_path, {"m": {"urls": [scripted_upstream.base_url], "slots": 4}}) as house:
        house.server.config.timeout_keep_alive = 1
        async with wire(house) as client:
            gate, late = threading.Event(), threading.Event()
            scripted_upstream.play(Wait(gate), completion("first"))
            scripted_upstream.play(Wait(late), completion("second"))
            second = request(house, path)
            client.send(request(house, path) + second[:20])
            async with asyncio.timeout(10):
                while not scripted_upstream.requests:
                    await asyncio.sleep(0.005)
            gate.set()
            assert b"first" in (await client.answer())[2]
            client.send(second[20:])
            asyncio.get_running_loop().call_later(1.5, late.set)
            assert b"second" in (await client.answer())[2]


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([(b"authorization", b"Bearer one"), (b"authorization", b"Bearer two")], "one"),
        ([(b"api-key", b"one"), (b"authorization", b"Basic eDp5")], "one"),
        ([(b"x-api-key", b"two"), (b"authorization", b"bearer one")], "one"),
        ([(b"x-api-key", b"two"), (b"api-key", b"one")], "one"),
        ([(b"authorization", b"Basic eDp5")], ""),
        ([], ""),
    ],
)
def test_which_of_several_keys_counts(headers: list[tuple[bytes, bytes]], found: str) -> None:
    assert secret_of(by_name(headers)) == found


@PATHS
async def test_trailers_change_no_request(tmp_path: Path, path: str) -> None:
    body = body_of()
    trailers = "".join([f"x-{number}: 1\r\n" for number in range(500)])
    async with open_house(tmp_path, {}) as house, wire(house) as client:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        client.send(head + b"%x\r\n%b\r\n0\r\n" % (len(body), body) + f"authorization: Bearer {house.key}\r\n{trailers}\r\n".encode())
        status, _, said = await client.answer()
        assert (status, b"No API key was given" in said) == (401, True)


@PATHS
@pytest.mark.parametrize("encodings", ["identity\r\ncontent-encoding: gzip", "gzip\r\ncontent-encoding: identity", "identity, gzip"])
async def test_a_body_that_is_encoded_is_refused_however_its_encodings_are_told(tmp_path: Path, path: str, encodings: str) -> None:
    async with open_house(tmp_path, {}) as house, wire(house) as client:
        client.send(request(house, path, more=f"content-encoding: {encodings}\r\n"))
        status, _, said = await client.answer()
        assert (status, b"Content-Encoding is not accepted" in said) == (400, True)
