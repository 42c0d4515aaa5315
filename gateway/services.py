"""The long-lived parts of one process, and the only place that puts them together. Nothing is global anywhere else."""

import asyncio
import logging
import random
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy.engine import make_url
from sqlmodel import Session

from backends.config import ModelConfig
from backends.planner import Planner
from backends.pool import Pool, build_pools
from backends.tokens import count, encoding_of
from backends.transport.direct import DirectTransport
from backends.transport.over_httpx import HttpxTransport
from backends.transport.seam import Transport
from billing.credits.accounts import Accounts
from billing.db import POOL_BOOKS, Database
from billing.money import parse_credits
from billing.rates.card import RateCard
from billing.rates.store import all_rates
from billing.servers.store import all_servers
from billing.tenants.keys import KeyHasher
from billing.tenants.store import latest_change
from billing.usage.folder import belong, warn_of_network
from billing.usage.journal import Journal
from billing.usage.recorder import Recorder
from billing.usage.store import books_id
from gateway.auth.keyring import Keyring
from gateway.auth.sign_in import SignIn
from gateway.beat import Beat
from gateway.changes import ChangeFeed
from gateway.chores import Chores
from gateway.clock import Clock
from gateway.config import Settings, pepper
from gateway.lanes.board import Board
from gateway.lanes.gate import Gate
from gateway.lanes.limits import Limiter
from gateway.lanes.queue import FairQueue
from gateway.lanes.shared_windows import SharedWindows
from gateway.lanes.standing import Lane
from gateway.reads import BookReads
from gateway.slots import Slots
from gateway.telemetry.road import Road
from gateway.vitals import Vitals
from gateway.webhooks import Sender

TASKS_S_MIN = 1.0  # even past the deadline: an accounting that has begun is nearly done
BOOKS_S_MAX = 5.0
LEAVE_S_MAX = 5.0
AUDIT_S_MAX = 300.0  # the first sum over a large ledger reads all of it

log = logging.getLogger("weir")


class Tariff:
    """The rate card in force; replaced as a whole when a rate changes. One reading at a time, so that an older one never comes last."""

    __slots__ = ("_reading", "card")

    def __init__(self, card: RateCard) -> None:
        self.card = card
        self._reading = asyncio.Lock()

    async def load(self, reads: BookReads) -> None:
        """Read every rate anew. Raises `BillingError`; then the card in force stays."""
        async with self._reading:
            self.card = await reads.run(lambda session: RateCard(all_rates(session)))


class Reads(NamedTuple):
    """Who reads the books beside the books thread, each on threads of its own, so that none waits behind another."""

    lookups: BookReads
    feed: BookReads
    audits: BookReads


@dataclass(frozen=True, kw_only=True)
class Services:
    """What a request, an admin and a scrape work with."""

    settings: Settings
    models: Mapping[str, ModelConfig]  # this and the next two are settings too: a look through pydantic's models costs a request ten times as much
    body_bytes_max: int
    body_timeout_s: float
    clock: Clock
    database: Database
    books: Database  # the books thread's: nobody else's reads keep it from a connection
    reads: Reads
    hasher: KeyHasher
    metrics: Road
    keyring: Keyring
    limiter: Limiter
    beat: Beat
    accounts: Accounts
    recorder: Recorder
    tariff: Tariff
    planner: Planner
    pools: dict[str, Pool]
    gates: dict[str, Gate]
    board: Board
    slots: Slots
    changes: ChangeFeed
    vitals: Vitals
    sign_in: SignIn | None
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

    The database must be migrated. Raises `BooksUnavailable`, `BadConfig`, or `Conflict` where the journal is of other books, with what to do.
    """
    direct, over_httpx = DirectTransport(), HttpxTransport()
    services = _build(settings, clock, build_pools(settings.backends, {"direct": direct, "httpx": over_httpx}), over_httpx)
    sender = _sender(services, over_httpx)
    vitals, changes, reads, recorder = services.vitals, services.changes, services.reads, services.recorder
    loop = asyncio.get_running_loop()
    beside: list[asyncio.Task[None]] = []
    try:
        changes.start_after(await reads.feed.run(latest_change))
        await services.tariff.load(reads.feed)
        await _steer(services.pools, reads.feed)
        await reads.feed.run(lambda session: own_journal(session, settings, recorder.owns))
        warn_of_network(settings.data_dir / "journal")
        recorder.start(lambda callback: _post(loop, callback))
        await services.beat.join()
        beside += [
            vitals.beside("the beat", services.beat.follow()),
            vitals.beside("the sharing of slots", services.slots.follow()),
            vitals.beside("the change feed", changes.follow()),
            vitals.beside("the ledger's audit", vitals.audit(reads.audits), needed=False),
            vitals.beside("the chores", _chores(services).follow(), needed=False),
            vitals.beside("the sender of webhooks", sender.follow(), needed=False),
        ]
        beside += [vitals.beside(f"the watch over backend {name}", pool.watch()) for name, pool in services.pools.items()]
        await services.limiter.start(vitals.beside)
        _warm_tokenizers(settings)
        yield services
    finally:
        vitals.stop()
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await _let_end(services)
        await services.limiter.aclose()
        await _close_books(services)
        await direct.aclose()
        await over_httpx.aclose()
        for reader in reads:
            reader.close()
        services.database.close()
        services.books.close()


async def _steer(pools: Mapping[str, Pool], reads: BookReads) -> None:
    """Have the pools' servers drained and weighed as the books say."""
    said = await reads.run(all_servers)
    for name, pool in pools.items():
        pool.steer({server.url: (server.draining, server.weight) for server in said if server.backend == name})


