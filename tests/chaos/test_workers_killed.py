"""`kill -9` among several workers: of one under load, and of their parent. Nothing is lost or booked twice, and no process stays behind."""

import asyncio
import os
import random
import signal
import socket
import sqlite3
import time
from pathlib import Path

import psutil
import pytest

from tests.chaos.test_gateway_killed import load
from tests.e2e.test_workers import figures, workers_of
from tests.real.gateway import Gateway, StartGateway

pytestmark = pytest.mark.chaos

WORKERS, CLIENTS, KILLS = 3, 12, 3
CONFIG = {
    "backends": {"echo": {"provider": "echo", "echo": {"token_ms": 1}}},
    "models": {"echo": {"routes": [{"backend": "echo", "model": "echo"}]}},
    "server": {"workers": WORKERS, "shutdown_grace_s": 5},
    "seed": {"plans": {"p": {"credits": "100000"}}, "tenants": {"t": {"plan": "p"}}, "rates": {"echo": {"input": "1000", "output": "3000"}}},
}


def check_books(gateway: Gateway, ended: dict[str, int], cut_most: int) -> None:
    """What a client saw the end of is booked once; what was cut, once at the most."""
    with sqlite3.connect(gateway.data_dir / "weir.db") as books:
        rows = books.execute("select id, output, charge_ncr, covered_ncr, outcome from usage_event").fetchall()
        [(left,)] = books.execute("select sum(remaining_ncr) from grant_balance")
    books.close()
    booked = {row[0]: row[1] for row in rows}
    assert len(rows) == len(booked)
    missing = ended.keys() - booked.keys()
    assert not missing, f"{len(missing)} of {len(ended)} answers that were seen to their end are in no book"
    assert {event: booked[event] for event in ended} == ended
    recovered = {row[0] for row in rows if row[4] == "recovered"}
    assert not recovered & ended.keys() and len(recovered) <= cut_most
    charged = sum(row[2] for row in rows)
    assert charged == sum(row[3] for row in rows) and left == 100_000 * 10**9 - charged
    verified = gateway.weir("ledger", "verify")
    assert verified.returncode == 0, verified.stdout


async def grown(ended: dict[str, int], by: int) -> None:
    before = len(ended)
    async with asyncio.timeout(30):
        while len(ended) < before + by:
            await asyncio.sleep(0.005)


async def test_a_worker_killed_under_load_is_replaced_while_the_others_serve(gateway_process: StartGateway) -> None:
    seed = int(time.time())
    print(f"seed {seed}")
    chance = random.Random(seed)
    gateway = gateway_process(CONFIG)
    key = await asyncio.to_thread(gateway.issue_key, "t")
    ended: dict[str, int] = {}
    stop = asyncio.Event()
    clients = [asyncio.create_task(load(gateway, key, ended, stop, seed + number)) for number in range(CLIENTS)]
    for kills in range(1, KILLS + 1):
        await grown(ended, 50 + chance.randrange(100))
        victim = chance.choice(workers_of(gateway))
        victim.kill()
        await grown(ended, 100)  # whether it is back yet or not
        async with asyncio.timeout(40):
            while sum((await asyncio.to_thread(figures, gateway, "weir_worker_restarts_total")).values()) < kills:
                await asyncio.sleep(0.05)
            while await asyncio.to_thread(figures, gateway, "weir_workers_unheard") != {(): 0} or len(workers_of(gateway)) < WORKERS:
                await asyncio.sleep(0.05)
    stop.set()
    await asyncio.gather(*clients)
    assert await asyncio.to_thread(gateway.stop) == 0
    check_books(gateway, ended, KILLS * CLIENTS)


async def test_a_parent_that_is_killed_leaves_no_process_and_no_port_taken(gateway_process: StartGateway, tmp_path: Path) -> None:
    run = tmp_path / "r"
    run.mkdir()
    gateway = gateway_process(CONFIG, env={"TMPDIR": str(run)})
    key = await asyncio.to_thread(gateway.issue_key, "t")
    assert len(list(run.glob("weir-*/*.sock"))) == WORKERS
    ended: dict[str, int] = {}
    stop = asyncio.Event()
    clients = [asyncio.create_task(load(gateway, key, ended, stop, number)) for number in range(CLIENTS)]
    await grown(ended, 100)
    left = workers_of(gateway)
    assert len(left) == WORKERS
    os.kill(gateway.pid, signal.SIGKILL)  # the parent alone
    _, alive = await asyncio.to_thread(psutil.wait_procs, left, 20)
    assert not alive, "a parent that was killed left workers behind"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", gateway.port))  # raises where anybody still listens
    assert not list(run.iterdir()), "the run directory was left behind"
    gateway.kill()  # nothing is left to kill: it takes the dead parent's status
    await asyncio.to_thread(gateway.start)
    await grown(ended, 50)
    stop.set()
    await asyncio.gather(*clients)
    assert await asyncio.to_thread(gateway.stop) == 0
    check_books(gateway, ended, CLIENTS)
