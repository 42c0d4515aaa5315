"""What lanes cost: a decision of the queue, and a request that waits; and what 10,000 of them that wait do to those who pay.

    python -m tests.bench.lanes                          # decisions, then 10,000 slow requests waiting on one gateway, 2 minutes
    python -m tests.bench.lanes --waiting 1000           # fewer
    python -m tests.bench.lanes --waiting 0              # the decisions alone

Decisions: CPU time of offer, end and grant of one request among tenants that all wait. Waiting: the gateway as its users run it (`weir serve`,
SQLite), its own echo as the backend, 50 ms a request, two slots, so that one slow request runs at a time; memory is the growth of the gateway's RSS
for each that waits, in which sockets' buffers are not (they are the kernel's, and named apart). The paying tenant sends one request after
another, over one connection, before and while they wait; its wait is what its answers say beside what the same request takes alone.
"""

import argparse
import asyncio
import json
import random
import resource
import shutil
import statistics
import time
from collections import deque
from pathlib import Path

import yaml

from billing.db import Database
from billing.operations.keys import issue_key
from billing.tenants.keys import KeyHasher
from gateway.config import load_settings, pepper
from gateway.lanes.queue import FairQueue, Ticket
from gateway.lanes.standing import Lane
from tests.bench.processes import TARGET_CORE, Process
from tests.bench.rig import FOLDER
from tests.bench.targets import ROOT, WEIR
from tests.real.child import free_port

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 16}).encode()


