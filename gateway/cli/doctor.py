"""`weir doctor`: for everything the gateway leans on, whether it is well; where it is not, what is wrong and what to do."""

import asyncio
import os
import shutil
from collections.abc import Callable, Iterable, Iterator

import typer
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import text

from backends.errors import BackendError
from billing.db import MIGRATIONS, Database
from billing.errors import BillingError, BooksUnavailable
from billing.operations import keys, rates
from billing.tenants.store import changes_since, latest_change
from gateway.cli.backend import probe_backends
from gateway.cli.books import ConfigOption, missing_file
from gateway.cli.failure import Failure
from gateway.cli.workers import run_directory
from gateway.clock import SystemClock
from gateway.config import ConfigError, Settings, config_path, load_settings, pepper, unknown_names
from gateway.config.secret import secret_path
from gateway.lanes.shared_windows import LinkDown, reach
from gateway.wire.instants import show as instant

EARLIEST_US = 1_767_225_600_000_000  # 2026-01-01: no clock that is right says less
SKEW_S_MAX = 5
FREE_BYTES_MIN = 256 * 2**20


class Fault(Exception):
    """Something is not well; each line of the text says what is wrong and what to do. `good` are the lines of what is well beside it."""

    def __init__(self, text: str, good: Iterable[str] = ()) -> None:
        super().__init__(text)
        self.good = tuple(good)


class Absent(Fault):
    """There is no database yet, which only the database's own examination calls a fault."""


def doctor(config: ConfigOption = None) -> None:
    """Examine configuration, data directory, disk, database, workers, secret, clock, backends and rates; exit code 1 if any is not well."""
    try:
        settings = load_settings(config_path(config))
    except ConfigError as error:
        for line in str(error).splitlines():
            _say("wrong", "configuration", line)
        raise typer.Exit(1) from None
    _say("good", "configuration", str(config_path(config) or "defaults and environment"))
    well = True
    for name in unknown_names():
        well = _say("wrong", "configuration", name)
    for name, examine in _examinations(settings):
        try:
            for line in examine().splitlines():
                _say("good", name, line)
        except (Absent, BooksUnavailable) as away:
            if name == "database":  # said once: whatever else needs the database is not to blame
                well = _say("wrong", name, str(away))
        except (Fault, BillingError, ConfigError, BackendError) as error:
            well = False
            for line in error.good if isinstance(error, Fault) else ():
                _say("good", name, line)
            for line in str(error).splitlines():
                _say("wrong", name, line)
    raise typer.Exit(0 if well else 1)


def _examinations(settings: Settings) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "data directory", lambda: _data_dir(settings)
    yield "disk", lambda: _disk(settings)
    yield "database", lambda: _database(settings)
    yield "workers", lambda: _workers(settings)
    yield "secret", lambda: _secret(settings)
    yield "clock", lambda: _clock(settings)
    yield "backends", lambda: _backends(settings)
    yield "rates", lambda: _rates(settings)
    redis_url = settings.limits.redis_url
    if redis_url is not None:
        yield "redis", lambda: asyncio.run(_redis(settings, redis_url))


def _say(verdict: str, name: str, what: str) -> bool:
    typer.echo(f"{verdict:<6} {name}: {what}")
    return verdict == "good"


def _data_dir(settings: Settings) -> str:
    path = settings.data_dir
    if not path.exists():
        parent = next(parent for parent in path.absolute().parents if parent.exists())
        if not os.access(parent, os.W_OK | os.X_OK):
            raise Fault(f"{path} is not there and cannot be made in {parent}; make that writable, or set data_dir")
        return f"{path} will be made"
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        raise Fault(f"{path} is no directory that this user may write in; correct that, or set data_dir")
    return f"{path} is writable"


def _disk(settings: Settings) -> str:
    place = next(place for place in (settings.data_dir.absolute(), *settings.data_dir.absolute().parents) if place.exists())
    free = shutil.disk_usage(place).free
    if free < FREE_BYTES_MIN:
        raise Fault(f"{free // 2**20} MiB are free on {place}'s disk; the journal needs room, free at least {FREE_BYTES_MIN // 2**20} MiB")
    most = settings.books.journal_bytes_max * settings.server.workers  # each keeps a journal of its own
    if free < most:
        raise Fault(
            f"{free // 2**20} MiB are free, less than the journal may grow to while the database is away ({most // 2**20} MiB); "
            "free some, or lower books.journal_bytes_max"
        )
    return f"{free / 2**30:.1f} GiB free"


def _database(settings: Settings) -> str:
    with _Opened(settings) as database:
        current = _revision(database)
        newest = ScriptDirectory(str(MIGRATIONS)).get_current_head()
        if current != newest:
            raise Fault(
                f"its tables are {'missing' if current is None else f'of another version ({current}, not {newest})'}; run: weir migrate (or start: weir serve)"
            )
        return f"{database.dialect} is reachable and migrated"


