"""The metrics of several workers as one exposition, and the door through which they take connections."""

import asyncio
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.cli.door import ABSENT, Door, Tally
from gateway.telemetry import siblings
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.siblings import Siblings, label, merge, socket_of


def samples(exposition: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(exposition.decode())
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


def worker(requests: int) -> bytes:
    metrics = Metrics()
    metrics.requests.add(("chat", 'a"b\n# HELP x{ y', 200), requests)
    metrics.queue_wait.observe(("fast",), 0.3)
    metrics.holds_open.watch(lambda: requests)
    return metrics.exposition()


def test_every_series_is_labelled_and_no_meaning_is_said_twice() -> None:
    whole = merge([label(worker(3), 0), label(worker(4), 11)])
    found = samples(whole)
    assert all("worker" in dict(labels) for _, labels in found)
    requests = {dict(labels)["worker"]: value for (name, labels), value in found.items() if name == "weir_requests_total"}
    assert requests == {"0": 3, "11": 4}
    assert found["weir_holds_open", (("worker", "11"),)] == 4
    assert found["weir_queue_wait_seconds_bucket", (("lane", "fast"), ("le", "0.5"), ("worker", "0"))] == 1
    heads = [line for line in whole.decode().splitlines() if line.startswith("#")]
    assert len(heads) == len(set(heads)) == len([line for line in worker(1).decode().splitlines() if line.startswith("#")])
    assert len(found) == 2 * len(samples(worker(1)))


async def serve_sibling(folder: Path, index: int, answer: bytes | None) -> asyncio.Server:
    """Listen as a sibling does; one without an answer takes the question and says nothing."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()

    return await asyncio.start_unix_server(talk, socket_of(folder, index))


async def test_a_sibling_that_is_silent_gone_or_fails_is_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(siblings, "ANSWER_S_MAX", 0.2)
    well = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n" + worker(5)
    cut = b"HTTP/1.1 200 OK\r\n\r\n# HELP weir_x"
    answers = {1: well, 2: None, 3: b"HTTP/1.1 500 Internal Server Error\r\n\r\noops\n", 4: cut}
    servers = [await serve_sibling(tmp_path, index, answer) for index, answer in answers.items()]  # number 5 is not there at all
    family = Siblings(tmp_path, 0, 6)
    family.figures = {"weir_worker_restarts_total": {"5": 2}, "weir_child_restarts_total": {"local": 1}}
    found = samples(await family.whole(worker(7)))
    for server in servers:
        server.close()
    assert {dict(labels)["worker"]: value for (name, labels), value in found.items() if name == "weir_holds_open"} == {"0": 7, "1": 5}
    assert found["weir_workers_unheard", ()] == 4 and found["weir_workers", ()] == 6
    assert found["weir_worker_restarts_total", (("worker", "5"),)] == 2
    assert found["weir_child_restarts_total", (("child", "local"),)] == 1


class Counted(asyncio.Protocol):
    """A connection that is only counted."""

    def __init__(self, had: list[Any]) -> None:
        self.had = had

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.had.append(transport)


def listening() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    return listener


async def until(holds: Any) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


async def test_connections_go_to_who_has_the_fewest(tmp_path: Path) -> None:
    with listening() as listener:
        tally = Tally(tmp_path / "connections", 3, create=True)
        had: list[list[Any]] = [[], [], []]
        had[0] = ["busy"] * 8

        def count(index: int) -> int:
            return len(had[index])

        doors = [Door(listener.dup(), Tally(tmp_path / "connections", 3), index, partial(count, index)) for index in (0, 1)]
        for index, door in enumerate(doors):
            door.open(partial(Counted, had[index]))
        clients = []
        for number in range(1, 7):
            clients.append(socket.create_connection(listener.getsockname()))
            await until(lambda number=number: len(had[0]) + len(had[1]) == 8 + number)
        assert [len(had[0]), len(had[1])] == [8, 6] and list(tally.counts)[2] == ABSENT
        doors[1].close()
        clients.append(socket.create_connection(listener.getsockname()))
        await until(lambda: len(had[0]) == 9)
        doors[0].close()
        assert list(tally.counts) == [ABSENT] * 3
        for client in clients:
            client.close()
        for transport in had[0][8:] + had[1]:
            transport.abort()
        await asyncio.sleep(0)


async def test_a_worker_that_does_not_come_holds_nobody_up(tmp_path: Path) -> None:
    with listening() as listener:
        tally = Tally(tmp_path / "connections", 2, create=True)
        tally.counts[1] = 0  # it hangs: it has fewer connections, and takes none
        had: list[Any] = []
        door = Door(listener, tally, 0, lambda: 5 + len(had))
        door.open(lambda: Counted(had))
        clients = [socket.create_connection(listener.getsockname()) for _ in range(20)]
        await until(lambda: len(had) == 20)
        door.close()
        for part in clients + had:
            part.close()
        await asyncio.sleep(0)