def _chores(services: Services) -> Chores:
    metrics, chores = services.metrics, Chores(services.database, services.clock)
    metrics.jobs_age.watch(chores.ages)
    metrics.clock_ahead.watch(lambda: {} if chores.clock_ahead_s is None else chores.clock_ahead_s)
    return chores


def own_journal(session: Session, settings: Settings, mine: Callable[[Path], bool] = lambda _path: False) -> None:
    """Have the journal's folder be of these books, before anything in it is booked, and before there are workers. Raises as `belong` does."""
    url = make_url(settings.database_url).set(query={})  # what is beside host and name may be secret
    belong(settings.data_dir / "journal", books_id(session), url.render_as_string(hide_password=True), mine)


def _sender(services: Services, transport: HttpxTransport) -> Sender:
    metrics = services.metrics
    sender = Sender(
        services.database,
        services.hasher,
        transport,  # goes through a proxy where the host has one, as calls to vendors do
        services.clock,
        settings=services.settings.webhooks,
        count=lambda outcome: metrics.webhooks.add((outcome,)),
    )
    metrics.webhooks_waiting.watch(lambda: sender.waiting)
    return sender


def _build(settings: Settings, clock: Clock, pools: dict[str, Pool], side: Transport) -> Services:
    url, books = settings.database_url, settings.books
    database, own = Database(url, pool_max=settings.database.pool_max - POOL_BOOKS), Database.for_books(url)
    journal = Journal(settings.data_dir / "journal", clock.now_us, bytes_max=books.journal_bytes_max, durability=books.durability, harden=database.harden)
    recorder = Recorder(own, journal, clock.now_us, flush_ms=books.flush_ms, batch=books.flush_events_max, backlog_max=books.backlog_max)
    reads = Reads(BookReads(database, threads=4), BookReads(database, threads=1), BookReads(database, threads=1, limit_s=AUDIT_S_MAX))
    hasher = KeyHasher(pepper(settings))
    keyring = Keyring(reads.lookups, hasher, clock.now_us)
    lease = settings.leases
    beat = Beat(recorder, clock, journal.folder, term_s=lease.term_s, every_s=lease.beat_s, lease_ncr_max=parse_credits(lease.credits_max))
    accounts = beat.holder = Accounts(recorder, clock, beat, accounts_max=settings.limits.tenants_cached_max)
    board, gates = Board(), {name: _gate(settings, pool, clock) for name, pool in pools.items()}

    def on_more(tenant_id: str) -> None:
        board.back(tenant_id)
        for gate in gates.values():
            gate.recall(tenant_id)

    accounts.on_more = on_more
    tariff = Tariff(RateCard(()))

    async def on_change(tenants: set[str] | None) -> None:
        if tenants is None:
            keyring.forget(None)
            accounts.refresh_all()
            await tariff.load(reads.feed)
            await _steer(pools, reads.feed)
            return
        for tenant in tenants:
            keyring.forget(tenant)
            accounts.refresh(tenant)

    services = Services(
        settings=settings,
        models=settings.models,
        body_bytes_max=settings.server.body_bytes_max,
        body_timeout_s=settings.server.body_timeout_s,
        clock=clock,
        database=database,
        books=own,
        reads=reads,
        hasher=hasher,
        metrics=Road(),
        keyring=keyring,
        limiter=Limiter(share=lambda: beat.processes, shared=_shared_windows(settings, clock)),
        beat=beat,
        accounts=accounts,
        recorder=recorder,
        tariff=tariff,
        planner=Planner(settings.models, pools),
        pools=pools,
        gates=gates,
        board=board,
        slots=Slots(beat, clock, board, pools=pools, gates=gates, tenants=lambda: len(accounts)),
        changes=ChangeFeed(reads.feed, on_change, every_s=settings.limits.changes_poll_ms / 1000),
        vitals=Vitals(settings, clock, recorder=recorder, journal=journal, pools=pools),
        sign_in=None if settings.oidc is None else SignIn(settings.oidc, side, clock, hasher),
    )
    _watch(services, journal)
    return services


async def _let_end(services: Services) -> None:
    """Wait for what outlived its request, until the process's deadline; then cut it off, and wait for that: the books close after it."""
    if services.tasks:
        await asyncio.wait(services.tasks, timeout=max(TASKS_S_MIN, services.vitals.left_s()))
    if left := set(services.tasks):
        log.error("%d tasks beside the requests did not end in time and are cut off", len(left))
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=TASKS_S_MIN)


