"""What every chaos test stands on: gateways that can die in front of a witness, and the comparison of its log with the ledger.

The comparison is the point of it all: what the upstream says it served equals what is booked, to the token, but for requests that
the crash matrix declares: those whose process died before their end was in the journal. They are booked as `recovered`.
"""

import asyncio
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Row, text

from billing.db import Database
from billing.operations import keys
from billing.tenants.keys import KeyHasher
from billing.usage.verify import verify
from gateway.cli.first_start import plant
from gateway.clock import SystemClock
from gateway.config import load_settings, pepper
from tests.real.child import ROOT, Child
from tests.real.gateway import Gateway, write_gateway
from tests.real.witness import Served, Witness

PRICES = {"m": (1_000_000, 3_000_000), "exact": (0, 3_000_000)}  # ncr for a token of input and of output; what `exact` holds is what it costs
OUTPUT_TOKENS_MAX = 10  # what is held for where the client names no limit
DAY_US = 86_400_000_000
SECRET = "0123456789abcdef0123456789abcdef"
EVENTS = "SELECT id, tenant_id, model, input, output, charge_ncr, cover_ncr, covered_ncr, outcome, source, lane, status FROM usage_event"


class Mortal(Gateway):
    """A gateway that can be given an end."""

    def start(self, *, limit_s: float = 60, point: str | None = None) -> "Mortal":
        """Start it and wait for /ready; `point` is where it dies (`mortal.py`)."""
        command: list[str | Path] = [sys.executable, "-m", "tests.chaos.mortal", "serve", "--config", self.config_path, *self.flags]
        env = {**self.env, "PYTHONPATH": str(ROOT)} | ({"MORTAL_POINT": point} if point else {})
        self.child = Child(command, self.folder / "gateway.log", env=env, cwd=self.folder)
        self.child.wait_ready(f"{self.root_url}/ready", limit_s)
        return self

    def prepare(self, tenant: str = "t") -> str:
        """Make its database, plans and tenants without serving, and return a key of a tenant: `t`, `u` or `stranger`. All of it was so yesterday already."""
        settings = load_settings(self.config_path)
        database = Database(settings.database_url)
        try:
            database.migrate()
            now_us = SystemClock().now_us() - DAY_US
            plant(database, settings.seed, now_us)
            return keys.issue_key(database, KeyHasher(pepper(settings)), tenant_id=tenant, kind="tenant", name="test", now_us=now_us).secret
        finally:
            database.close()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.child is not None
        self.child.signal(number)

    async def until_logged(self, text: str, limit_s: float = 20) -> None:
        """Wait until it has said so."""
        async with asyncio.timeout(limit_s):
            while text not in self.log():
                await asyncio.sleep(0.02)

    def wait_dead(self, limit_s: float = 30) -> None:
        """Wait until it was killed at its point."""
        assert self.child is not None
        code = self.child.process.wait(limit_s)
        assert code == -9, f"it ended with {code} and was not killed:\n{self.log()[-3000:]}"


@dataclass
class Scene:
    """One database, one witness, some gateways."""

    folder: Path
    witness: Witness
    database_url: str | None
    config: Mapping[str, Any]
    gateways: list[Mortal] = field(default_factory=list)

    def gateway(self, *, env: Mapping[str, str] | None = None, flags: tuple[str, ...] = (), point: str | None = None, start: bool = True) -> Mortal:
        """Add a gateway, each with a data folder of its own; start it unless told not to."""
        plain = write_gateway(self.folder / f"gateway-{len(self.gateways)}", self.config, env=env, flags=flags)
        mortal = Mortal(plain.folder, plain.config_path, plain.port, plain.env, plain.flags)
        self.gateways.append(mortal)
        return mortal.start(point=point) if start else mortal

    @property
    def ports(self) -> list[int]:
        return [one.port for one in self.gateways]

    @contextmanager
    def database(self) -> Iterator[Database]:
        database = Database(self.database_url or f"sqlite:///{self.gateways[0].data_dir / 'weir.db'}")
        try:
            yield database
        finally:
            database.close()

    def rows(self, query: str, **values: object) -> list[Row[Any]]:
        """Read from the books."""
        with self.database() as database, database.read() as session:
            return list(session.connection().execute(text(query), values))

    async def until(self, query: str, limit_s: float = 20) -> None:
        """Wait until the books say so: a query of one truth."""
        async with asyncio.timeout(limit_s):
            while not (await asyncio.to_thread(self.rows, query))[0][0]:
                await asyncio.sleep(0.05)

    def booked(self) -> dict[str, Row[Any]]:
        """Every usage event, by id."""
        rows = self.rows(EVENTS)
        found = {row.id: row for row in rows}
        assert len(found) == len(rows), "an event is booked twice"
        return found

    def stop(self) -> None:
        """End every gateway that runs, in good order."""
        for gateway in self.gateways:
            if gateway.child is not None and gateway.child.process.poll() is None:
                code = gateway.stop()
                assert code == 0, f"it ended with {code}:\n{gateway.log()[-3000:]}"

    def check(self, seen: Iterable[str], *, recovered_max: int = 0, damaged: int = 0) -> dict[str, Row[Any]]:
        """Compare the witness's log with the books, and let the books be verified. Every gateway must have ended.

        `seen` are the events whose answer's end a client saw: no crash excuses a difference in these. At most `recovered_max` others may be
        booked as recovered, and `damaged` pieces of records be kept aside. Returns the events by id.
        """
        served, booked = self.witness.wait_idle(), self.booked()
        problems = differences(served, booked, set(seen))
        assert not problems, "\n".join(problems[:20])
        recovered = [one for one in booked.values() if one.outcome == "recovered"]
        assert len(recovered) <= recovered_max, f"{len(recovered)} requests are booked as recovered, at most {recovered_max} could be"
        wrong = [one for one in booked.values() if one.charge_ncr != rated_ncr(one)]
        assert not wrong, f"charged other than rated: {wrong[:5]}"
        with self.database() as database, database.read() as session:
            assert verify(session, SystemClock().now_us()) == []
        assert self.rows("SELECT * FROM lease WHERE amount_ncr <> 0") == [], "who left in good order left something set aside"
        found = [path for gateway in self.gateways for path in (gateway.data_dir / "journal").glob("damaged-*")]
        assert len(found) == damaged, f"{damaged} pieces of records were torn, {len(found)} are kept aside: {found}"
        return booked


