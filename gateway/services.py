"""The long-lived parts of one process, and the only place that puts them together. Nothing is global anywhere else."""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from backends.planner import Planner
from backends.pool import Pool, build_pools
from backends.transport.direct import DirectTransport
from backends.transport.over_httpx import HttpxTransport
from billing.credits.accounts import Accounts
from billing.db import Database
from billing.rates.card import RateCard
from billing.rates.store import all_rates
from billing.tenants.keys import KeyHasher
from billing.tenants.store import latest_change
from billing.usage.journal import Journal
from billing.usage.recorder import Recorder
from gateway.auth.keyring import Keyring
from gateway.changes import ChangeFeed
from gateway.clock import Clock
from gateway.config import Settings, pepper
from gateway.lanes.gate import Gate
from gateway.lanes.limits import Limiter
from gateway.lanes.queue import FairQueue
from gateway.lanes.standing import Lane
from gateway.telemetry.road import Road

log = logging.getLogger("weir")


class Tariff:
    """The rate card in force; replaced as a whole when a rate changes."""

    __slots__ = ("card",)

    def __init__(self, card: RateCard) -> None:
        self.card = card


@dataclass(frozen=True, kw_only=True)
class Services:
    """What a request, an admin and a scrape work with."""

    settings: Settings
    clock: Clock
    database: Database
    hasher: KeyHasher
    metrics: Road
    keyring: Keyring
    limiter: Limiter
    accounts: Accounts
    recorder: Recorder
    tariff: Tariff
    planner: Planner
    pools: dict[str, Pool]
    gates: dict[str, Gate]
    changes: ChangeFeed
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that outlives its request; shutdown waits for it, and its failure is logged."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background task failed", exc_info=error)


@asynccontextmanager
async def open_services(settings: Settings, clock: Clock) -> AsyncGenerator[Services]:
    """Open every part, start what runs beside the requests, and close it all in the opposite order.

    The database must be migrated. Raises `BooksUnavailable` or `BadConfig` with what to do.
    """
    database = Database(settings.database_url)
    direct, over_httpx = DirectTransport(), HttpxTransport()
    pools = build_pools(settings.backends, {"direct": direct, "httpx": over_httpx})
    journal = Journal(settings.data_dir / "journal", clock.now_us, bytes_max=settings.books.journal_bytes_max)
    books = settings.books
    recorder = Recorder(database, journal, clock.now_us, flush_ms=books.flush_ms, batch=books.flush_events_max, backlog_max=books.backlog_max)
    loop = asyncio.get_running_loop()
    hasher = KeyHasher(pepper(settings))
    keyring = Keyring(database, hasher, clock.now_us)
    accounts = Accounts(recorder, clock, accounts_max=settings.limits.tenants_cached_max)
    tariff = Tariff(RateCard(()))

    def on_change(tenants: set[str] | None) -> None:
        if tenants is None:
            keyring.forget(None)
            accounts.refresh_all()
            services.spawn(_load_rates(database, tariff))
            return
        for tenant in tenants:
            keyring.forget(tenant)
            accounts.refresh(tenant)

    changes = ChangeFeed(database, on_change, every_s=settings.limits.changes_poll_ms / 1000)
    services = Services(
        settings=settings,
        clock=clock,
        database=database,
        hasher=hasher,
        metrics=Road(),
        keyring=keyring,
        limiter=Limiter(),
        accounts=accounts,
        recorder=recorder,
        tariff=tariff,
        planner=Planner(settings.models, pools),
        pools=pools,
        gates={name: _gate(settings, pool, clock) for name, pool in pools.items()},
        changes=changes,
    )
    _watch(services, journal)
    changes.start_after(await asyncio.to_thread(_latest_change, database))
    await _load_rates(database, tariff)
    recorder.start(lambda callback: _post(loop, callback))
    beside = [asyncio.create_task(changes.follow()), *(asyncio.create_task(pool.watch()) for pool in pools.values())]
    try:
        yield services
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        if services.tasks:
            await asyncio.wait(services.tasks, timeout=settings.server.shutdown_grace_s)
        await asyncio.to_thread(recorder.stop)
        await direct.aclose()
        await over_httpx.aclose()
        database.close()


def _post(loop: asyncio.AbstractEventLoop, callback: Any) -> None:
    loop.call_soon_threadsafe(callback)


def _gate(settings: Settings, pool: Pool, clock: Clock) -> Gate:
    lanes = settings.lanes
    queue = FairQueue(pool.config.slots, depths={Lane.FAST: lanes.fast.depth_max, Lane.SLOW: lanes.slow.depth_max})
    waits = {Lane.FAST: lanes.fast.wait_ms_max / 1000, Lane.SLOW: lanes.slow.wait_ms_max / 1000}
    return Gate(queue, clock.now_us, wait_s_max=waits, jitter=random.Random())


def _latest_change(database: Database) -> int:
    with database.read() as session:
        return latest_change(session)


async def _load_rates(database: Database, tariff: Tariff) -> None:
    def read() -> RateCard:
        with database.read() as session:
            return RateCard(all_rates(session))

    tariff.card = await asyncio.to_thread(read)


def _watch(services: Services, journal: Journal) -> None:
    metrics, recorder = services.metrics, services.recorder
    metrics.backend_up.watch(lambda: {(name,): int(pool.up) for name, pool in services.pools.items()})
    metrics.journal_bytes.watch(lambda: journal.bytes)
    metrics.holds_open.watch(lambda: journal.open_requests)
    metrics.settle_failures.watch(lambda: recorder.failures + metrics.settle_failed_total)
    metrics.lane_tenants.watch(lambda: {(lane.value,): services.accounts.count(lane is Lane.SLOW) for lane in Lane})
