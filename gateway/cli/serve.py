"""`weir serve`: everything up, in one process or several, until SIGTERM; without a configuration it brings its own small model, a demo tenant and keys."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import typer
import uvloop
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from backends.supervisor import Child, Supervisor
from backends.transport.direct import DirectTransport
from billing.db import Database
from billing.errors import BooksUnavailable
from billing.jobs import make_partitions
from billing.tenants.keys import KeyHasher
from gateway.cli.books import ConfigOption
from gateway.cli.children import DEMO, LOCAL_MODEL, embedded_child, vllm_server, with_child, with_demo
from gateway.cli.failure import Failure
from gateway.cli.first_start import banner, first_keys, offer, plant, program, unrated
from gateway.cli.process import leave_stuck_threads, serve_process
from gateway.cli.workers import run_workers
from gateway.clock import Clock, SystemClock
from gateway.config import Settings, config_path, load_settings, pepper, unknown_names
from gateway.server import BACKLOG, Server
from gateway.services import Services, own_journal
from gateway.telemetry.logs import configure_logging

DATABASE_S_MAX = 30  # how long a start waits for the database
DATABASE_EVERY_S = 1.0

log = logging.getLogger("weir")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What one `weir serve` runs: the settings, the server of ours to start first, and the tenant and model of the lines to paste."""

    settings: Settings
    child: Child | None = None
    child_provider: str = ""
    child_model: str = ""
    demo: bool = False
    source: Path | None = None


class Desk(NamedTuple):
    """What first keys are issued with."""

    database: Database
    hasher: KeyHasher
    now_us: int


def serve(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[-- VLLM ARGUMENTS]", help="passed on to `vllm serve`, after --")] = None,
    *,
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option("--host", help="address to listen at")] = None,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65535, help="port to listen at; 0: any free one")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, max=256, help="processes that share the port; one uses one core")] = None,
    vllm: Annotated[Path | None, typer.Option("--vllm", metavar="MODEL_DIR", help="start and supervise `vllm serve MODEL_DIR` as a backend")] = None,
    vllm_bin: Annotated[str, typer.Option("--vllm-bin", help="the program to start for --vllm")] = "vllm",
) -> None:
    """Run the gateway. Without a configuration: a small model of its own, a demo tenant, and keys that are printed once."""
    if arguments and vllm is None:
        raise typer.BadParameter("arguments after -- belong to `vllm serve`: name the model with --vllm MODEL_DIR")
    wanted = {"host": host, "port": port, "workers": workers}
    flags: dict[str, Any] = {"server": {name: value for name, value in wanted.items() if value is not None}}
    settings = load_settings(config_path(config), flags)
    configure_logging(settings.log.level, settings.log.format)
    for name in unknown_names():
        log.warning("%s", name)
    run = plan_run(settings, vllm, arguments or [], vllm_bin, config_path(config))
    typer.echo(offer(run.source, run.settings.models, run.child_model))
    try:
        with listen(settings.server.host, settings.server.port) as listener:
            code = uvloop.run(_run(run, listener, SystemClock()))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    leave_stuck_threads(code)
    raise typer.Exit(code)


def plan_run(settings: Settings, vllm: Path | None, arguments: list[str], vllm_bin: str, source: Path | None = None) -> Run:
    """Decide which server of ours to start. `source` is the file the settings are from. Raises `Invalid` for a model or program that is not there."""
    if vllm is not None:
        child, model = vllm_server(vllm, arguments, vllm_bin)
        demo = not settings.backends
        return Run(settings=with_demo(settings, model) if demo else settings, child=child, child_provider="vllm", child_model=model, demo=demo, source=source)
    if not settings.backends:
        seeded = with_demo(settings, LOCAL_MODEL)
        return Run(settings=seeded, child=embedded_child(), child_provider="local", child_model=LOCAL_MODEL, demo=True, source=source)
    return Run(settings=settings, source=source)


