"""The server's own limits: heads that are too long, clients that read nothing, and a stop that leaves nobody without an answer."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

from tests.house import House, open_house
from tests.real.upstream import STALL, STREAM_HEAD, ScriptedUpstream, completion, delta, event


@asynccontextmanager
async def connected(house: House, *, receive_bytes: int | None = None) -> AsyncGenerator[socket.socket]:
    with socket.socket() as client:
        if receive_bytes is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", house.settings.server.port))
        yield client


async def ask(house: House, client: socket.socket, *, stream: bool = False) -> None:
    body = msgspec.json.encode({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 10})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {house.key}\r\ncontent-length: {len(body)}\r\n\r\n"
    await asyncio.get_running_loop().sock_sendall(client, head.encode() + body)


async def read_all(client: socket.socket) -> bytes:
    data = b""
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            while piece := await asyncio.get_running_loop().sock_recv(client, 65536):
                data += piece
    return data


async def reached(upstream: ScriptedUpstream, count: int = 1) -> None:
    async with asyncio.timeout(10):
        while len(upstream.requests) < count:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("pieces", [1, 8], ids=["at-once", "in-pieces"])
async def test_a_head_past_64_kb_is_refused_with_431(tmp_path: Path, pieces: int) -> None:
    async with open_house(tmp_path, {}) as house, connected(house) as client:
        head = b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"".join(b"x-%d: %b\r\n" % (index, b"a" * 1000) for index in range(70)) + b"\r\n"
        size = len(head) // pieces + 1
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(head), size):
                await asyncio.get_running_loop().sock_sendall(client, head[start : start + size])
                await asyncio.sleep(0)
        assert (await read_all(client)).startswith(b"HTTP/1.1 431 ")


async def test_a_header_that_never_ends_is_cut_before_it_fills_the_memory(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}) as house, connected(house) as client:
        sent = 0
        with contextlib.suppress(ConnectionError):
            await asyncio.get_running_loop().sock_sendall(client, b"GET /health HTTP/1.1\r\nx: ")
            while sent < 64 * 2**20:
                await asyncio.get_running_loop().sock_sendall(client, b"a" * 2**20)
                sent += 2**20
        assert sent < 64 * 2**20
        assert (await house.client.get("/health")).status_code == 200


async def test_a_head_of_60_kb_is_taken_and_a_second_request_on_the_connection_counts_anew(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}) as house:
        for _ in range(3):
            assert (await house.client.get("/health", headers={"x-long": "a" * 60_000})).status_code == 200


def connections(port: int, peer: int) -> int:
    ends = [(*item.laddr[1:], *item.raddr[1:]) for item in psutil.Process().net_connections("tcp")]
    return ends.count((port, peer))


async def test_the_connection_of_a_client_that_never_reads_its_ended_answer_is_gone_in_time(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.play(completion("y" * 6_000_000))
    async with open_house(tmp_path, {"m": scripted_upstream.base_url}, impatient=True) as house, connected(house, receive_bytes=4096) as client:
        peer = client.getsockname()[1]
        await ask(house, client)
        assert (await house.events())[0].outcome == "complete"
        async with asyncio.timeout(10):
            while connections(house.settings.server.port, peer):
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_ends_what_is_under_way_past_its_grace_with_an_answer(
    tmp_path: Path, scripted_upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    scripted_upstream.play(*([STREAM_HEAD, event(delta("one ")), STALL] if stream else [STALL]))
    backend = {"urls": [scripted_upstream.base_url], "model": "m"}
    async with open_house(tmp_path, {"m": backend}) as house, connected(house) as client:
        await ask(house, client, stream=stream)
        await reached(scripted_upstream)
        house.server.config.timeout_graceful_shutdown = 0
        house.server.should_exit = True
        answer = await read_all(client)
        assert answer.startswith(b"HTTP/1.1 200 " if stream else b"HTTP/1.1 503 "), answer
        assert b"service_unavailable" in answer
        assert (await house.events())[0].outcome == "cut"
    assert [record.name for record in caplog.records if record.exc_info] == []


async def test_an_admin_request_under_way_past_the_grace_ends_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun = asyncio.Event()

    async def hang(*_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with open_house(tmp_path, {}) as house, connected(house) as client:
        monkeypatch.setattr(house.app, "api", hang)
        await asyncio.get_running_loop().sock_sendall(client, b"GET /admin/tenants HTTP/1.1\r\nhost: x\r\n\r\n")
        await begun.wait()
        house.server.config.timeout_graceful_shutdown = 0
        house.server.should_exit = True
        assert (await read_all(client)).startswith(b"HTTP/1.1 503 ")
    assert [record.name for record in caplog.records if record.exc_info] == []


async def test_a_second_interrupt_ends_at_once_and_still_books_what_was_used(
    tmp_path: Path, scripted_upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    scripted_upstream.play(STREAM_HEAD, event(delta("one ")), STALL)
    backend = {"urls": [scripted_upstream.base_url], "model": "m"}
    async with open_house(tmp_path, {"m": backend}) as house, connected(house) as client:
        await ask(house, client, stream=True)
        await reached(scripted_upstream)
        house.server.config.timeout_graceful_shutdown = 3600
        house.server.should_exit = house.server.force_exit = True
        assert b"service_unavailable" in await read_all(client)
        assert (await house.events())[0].outcome == "cut"
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
