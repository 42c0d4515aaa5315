"""What the meter costs: the gateway on PostgreSQL with durability `disk` and many tenants, beside the same gateway without its meter.

    python -m tests.bench.metering [--tenants 64] [--rounds 5] [--connections 256] [--durability disk] [--sqlite]

Rounds are interleaved; the figure is the difference of the medians, CPU time of the gateway's process a request. The meter is what
`unmetered.py` leaves out: holds, charges, the journal and its pushes to the disk, flushes into the books. PostgreSQL's own CPU is not in it.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import yaml

from billing.db import Database
from billing.operations.keys import issue_key
from billing.tenants.keys import KeyHasher
from gateway.config import load_settings, pepper
from tests.bench.processes import LOAD_CORE, TARGET_CORE, Process
from tests.bench.rig import FOLDER, upstream
from tests.bench.targets import MODEL, ROOT, WEIR, Mock
from tests.real.child import free_port
from tests.real.postgres import fresh_database, postgres_server

Row = dict[str, Any]


class Metered:
    """A gateway with many tenants, each with a key. `meter` False: without its meter."""

    def __init__(self, mock: Mock, folder: Path, database_url: str | None, options: argparse.Namespace, *, meter: bool) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.name = "metered" if meter else "unmetered"
        self.folder, self.port, self.database_url = folder, free_port(), database_url
        config = folder / "weir.yaml"
        config.write_text(yaml.safe_dump(self._settings(mock.port, options), sort_keys=False))
        weir: list[str | Path] = [WEIR] if meter else [sys.executable, "-m", "tests.bench.unmetered"]
        self.process = Process([*weir, "serve", "--config", config], folder / "weir.log", core=TARGET_CORE, env={"PYTHONPATH": str(ROOT)})
        self.process.wait_ready(self.port, "/ready")
        (folder / "keys").write_text("\n".join(issued(config, [f"t{number}" for number in range(options.tenants)])) + "\n")

    def load(self, *arguments: str) -> Row:
        """Load it with every tenant in turn."""
        command = [str(FOLDER / "load"), "-p", str(self.port), "-b", str(FOLDER / "plain.json"), "-K", str(self.folder / "keys"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True, preexec_fn=lambda: os.sched_setaffinity(0, {LOAD_CORE}))
        row: Row = json.loads(done.stdout)
        return row

    def measure(self, connections: int) -> float:
        """Return the CPU time of a request (us), once everything of it is booked."""
        self.load("-c", str(connections), "-d", "1")
        time.sleep(0.5)
        before_us = self.process.cpu_us()
        row = self.load("-c", str(connections), "-d", "4")
        time.sleep(0.5)  # what is flushed after the answer is its work too
        assert row["failed"] + row["refused"] + row["short"] == 0, row
        cost_us: float = (self.process.cpu_us() - before_us) / row["finished"]
        print(f"{self.name:10} {cost_us:7.1f} us  {row['requests_per_s']:8,.0f} requests/s  p50 {row['p50_us']:,.0f} us", file=sys.stderr)
        return cost_us

    def _settings(self, upstream: int, options: argparse.Namespace) -> dict[str, Any]:
        return {
            "server": {"port": self.port},
            "data_dir": str(self.folder / "data"),
            **({"database": {"url": self.database_url}, "secret": "the bench has no secrets"} if self.database_url else {}),
            "books": {"durability": options.durability},
            "backends": {"mock": {"provider": "openai_compatible", "urls": [f"http://127.0.0.1:{upstream}/v1"], "slots": 4096}},
            "models": {MODEL: {"routes": [{"backend": "mock", "model": MODEL}]}},
            "seed": {
                "plans": {"bench": {"credits": "9000000"}},
                "tenants": {f"t{number}": {"plan": "bench"} for number in range(options.tenants)},
                "rates": {MODEL: {"input": "0.5", "output": "1.5"}},
            },
        }


def issued(config: Path, tenants: list[str]) -> list[str]:
    """Issue a key for each tenant, as `weir key issue` does, and return the secrets."""
    settings = load_settings(config)
    database, hasher = Database(settings.database_url), KeyHasher(pepper(settings))
    made = [issue_key(database, hasher, tenant_id=tenant, kind="tenant", name="bench", now_us=time.time_ns() // 1000) for tenant in tenants]
    database.close()
    return [one.secret for one in made]


def main() -> None:
    """Measure, and print the difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tenants", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=256, help="at once; a push to the disk is shared by those that wait for it")
    parser.add_argument("--durability", choices=("process", "disk"), default="disk")
    parser.add_argument("--sqlite", action="store_true", help="on SQLite instead of PostgreSQL")
    options = parser.parse_args()
    with ExitStack() as stack:
        mock = stack.enter_context(upstream())
        server = None if options.sqlite else stack.enter_context(postgres_server())
        if server is not None:
            with psycopg.connect(server, autocommit=True) as connection:
                for setting in ("fsync", "synchronous_commit"):
                    connection.execute(f"ALTER SYSTEM SET {setting} = on")
                connection.execute("SELECT pg_reload_conf()")
        gateways = []
        for meter in (False, True):
            url = None if server is None else stack.enter_context(fresh_database(server))
            gateways.append(Metered(mock, FOLDER / ("metered" if meter else "unmetered"), url, options, meter=meter))
            stack.callback(gateways[-1].process.stop)
        costs: dict[str, list[float]] = {"unmetered": [], "metered": []}
        for number in range(options.rounds):
            for gateway in gateways if number % 2 == 0 else gateways[::-1]:
                costs[gateway.name].append(gateway.measure(options.connections))
    without, with_ = (statistics.median(costs[name]) for name in ("unmetered", "metered"))
    where = "SQLite" if options.sqlite else "PostgreSQL, fsync on"
    print(f"{options.tenants} tenants, {where}, durability {options.durability}, {options.connections} connections:")
    print(f"{without:.1f} us without the meter, {with_:.1f} us with it: {with_ - without:.1f} us a request")


if __name__ == "__main__":
    main()