def rated_ncr(event: Row[Any]) -> int:
    """What an event must cost by the scene's rates."""
    input_ncr, output_ncr = PRICES[event.model]
    return (event.input or 0) * input_ncr + (event.output or 0) * output_ncr


def differences(served: Mapping[str, Served], booked: Mapping[str, Row[Any]], seen: set[str]) -> list[str]:
    """Say of each request on which the upstream and the books differ how they do."""
    found = []
    for one in served.values():
        event = booked.get(one.id)
        if event is None:
            found.append(f"{one} is in no book")
        elif event.outcome == "recovered":
            if one.id in seen:
                found.append(f"{one} was seen to its end, and is booked as recovered")
        elif event.outcome == "complete":
            if (event.input, event.output) != (one.input, one.output):
                found.append(f"{one} is booked as {event}")
        elif one.id in seen or event.outcome != "cut" or (event.output or 0) > one.output:
            found.append(f"{one} is booked as {event}")
    found += [f"{event} never reached the upstream" for event in booked.values() if event.id not in served and event.outcome not in ("recovered", "failed")]
    found += [f"the end of {event_id} was seen, and no upstream served it" for event_id in seen - served.keys()]
    return found


def scene_config(base_url: str, database_url: str | None, *, credits: str, more: Mapping[str, Any]) -> dict[str, Any]:
    """Write the configuration: its models at the witness, and three tenants with so many credits each; `more` is laid over it, section by section."""
    config: dict[str, Any] = {
        "server": {"shutdown_grace_s": 5},
        "leases": {"term_s": 3, "beat_s": 0.3},
        "backends": {"w": {"urls": [base_url], "slots": 256}},
        "models": {name: {"routes": [{"backend": "w", "model": "witness"}], "output_tokens_max": OUTPUT_TOKENS_MAX} for name in PRICES},
        "lanes": {"fast": {"depth_max": 8192, "wait_ms_max": 120_000}, "slow": {"depth_max": 8192, "wait_ms_max": 120_000}},
        "seed": {
            "plans": {"p": {"credits": credits, "slow_concurrency": 256}},
            "tenants": {tenant: {"plan": "p"} for tenant in ("t", "u", "stranger")},
            "rates": {"m": {"input": "1000", "output": "3000"}, "exact": {"input": "0", "output": "3000"}},
        },
    }
    if database_url is not None:
        config |= {"database": {"url": database_url}, "secret": SECRET}
    for section, values in more.items():
        config[section] = {**config.get(section, {}), **values} if isinstance(values, Mapping) else values
    return config


@contextmanager
def open_scene(
    folder: Path, upstream: Witness, database_url: str | None = None, *, credits: str = "1000000", more: Mapping[str, Any] | None = None
) -> Iterator[Scene]:
    """Set the scene: SQLite unless a database is named. Everything that was started is killed at the end."""
    scene = Scene(folder, upstream.fresh(), database_url, scene_config(upstream.base_url, database_url, credits=credits, more=more or {}))
    try:
        yield scene
    finally:
        for gateway in scene.gateways:
            gateway.kill()