def decision_us(tenants: int, rounds: int = 50_000) -> float:
    """Return the CPU time (us) of one request's way through a queue in which so many tenants wait."""
    queue, dice = FairQueue(64, depths=dict.fromkeys(Lane, 10**9), ages_us=dict.fromkeys(Lane, 10**12)), random.Random(1)
    costs = [dice.randint(1, 1000) for _ in range(1024)]
    running: deque[Ticket] = deque()

    def send(tenant: str, number: int) -> None:
        one = Ticket(tenant=tenant, lane=Lane.SLOW, cost=costs[number % 1024], limit=2, borrows=True)
        if queue.offer(one, number):
            running.append(one)
        else:
            running.extend(queue.next(number))

    for number in range(tenants * (2 + 128 // tenants)):
        send(f"t{number % tenants}", number)
    began = time.process_time()
    for number in range(rounds):
        one = running.popleft()
        queue.done(one, costs[(number * 7) % 1024], number)
        running.extend(queue.next(number))
        send(one.tenant, number)
    return (time.process_time() - began) / rounds * 1e6


class Connection:
    """One keep-alive connection of a client."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        self._request = f"{head}content-length: {len(BODY)}\r\n\r\n".encode() + BODY
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self) -> None:
        """Send a request, and do not wait for its answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        self._streams[1].write(self._request)
        await self._streams[1].drain()

    async def answer(self) -> tuple[int, dict[str, str]]:
        """Read an answer; return its status and headers."""
        assert self._streams is not None
        head = (await self._streams[0].readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        await self._streams[0].readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers

    def close(self) -> None:
        """Leave."""
        if self._streams is not None:
            self._streams[1].close()


async def paying(port: int, key: str, seconds: float) -> list[float]:
    """Send one request after another; return how long each took, in ms."""
    connection, took = Connection(port, key), []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        await connection.send()
        status, headers = await connection.answer()
        assert (status, headers["x-weir-lane"]) == (200, "fast"), (status, headers)
        took.append((time.monotonic() - began) * 1000)
    connection.close()
    return took


async def crowd(port: int, keys: list[str], count: int) -> list[Connection]:
    """Have so many slow requests wait, of as many tenants as there are keys."""
    connections = [Connection(port, keys[number % len(keys)]) for number in range(count)]
    for start in range(0, count, 100):
        await asyncio.gather(*(connection.send() for connection in connections[start : start + 100]))
    return connections


async def depth(port: int) -> float:
    """Return how many slow requests wait, as the gateway's metrics say."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    body = (await reader.read()).decode()
    writer.close()
    return sum(float(line.rsplit(" ", 1)[1]) for line in body.splitlines() if line.startswith("weir_queue_depth{") and 'lane="slow"' in line)


def figure(name: str, before: list[float], during: list[float]) -> None:
    """Print the quantiles of both."""
    cut = {part: [statistics.quantiles(values, n=100)[part - 1] for values in (before, during)] for part in (50, 99)}
    print(f"{name}: p50 {cut[50][0]:.2f} -> {cut[50][1]:.2f} ms, p99 {cut[99][0]:.2f} -> {cut[99][1]:.2f} ms ({len(before)} and {len(during)} requests)")
    print(f"    p99 grew by {cut[99][1] - cut[99][0]:.2f} ms")


async def waiting(port: int, gateway: Process, keys: list[str], options: argparse.Namespace) -> None:
    """Measure what waiting requests cost, and what they do to one that pays."""
    await paying(port, keys[0], 3)
    before = await paying(port, keys[0], options.seconds)
    for connection in await crowd(port, keys[1:], 50):  # every tenant's account is loaded
        await connection.answer()
        connection.close()
    empty = gateway.rss_kb()
    connections = await crowd(port, keys[1:], options.waiting)
    while await depth(port) < 0.98 * options.waiting:  # one slow request goes every 50 ms meanwhile
        await asyncio.sleep(0.5)
    full = gateway.rss_kb()
    print(f"waiting: {options.waiting:,} requests, {(full - empty) / options.waiting:.1f} KB of RSS each ({empty / 1024:.0f} -> {full / 1024:.0f} MB)")
    during = await paying(port, keys[0], options.seconds)
    figure("a paying tenant's requests, alone -> beside them", before, during)
    for connection in connections:
        connection.close()


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiting", type=int, default=10_000)
    parser.add_argument("--tenants", type=int, default=50, help="exhausted tenants, whose requests wait")
    parser.add_argument("--seconds", type=float, default=15.0, help="of the paying tenant's requests, before and during")
    options = parser.parse_args()
    for tenants in (10, 1_000, 100_000):
        print(f"decision among {tenants:,} waiting tenants: {decision_us(tenants):.1f} us")
    if not options.waiting:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, options.waiting + 1000)), hard))
    folder = FOLDER / "lanes"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    port = free_port()
    config = folder / "weir.yaml"
    config.write_text(yaml.safe_dump(settings(folder, port, options)))
    process = Process([WEIR, "serve", "--config", config], folder / "weir.log", core=TARGET_CORE, env={"PYTHONPATH": str(ROOT)})
    try:
        process.wait_ready(port, "/ready")
        keys = issued(config, ["paying", *(f"t{number}" for number in range(options.tenants))])
        asyncio.run(waiting(port, process, keys, options))
    finally:
        process.stop()


def settings(folder: Path, port: int, options: argparse.Namespace) -> dict[str, object]:
    """Write the gateway's configuration: one tenant in credit, the others without."""
    lane = {"depth_max": options.waiting + 100, "wait_ms_max": 600_000}
    tenants = {f"t{number}": {"plan": "none"} for number in range(options.tenants)} | {"paying": {"plan": "rich"}}
    return {
        "data_dir": str(folder / "data"),
        "server": {"port": port},
        "log": {"level": "WARNING"},
        "lanes": {"slow": lane},
        "backends": {"m": {"provider": "echo", "slots": 2, "echo": {"first_token_ms": 50}}},
        "models": {"m": {"routes": [{"backend": "m", "model": "m"}]}},
        "seed": {
            "plans": {"none": {"credits": "0"}, "rich": {"credits": str(10**6)}},
            "tenants": tenants,
            "rates": {"m": {"input": "1", "output": "1"}},
        },
    }


def issued(config: Path, tenants: list[str]) -> list[str]:
    """Issue a key for each tenant."""
    loaded = load_settings(config)
    database = Database(loaded.database_url)
    hasher = KeyHasher(pepper(loaded))
    try:
        return [issue_key(database, hasher, tenant_id=tenant, kind="tenant", name="bench", now_us=time.time_ns() // 1000).secret for tenant in tenants]
    finally:
        database.close()


if __name__ == "__main__":
    main()
