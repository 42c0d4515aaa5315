"""Show that a request costs the same whatever the books hold: few tenants, one model and no usage beside many of each.

Two gateways on SQLite, in turns, each with 32 connections: `small` has the tenants that ask and nothing else; in `grown` those are among a million, the model
among a thousand, and the usage table holds ten million rows.
"""

import argparse
import sqlite3
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # started as a script

from billing.tenants.keys import KeyHasher  # noqa: E402
from gateway.config import load_settings, pepper  # noqa: E402
from tests.bench import rig  # noqa: E402
from tests.bench.processes import TARGET_CORE, Process  # noqa: E402
from tests.bench.targets import MODEL, WEIR, Mock, Weir  # noqa: E402

# What a tenant's rows are, and which columns name the tenant or the row itself: {i} is the tenant's number.
TENANT = {
    "tenant": {"id": "'tenant-'||i"},
    "api_key": {"id": "id||'-'||i", "tenant_id": "'tenant-'||i", "digest": "randomblob(32)"},
    "subscription": {"id": "id||'-'||i", "tenant_id": "'tenant-'||i"},
    "credit_grant": {"id": "id||'-'||i", "tenant_id": "'tenant-'||i"},
    "grant_balance": {"grant_id": "grant_id||'-'||i"},
    "credit_account": {"tenant_id": "'tenant-'||i"},
}
NUMBERS = "WITH RECURSIVE number(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM number WHERE i < ?)"


class Town(Weir):
    """Weir with so many tenants, models and rows of usage; `active` tenants ask."""

    def __init__(self, mock: Mock, folder: Path, *, active: int, tenants: int, models: int, rows: int) -> None:
        self.models, self.active = models, active
        super().__init__(mock, folder)
        self.name = folder.name
        rig.load(self, "plain", ("-c", "1", "-n", "1"))  # the row that is copied
        self.requests += 1
        self.stop()
        self.copied = rows
        secrets = [f"sk-weir-bench-{number}" for number in range(active)]
        began_s = time.monotonic()
        self._fill(tenants, rows, secrets)
        print(f"{self.name}: filled in {time.monotonic() - began_s:.0f} s", file=sys.stderr)
        (folder / "keys").write_text("\n".join(secrets) + "\n")
        self.process = Process([WEIR, "serve", "--config", self.config], folder / "weir.log", core=TARGET_CORE)
        self.process.wait_ready(self.port, "/ready")
        self.headers = ()

    def _settings(self, port: int, upstream: int) -> dict[str, object]:
        settings: dict[str, Any] = super()._settings(port, upstream)
        settings["models"] |= {f"model-{number}": settings["models"][MODEL] for number in range(self.models - 1)}
        settings["seed"]["rates"] |= {f"model-{number}": settings["seed"]["rates"][MODEL] for number in range(self.models - 1)}
        return settings

    def _fill(self, tenants: int, rows: int, secrets: list[str]) -> None:
        hasher = KeyHasher(pepper(load_settings(self.config)))
        with closing(sqlite3.connect(self.folder / "data" / "weir.db")) as database:
            database.execute("PRAGMA synchronous = OFF")
            database.execute("PRAGMA cache_size = -400000")
            source = {"tenant": "id = 'bench'", "grant_balance": "grant_id IN (SELECT id FROM credit_grant WHERE tenant_id = 'bench')"}
            for table, changed in TENANT.items():
                self._copy(database, table, changed, source.get(table, "tenant_id = 'bench'"), tenants)
            found = database.execute("SELECT id FROM api_key WHERE tenant_id LIKE 'tenant-%' LIMIT ?", (len(secrets),)).fetchall()
            digests = [(hasher.digest(secret), row[0]) for secret, row in zip(secrets, found, strict=True)]
            database.executemany("UPDATE api_key SET digest = ? WHERE id = ?", digests)
            if rows:
                self._copy(database, "usage_event", {"id": "id||'-'||i", "tenant_id": f"'tenant-'||(1 + i % {tenants})"}, "tenant_id = 'bench'", rows)
            database.execute("ANALYZE")
            database.commit()

    @staticmethod
    def _copy(database: sqlite3.Connection, table: str, changed: dict[str, str], where: str, count: int) -> None:
        names = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        values = ", ".join(changed.get(name, name) for name in names)
        database.execute(f"{NUMBERS} INSERT INTO {table} ({', '.join(names)}) SELECT {values} FROM number, {table} WHERE {where}", (count,))

    def check(self) -> str:
        """Compare the usage events that were not copied with what the mock served for this gateway."""
        self.requests += self.copied
        return super().check()

    def measure(self, mock: Mock, seconds: float) -> float:
        """Return the CPU time of a request (us) once every tenant has been seen."""
        before = mock.served()
        keys = ("-K", str(self.folder / "keys"))
        rig.load(self, "plain", ("-c", "32", "-n", str(2 * self.active), *keys))
        assert self.process is not None
        cpu_us = self.process.cpu_us()
        row = rig.load(self, "plain", ("-c", "32", "-d", f"{seconds}", *keys))
        time.sleep(0.5)
        self.requests += mock.served() - before
        assert row["failed"] + row["refused"] + row["short"] == 0, row
        cost_us: float = (self.process.cpu_us() - cpu_us) / row["finished"]
        print(f"{self.name:6} {cost_us:7.1f} us  {row['requests_per_s']:8,.0f} requests/s  {self.process.rss_kb() / 1024:.0f} MB", file=sys.stderr)
        return cost_us


def main() -> None:
    """Fill, measure in turns, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--active", type=int, default=1000, help="tenants that ask, in both")
    parser.add_argument("--tenants", type=int, default=1_000_000)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    with ExitStack() as stack:
        mock = stack.enter_context(rig.upstream())
        sizes = {"small": (options.active, 1, 0), "grown": (options.tenants, options.models, options.rows)}
        towns = []
        for name, (tenants, models, rows) in sizes.items():
            towns.append(Town(mock, rig.FOLDER / name, active=options.active, tenants=tenants, models=models, rows=rows))
            stack.callback(towns[-1].stop)
        costs: dict[str, list[float]] = {town.name: [] for town in towns}
        for number in range(options.rounds):
            for town in towns if number % 2 == 0 else towns[::-1]:
                costs[town.name].append(town.measure(mock, options.seconds))
        for town in towns:
            town.stop()
            print(town.check())
    small, grown = min(costs["small"]), min(costs["grown"])
    print(f"least CPU a request: small {small:.1f} us, grown {grown:.1f} us, ratio {grown / small:.2f}")


if __name__ == "__main__":
    main()