@contextlib.contextmanager
def listen(host: str, port: int) -> Any:
    """Take the address before anything else is started. Raises `Failure` when it cannot be had."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(BACKLOG)
        except OSError as error:
            raise Failure(f"cannot listen at {host} port {port}: {error.strerror or error}; choose another with --host and --port") from None
        listener.setblocking(False)
        yield listener
    finally:
        listener.close()


async def _run(run: Run, listener: socket.socket, clock: Clock) -> int:
    """Serve until told to stop; return the exit status."""
    await prepare(run.settings, clock)
    async with _child(run) as (settings, supervisor):

        def restarts() -> dict[str, int]:
            return {} if supervisor is None else {supervisor.child.name: supervisor.restarts}

        if settings.server.workers > 1:
            return await run_workers(settings, listener, lambda: _announce_all(run, settings, clock, listener), restarts)

        def opened(services: Services, _server: Server) -> None:
            services.metrics.child_restarts.watch(lambda: {(name,): count for name, count in restarts().items()})

        return await serve_process(
            settings,
            clock,
            [listener],
            lambda services: _announce(run, settings, Desk(services.database, services.hasher, clock.now_us()), listener),
            opened=opened,
        )


async def prepare(settings: Settings, clock: Clock) -> None:
    """Make what a start leans on: the secret, the tables, the seeds. A database that is started together with us is waited for.

    Raises what is wrong with them before anything runs.
    """
    pepper(settings)
    until_s = clock.monotonic_s() + DATABASE_S_MAX
    said = False
    while True:
        try:
            await asyncio.to_thread(_open_books, settings, clock.now_us())
            return
        except BooksUnavailable as error:
            if clock.monotonic_s() >= until_s or settings.embedded:
                raise Failure(f"{error}\n{_whose(settings)}; examine it with: weir doctor") from None
            if not said:
                said = True
                log.warning("%s; %s; trying for %d s", error, _whose(settings), DATABASE_S_MAX)
        await asyncio.sleep(DATABASE_EVERY_S)


def _open_books(settings: Settings, now_us: int) -> None:
    database = Database(settings.database_url, pool_max=settings.database.pool_max)
    try:
        database.check_room(settings.server.workers)
        database.migrate()
        with database.read() as session:
            own_journal(session, settings)
        _make_partitions(database, now_us)
        plant(database, settings.seed, now_us)
    finally:
        database.close()


def _make_partitions(database: Database, now_us: int) -> None:
    try:
        database.retrying(lambda session: make_partitions.run_once(session, now_us))
    except DBAPIError as error:  # a user that may not create tables, say: usage goes into the default partition, and nothing is lost
        log.warning("the months' partitions of usage events cannot be made: %s", error.orig)


def _whose(settings: Settings) -> str:
    """Name the setting that the database is from, its password hidden."""
    return f"database.url is {make_url(settings.database_url).render_as_string(hide_password=True)}"


@asynccontextmanager
async def _child(run: Run) -> AsyncGenerator[tuple[Settings, Supervisor | None]]:
    """Run the server of ours, if there is one; yield the settings that know where it is, and what watches it. Raises `ChildFailed`."""
    if run.child is None:
        yield run.settings, None
        return
    transport = DirectTransport()
    supervisor = Supervisor(run.child, transport)
    try:
        await supervisor.start()
        yield with_child(run.settings, run.child.name, run.child_provider, supervisor.base_url, run.child_model), supervisor
    finally:
        await supervisor.stop()
        await transport.aclose()


def _announce_all(run: Run, settings: Settings, clock: Clock, listener: socket.socket) -> None:
    """Announce in the parent of several workers, which has no services of its own."""
    database = Database(settings.database_url)
    try:
        _announce(run, settings, Desk(database, KeyHasher(pepper(settings)), clock.now_us()), listener)
    finally:
        database.close()


def _announce(run: Run, settings: Settings, desk: Desk, listener: socket.socket) -> None:
    host, port = settings.server.host, listener.getsockname()[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - compared, not bound
    secrets = first_keys(desk.database, desk.hasher, DEMO if run.demo else None, desk.now_us)
    typer.echo(banner(f"http://{shown}:{port}", run.child_model or None, secrets, tenant=DEMO if run.demo else None, program=program()))
    for model in unrated(desk.database, settings.models, desk.now_us):
        log.warning("model %s has no rate, so its requests are refused; set one: weir rate set %s --input CREDITS --output CREDITS", model, model)