def _workers(settings: Settings) -> str:
    """Examine what several processes need of the machine and the database: a run directory, connections, a slot each."""
    count = settings.server.workers
    if not settings.embedded:
        with _Opened(settings) as database:
            database.check_room(count)
    if count == 1:
        return "1 configured: one process, one core"
    try:
        with run_directory():
            pass
    except Failure as error:
        raise Fault(str(error)) from None
    if short := [name for name, backend in settings.backends.items() if backend.slots != "auto" and backend.slots < count]:
        raise Fault(f"{', '.join(short)}: fewer `slots` than the {count} workers, which take one at least; raise them, or lower server.workers")
    cores = os.cpu_count() or 1
    return f"{count} configured, each with a share of every backend's slots" + (f"; more than the {cores} cores here" if count > cores else "")


def _secret(settings: Settings) -> str:
    if settings.secret is None and not secret_path(settings).exists():
        if not settings.embedded:
            raise Fault("none is set, and a shared database needs the same one on every machine; set WEIR_SECRET")
        if _has_keys(settings):
            raise Fault(f"{secret_path(settings)} is gone, and no key issued before works without it; restore it from a backup, or issue new keys")
        return "will be made at the first start"
    pepper(settings)
    return "is there"


def _clock(settings: Settings) -> str:
    now_us = SystemClock().now_us()
    if now_us < EARLIEST_US:
        raise Fault(f"it says {instant(now_us)}; set the machine's clock, or use a time service (NTP)")
    with _Opened(settings) as database, database.read() as session:
        if MigrationContext.configure(session.connection()).get_current_revision() is None:
            return instant(now_us)
        last = changes_since(session, latest_change(session) - 1)
        if last and last[-1].at_us > now_us + SKEW_S_MAX * 1_000_000:
            raise Fault(f"it says {instant(now_us)}, but the books were written at {instant(last[-1].at_us)}; set the machine's clock")
        if database.dialect == "postgresql":
            server_us = int(session.execute(text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")).scalar_one())
            if abs(server_us - SystemClock().now_us()) > SKEW_S_MAX * 1_000_000:
                raise Fault(f"it says {instant(now_us)}, the database's {instant(server_us)}; set both by a time service (NTP)")
    return instant(now_us)


def _backends(settings: Settings) -> str:
    if not settings.backends:
        return "none configured: `weir serve` starts its own small model"
    answers = probe_backends(settings)
    good = [f"{name} at {url}: up" for (name, url), why in answers.items() if why is None]
    down = [f"{name} at {url}: {why}; start it, or correct its `urls` or `api_key`" for (name, url), why in answers.items() if why is not None]
    if down:
        raise Fault("\n".join(down), good)
    return "\n".join(good)


def _rates(settings: Settings) -> str:
    with _Opened(settings) as database:
        if _revision(database) is None:
            return "none yet"
        rated = rates.rated_models(database, SystemClock().now_us()) | set(settings.seed.rates)
    missing = sorted(set(settings.models) - rated)
    if missing:
        raise Fault(f"{', '.join(missing)}: no rate, so requests are refused; set one: weir rate set {missing[0]} --input CREDITS --output CREDITS (or --free)")
    return f"{len(settings.models)} configured model{'s' if len(settings.models) != 1 else ''}, each with a rate"


async def _redis(settings: Settings, url: SecretStr) -> str:
    from gateway.lanes.redis_link import RedisLink  # here: its package comes with an extra

    link, limits = RedisLink(url.get_secret_value()), settings.limits
    try:
        return f"answers in {await reach(link, limits.redis_prefix, limits.redis_wait_ms / 1000) * 1000:.1f} ms"
    except LinkDown as error:
        raise Fault(f"{error}; until it answers each process applies its share of every rate limit; start it, or correct limits.redis_url") from None
    finally:
        await link.drop()


def _has_keys(settings: Settings) -> bool:
    with _Opened(settings) as database:
        return _revision(database) is not None and keys.has_key(database)


def _revision(database: Database) -> str | None:
    """Return the version of the tables, None without tables. Raises `BooksUnavailable`."""
    with database.read() as session:
        return MigrationContext.configure(session.connection()).get_current_revision()


class _Opened:
    """The database for one examination. A SQLite file that is not there yet is not made by looking."""

    def __init__(self, settings: Settings) -> None:
        path = missing_file(settings)
        if path is not None:
            raise Absent(f"{path} is not there yet; run: weir migrate (or start: weir serve)")
        self.database = Database(settings.database_url, pool_max=settings.database.pool_max)

    def __enter__(self) -> Database:
        return self.database

    def __exit__(self, *_: object) -> None:
        self.database.close()
