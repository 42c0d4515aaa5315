"""The stage of `flush.py`: a real database on the disk, as many tenants as are asked for, and requests of theirs."""

import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psycopg
from sqlalchemy import text

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from billing.bulk import Insert
from billing.credits.account import Snapshot
from billing.credits.draw import Member, Want, draw
from billing.db import Database
from billing.leases import store as leases
from billing.leases.store import Replica
from billing.meter import Meter
from billing.operations import plans, tenants
from billing.plans.terms import PlanTerms
from billing.usage.event import UsageEvent
from billing.usage.partitions import make_months
from gateway.ids import uuid7
from tests.real.postgres import fresh_database, postgres_server

NOW_US = 1_795_000_000_000_000
REPLICA = "bench"
MEMBER = Member(replica_id=REPLICA, beats=(1,), processes=1)
TEMPLATE = "tenant-template"
CLONED = ("tenant", "subscription", "credit_grant", "grant_balance", "credit_account", "lease")


@contextmanager
def databases(*, fsync: bool, url: str | None = None) -> Iterator[tuple[str, str]]:
    """Start the embedded PostgreSQL, or take the server of `url`; yield its URL and what it is."""
    if url is not None:
        yield url, "PostgreSQL"
        return
    with postgres_server() as own:
        with psycopg.connect(own, autocommit=True) as connection:
            for setting in ("fsync", "synchronous_commit"):
                connection.execute(f"ALTER SYSTEM SET {setting} = {'on' if fsync else 'off'}")
            connection.execute("SELECT pg_reload_conf()")
        yield own, f"PostgreSQL, fsync {'on' if fsync else 'off'}"


@contextmanager
def books(engine: str, server: str, count: int) -> Iterator[Database]:
    """Open fresh books in which `count` tenants have a plan, an allowance, and a lease of this process."""
    folder = Path(tempfile.mkdtemp(prefix="weir-flush-", dir="/var/tmp"))
    try:
        if engine == "sqlite":
            database = Database(f"sqlite:///{folder / 'weir.db'}")
            _people(database, count)
            yield database
            database.close()
        else:
            with fresh_database(server) as url:
                database = Database(url)
                _people(database, count)
                yield database
                database.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def tenant_id(number: int) -> str:
    """Name a tenant."""
    return f"tenant-{number:06d}"


def requests(count: int, people: int, *, first: int = 0) -> list[UsageEvent]:
    """Make requests of random tenants, one every 100 us, ordinary chat completions that credits cover."""
    chosen = random.Random(first)
    day_us = NOW_US - NOW_US % 86_400_000_000
    return [
        UsageEvent(
            id=uuid7(at_us),
            tenant_id=tenant_id(chosen.randrange(people)),
            key_id="key_0192e4c39c00",
            project="assistant",
            model="llama-3.1-8b",
            backend="own",
            upstream_model="meta-llama/Llama-3.1-8B-Instruct",
            endpoint="chat/completions",
            started_us=at_us,
            ended_us=at_us + 1_200_000,
            status=200,
            outcome="complete",
            lane="fast",
            stream=True,
            source="reported",
            meter=Meter(input=812, output=244, cache_read=0),
            rate_id=1,
            charge_ncr=1_544_000,
            cover_ncr=1_544_000,
            queue_ms=3,
            ttft_us=180_000,
            day_us=day_us,
            period_us=NOW_US,
        )
        for at_us in range(NOW_US + first * 100, NOW_US + (first + count) * 100, 100)
    ]


def drawn(database: Database, name: str) -> Snapshot:
    """Draw credits for a tenant, as a process does whose lease runs low."""
    wants = [Want(key_id="key_0192e4c39c00", project="assistant", model="llama-3.1-8b", need_ncr=0)]
    with database.write() as session:
        return draw(session, MEMBER, name, wants, NOW_US)


def settle(database: Database) -> None:
    """Let what a fill left to be written to the disk be written, so that it is not measured with what comes next."""
    if database.dialect == "postgresql":
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("CHECKPOINT"))


def _people(database: Database, count: int) -> None:
    database.migrate()
    plans.set_plan(database, PlanTerms(plan="pro", allowance_ncr=10**15), NOW_US)
    tenants.create_tenant(database, id=TEMPLATE, name=TEMPLATE, plan="pro", now_us=NOW_US)
    with database.write() as session:
        make_months(session, NOW_US)
        leases.register(session, Replica(id=REPLICA, beat=1, host="bench", pid=1, started_us=NOW_US))
    drawn(database, TEMPLATE)
    with database.write() as session:
        subscription = session.execute(text("SELECT id FROM subscription")).scalar_one()
        for table in CLONED:
            rows = session.execute(text(f"SELECT * FROM {table}")).mappings().all()
            new = [tuple(_renamed(value, subscription, number) for value in row.values()) for row in rows for number in range(count)]
            if rows:
                Insert(table, tuple(rows[0].keys())).run(session.connection(), new)
        session.execute(text("ANALYZE"))


def _renamed(value: object, subscription: str, number: int) -> object:
    if not isinstance(value, str):
        return value
    return value.replace(TEMPLATE, tenant_id(number)).replace(subscription, f"{subscription}-{number}")


def copied(event: UsageEvent, at_us: int) -> UsageEvent:
    """Make the same request at another instant."""
    return msgspec.structs.replace(event, id=uuid7(at_us), started_us=at_us, ended_us=at_us + 1)