async def _close_books(services: Services) -> None:
    """Book what waits, for a bounded time, and give back what is leased. On a thread of its own: the shared ones may all be waiting for a database
    that hangs.
    """
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        try:
            services.recorder.stop(BOOKS_S_MAX)
            recorder = services.recorder
            if not recorder.hung:
                services.beat.leave(services.books, booked=not recorder.unbooked and not recorder.open_requests)
        finally:
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=stop, name="weir-books-stop", daemon=True).start()
    try:
        async with asyncio.timeout(BOOKS_S_MAX + LEAVE_S_MAX):
            await done.wait()
    except TimeoutError:
        log.error("the database does not answer; the end does not wait for it, and what is leased goes back after its term")


def _warm_tokenizers(settings: Settings) -> None:
    """Load the tokenizers that the models may need, beside the start: the first cut stream would wait half a second for one."""
    names = {encoding_of(route.model): route.model for model in settings.models.values() for route in model.routes}

    def load() -> None:
        for model in names.values():
            count("", model)

    threading.Thread(target=load, name="weir-tokenizers", daemon=True).start()


def _post(loop: asyncio.AbstractEventLoop, callback: Any) -> None:
    loop.call_soon_threadsafe(callback)


def _gate(settings: Settings, pool: Pool, clock: Clock) -> Gate:
    lanes = {Lane.FAST: settings.lanes.fast, Lane.SLOW: settings.lanes.slow}
    depths = {name: lane.depth_max for name, lane in lanes.items()}
    ages_us: dict[Lane, int | None] = {name: lane.age_ms_max * 1000 for name, lane in lanes.items()}
    queue = FairQueue(pool.slots, depths=depths, ages_us=ages_us)
    waits = {name: lane.wait_ms_max / 1000 for name, lane in lanes.items()}
    return Gate(queue, lambda: int(clock.monotonic_s() * 1e6), wait_s_max=waits, jitter=random.Random(), stranded=lambda: pool.stranded)


def _shared_windows(settings: Settings, clock: Clock) -> SharedWindows | None:
    limits = settings.limits
    if limits.redis_url is None:
        return None
    from gateway.lanes.redis_link import RedisLink  # here: its package comes with an extra

    link = RedisLink(limits.redis_url.get_secret_value())
    return SharedWindows(link, clock, prefix=limits.redis_prefix, wait_s=limits.redis_wait_ms / 1000, jitter=random.Random())


def _watch(services: Services, journal: Journal) -> None:
    metrics, recorder = services.metrics, services.recorder
    metrics.backend_up.watch(lambda: {(name,): int(pool.up) for name, pool in services.pools.items()})
    metrics.journal_bytes.watch(lambda: journal.bytes)
    metrics.journal_bytes_max.watch(lambda: services.settings.books.journal_bytes_max)
    metrics.holds_open.watch(lambda: journal.open_requests)
    metrics.settle_failures.watch(lambda: recorder.failures + services.books.cuts + metrics.settle_failed_total)
    metrics.journal_failures.watch(lambda: journal.failures)
    metrics.usage_rejected.watch(lambda: recorder.rejected)
    metrics.usage_conflicts.watch(lambda: recorder.conflicts)
    metrics.usage_backlog.watch(lambda: recorder.backlog)
    metrics.usage_oldest.watch(services.vitals.oldest_s)
    metrics.processes.watch(lambda: services.beat.processes)
    metrics.displaced.watch(lambda: services.beat.displacements)
    metrics.leases_alive.watch(lambda: int(services.beat.alive))
    metrics.ready.watch(lambda: int(not services.vitals.missing()))
    metrics.ledger_imbalance_ncr.watch(lambda: {} if services.vitals.imbalance_ncr is None else services.vitals.imbalance_ncr)
    if (shared := services.limiter.shared) is not None:
        metrics.rate_windows_shared.watch(lambda: int(shared.up))
        metrics.rate_windows_errors.watch(lambda: shared.errors)
    _watch_lanes(services)


def _watch_lanes(services: Services) -> None:
    metrics, gates = services.metrics, services.gates

    def oldest_s() -> dict[tuple[str, str], float]:
        now_us = int(services.clock.monotonic_s() * 1e6)
        return {(name, lane.value): gate.queue.oldest_us(lane, now_us) / 1e6 for name, gate in gates.items() for lane in Lane}

    metrics.lane_oldest_wait.watch(oldest_s)
    metrics.queue_depth.watch(lambda: {(name, lane.value): gate.queue.waiting(lane) for name, gate in gates.items() for lane in Lane})
    metrics.promotions.watch(lambda: {(name,): gate.queue.promoted for name, gate in gates.items()})
    metrics.slots.watch(lambda: {(name,): gate.queue.slots for name, gate in gates.items()})
    metrics.slow_slots.watch(lambda: {(name,): gate.queue.slow_slots for name, gate in gates.items()})
    metrics.slots_used.watch(lambda: {(name,): gate.queue.running for name, gate in gates.items()})
    metrics.backend_slots.watch(lambda: {(name,): services.slots.backend_slots(name) for name in gates})
    metrics.lane_tenants.watch(lambda: {(lane.value,): services.accounts.count(lane is Lane.SLOW) for lane in Lane})
