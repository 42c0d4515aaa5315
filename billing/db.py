"""The books' database: one engine, and the two ways to use it.

`read()` and `write()` are the only places where a transaction begins and ends; stores take the session and never commit. On SQLite a
write begins IMMEDIATE, so that two writers queue instead of failing half-way, and WAL lets readers go on meanwhile. On PostgreSQL
it is an ordinary READ COMMITTED transaction. A database that cannot be reached, stays locked or does not answer in time is
`BooksUnavailable`; two transactions that stood in each other's way are `BooksContended`, which `retrying` tries again. On PostgreSQL
every wait has a bound (the connection, a lock, a statement, the network, a free place in the pool), and so has the pool itself; those that
only the server can keep are kept by a `watchdog` where an engine must never wait for ever.
"""

import copy
import logging
import os
import random
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlmodel import Session

from billing.errors import BooksContended, BooksLocked, BooksUnavailable, Invalid
from billing.watchdog import Watchdog

T = TypeVar("T")

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_MS = 10_000
CONNECT_TIMEOUT_S = 5
LOCK_TIMEOUT_MS = 10_000
STATEMENT_TIMEOUT_MS = 30_000
ENDED_BY_SERVER = "25P03"
STALLED_TIMEOUT_MS = 8_000  # a transaction that does nothing is ended by the server, before others that wait for its locks give up
LONG_TIMEOUT_MS = 600_000  # exports, sums over every event, migrations
NETWORK_TIMEOUT_MS = 15_000  # what was sent and is not acknowledged
BRIEF_LOCK_MS = 250  # who has others to serve waits no longer for a lock that was held too long already
DDL_LOCK_MS = 3_000  # a migration that waits for a table's lock holds up everybody who comes after it
DDL_PAUSE_S, DDL_S_MAX = 5.0, 600.0  # between its tries, and all of them together
POOL_MAX, POOL_KEPT, POOL_TIMEOUT_S = 15, 5, 5.0  # connections of one process: at most, and those kept open when idle
POOL_BOOKS = 2  # of them, those that nobody has but the books thread: others that read for long cannot keep it from beating and booking
RETRIES_MAX = 5
RETRY_S = (0.01, 0.5)  # the first pause at most, and the longest
CONTENDED = ("40001", "40P01")  # serialization failure, deadlock: nothing was written, the same may succeed now
LOCKED = "55P03"
READ_ONLY = "25006"  # what was the primary is a standby now
MIGRATION_LOCK = 0x5745495200000001  # PostgreSQL advisory lock: two processes that start together migrate once
NOBODY = "weir"  # who is at work where nobody in particular is: the gateway itself
_WRITE = "weir_write"

log = logging.getLogger(__name__)


class Database:
    """The database behind one URL. `sqlite:///weir.db` or `postgresql://user@host/name`; other schemes are `Invalid`.

    `pool_max`: connections that this one opens to PostgreSQL at most. `sleep` (seconds) and `jitter` (in [0, 1)) space the retries.
    `watch_s`: a connection to PostgreSQL that does not answer for so many seconds is cut off; None where waiting for ever hurts nobody else.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_max: int = POOL_MAX,
        watch_s: float | None = None,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        parsed = _normal(url)
        self.dialect: str = parsed.get_backend_name()
        self.pool_max = pool_max
        self.engine: Engine = _sqlite_engine(parsed) if self.dialect == "sqlite" else _postgresql_engine(parsed, pool_max)
        self.actor = NOBODY
        self._sleep = sleep
        self._jitter = jitter
        self._watchdog = Watchdog(self.engine, watch_s) if watch_s is not None and self.dialect == "postgresql" else None
        self._writing = self.engine.execution_options(**{_WRITE: True})
        self._rehearsal: Connection | None = None

    def acting(self, actor: str) -> Self:
        """Return the same database, on the same connections, whose write sessions name this actor in `session.info["actor"]`: who is at work."""
        own = copy.copy(self)
        own.actor = actor
        return own

    @contextmanager
    def rehearsing(self) -> Generator[Self]:
        """Yield the same database in one transaction that is undone at exit: whatever is done on it happens, later reads see it, and nothing stays.

        How a dry run says what a change would do: it is the change itself. It holds what the change locks until its end. Raises `BooksUnavailable`.
        """
        if self._rehearsal is not None:  # one within another
            with self._rehearsal.begin_nested() as inner:
                try:
                    yield self
                finally:
                    inner.rollback()
            return
        own = copy.copy(self)
        with _unavailable(), self._writing.connect() as connection, connection.begin() as transaction:
            own._rehearsal = connection
            try:
                yield own
            finally:
                transaction.rollback()

    @classmethod
    def for_books(cls, url: str) -> "Database":
        """Open the database for the books thread: with few connections that it shares with nobody, and cut off where they do not answer."""
        return cls(url, pool_max=POOL_BOOKS, watch_s=(STATEMENT_TIMEOUT_MS + NETWORK_TIMEOUT_MS) / 1000)

    @property
    def cuts(self) -> int:
        """How often connections that did not answer were cut off."""
        return 0 if self._watchdog is None else self._watchdog.cuts

    @contextmanager
    def read(self, *, long: bool = False, snapshot: bool = False) -> Generator[Session]:
        """Yield a session that only reads; what it changed is rolled back. Raises `BooksUnavailable`.

        `long`: its statements may take 10 minutes on PostgreSQL, where others are given up after 30 s. `snapshot`: all of them see the books
        as they were at the first one, also while others write (REPEATABLE READ; on SQLite it is always so).
        """
        with _unavailable(), nullcontext() if long else self._watched(), self._session(self.engine) as session:
            if snapshot and self._rehearsal is None and self.dialect == "postgresql":
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            if long:
                self._take_time(session.connection())
            yield session

    @contextmanager
    def write(self) -> Generator[Session]:
        """Yield a session whose changes are committed at exit, or rolled back when the block raises. Raises `BooksUnavailable`."""
        with _unavailable(), self._watched(), self._session(self._writing) as session, session.begin():
            session.info["actor"] = self.actor
            yield session

    def retrying(self, work: Callable[[Session], T]) -> T:
        """Run work in a write transaction and return its result; again in a new one when it deadlocked or could not be serialised.

        `work` may run several times: it must read what it needs anew and change nothing but the database. Raises `BooksContended` after
        `RETRIES_MAX` repetitions, `BooksUnavailable` at once.
        """
        pause_s, longest_s = RETRY_S
        for _ in range(RETRIES_MAX):
            try:
                with self.write() as session:
                    return work(session)
            except BooksContended:
                self._sleep(pause_s * self._jitter())  # full jitter: those who met do not meet again
                pause_s = min(longest_s, pause_s * 3)
        with self.write() as session:
            return work(session)

    def check_room(self, processes: int) -> None:
        """Raise `Invalid` unless so many processes find room for their pools among the connections that PostgreSQL gives ordinary users."""
        if self.dialect == "sqlite":
            return
        with self.read() as session:
            # reserved_connections is younger than PostgreSQL 15, hence "missing is fine"
            names = ("max_connections", "superuser_reserved_connections", "reserved_connections")
            most, *reserved = (int(session.execute(text("SELECT current_setting(:name, true)"), {"name": name}).scalar_one() or 0) for name in names)
        room = most - sum(reserved)
        if processes * self.pool_max > room:
            raise Invalid(
                "database.pool_max",
                f"database.pool_max: {processes} processes with up to {self.pool_max} connections each need {processes * self.pool_max}, and the server has "
                f"{room} for ordinary users (max_connections {most}, {sum(reserved)} reserved); set database.pool_max to at most "
                f"{max(1, room // processes)}, run fewer processes, or raise max_connections",
            )

    def migrate(self, revision: str = "head") -> None:
        """Bring the schema to a revision, `head` by default. Idempotent; processes that start together take turns.

        Raises `BooksLocked` where a lock that is needed could not be had in 10 minutes. Each try for one is short, as everybody else queues behind it.
        """
        self._change_schema(lambda connection: command.upgrade(_alembic(connection), revision))

    def unmigrate(self, revision: str = "base") -> None:
        """Take the schema down to a revision. Destroys what the removed tables held; meant for tests and for a failed upgrade. Raises `BooksLocked`."""
        self._change_schema(lambda connection: command.downgrade(_alembic(connection), revision))

    def _change_schema(self, change: Callable[[Connection], None]) -> None:
        until_s = time.monotonic() + DDL_S_MAX
        said = False
        while True:
            try:
                with _unavailable(), self._writing.connect() as connection, connection.begin():
                    self._take_time(connection)
                    if self.dialect == "postgresql":
                        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
                        connection.execute(text(f"SET LOCAL lock_timeout = {DDL_LOCK_MS}"))
                    change(connection)
                return
            except BooksLocked as error:
                if time.monotonic() >= until_s:
                    raise BooksLocked(
                        f"the tables cannot be changed: for {DDL_S_MAX:g} s something has held a lock on one of them (an old gateway that still runs, an "
                        f"export, a session of psql; they are in pg_stat_activity). End it and start again; nothing was changed. {error}"
                    ) from error
                if not said:
                    log.warning("the tables cannot be changed yet, something holds a lock on one of them; trying for %g s: %s", DDL_S_MAX, error)
                said = True
            self._sleep(DDL_PAUSE_S)  # everybody who queued behind us goes first

    def harden(self) -> None:
        """Make every commit so far survive a power cut. On PostgreSQL each does; on SQLite (`synchronous=NORMAL`) the WAL is pushed. Raises `OSError`."""
        if self.dialect != "sqlite":
            return
        file = Path(self.engine.url.database or "").absolute()
        for path in (file.with_name(f"{file.name}-wal"), file.parent):
            with suppress(FileNotFoundError):  # no WAL: a checkpoint has brought all of it into the file, and pushed that
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)

    def close(self) -> None:
        """Close every pooled connection."""
        if self._watchdog is not None:
            self._watchdog.close()
        self.engine.dispose()

    def _session(self, engine: Engine) -> Session:
        if self._rehearsal is not None:
            return Session(self._rehearsal, expire_on_commit=False, join_transaction_mode="create_savepoint")
        return Session(engine, expire_on_commit=False)

    def _watched(self) -> AbstractContextManager[None]:
        return nullcontext() if self._watchdog is None else self._watchdog.watch()

    def _take_time(self, connection: Connection) -> None:
        if self.dialect == "postgresql":
            for setting in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"):
                connection.execute(text(f"SET LOCAL {setting} = {LONG_TIMEOUT_MS}"))


def wait_briefly(session: Session) -> None:
    """Let the transaction give up a lock that it does not get at once; it is then `BooksLocked`. On SQLite, which has one lock for all, nothing changes."""
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL lock_timeout = {BRIEF_LOCK_MS}"))


@contextmanager
def _unavailable() -> Generator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise BooksUnavailable("the database cannot be used now: every connection is in use") from error
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        if state in CONTENDED:
            raise BooksContended(f"another transaction stood in the way and nothing was written; try again: {error.orig}") from error
        if state == LOCKED:
            raise BooksLocked(f"somebody holds a lock and nothing was written: {error.orig}") from error
        ended = state == ENDED_BY_SERVER
        if not isinstance(error, OperationalError | InterfaceError) and not error.connection_invalidated and not ended:
            raise
        raise BooksUnavailable(f"the database cannot be used now: {error.orig}") from error


def check_url(url: str) -> None:
    """Raise `Invalid` for a URL that `Database` would refuse; open nothing."""
    _normal(url)


def _normal(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise Invalid("database", "database: this is not a database URL; write sqlite:///weir.db or postgresql://user@host/name") from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
        raise Invalid("database", f"database: `{parsed.drivername}` is not supported; use sqlite:/// or postgresql://")
    if parsed.drivername == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise Invalid("database", "database: SQLite in memory would lose the books at exit; name a file, like sqlite:///weir.db")
    return parsed


def _postgresql_engine(url: URL, pool_max: int) -> Engine:
    bounds: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "keepalives": 1,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": NETWORK_TIMEOUT_MS,
    }
    asked = {name: bound for name, bound in bounds.items() if name not in url.query}  # what the URL says stays
    own = url.query.get("options", "")
    # A plan kept from when a table was small goes on reading all of it when it has grown, and reads every month's partition where one would do.
    plans = "-c plan_cache_mode=force_custom_plan"
    # A process that stalls in the middle of a transaction, or is gone without a word, must not hold a tenant's account against all the others.
    stalled = f"-c idle_in_transaction_session_timeout={STALLED_TIMEOUT_MS} -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3"
    asked["options"] = (
        f"{stalled} -c lock_timeout={LOCK_TIMEOUT_MS} -c statement_timeout={STATEMENT_TIMEOUT_MS} {plans} {own if isinstance(own, str) else ' '.join(own)}"
    )
    kept = min(POOL_KEPT, pool_max)
    engine = create_engine(url, pool_pre_ping=True, pool_size=kept, max_overflow=pool_max - kept, pool_timeout=POOL_TIMEOUT_S, connect_args=asked)

    def leave_standby(context: ExceptionContext) -> None:
        # After a failover the old primary answers pings, and refuses every write: the pool must look for the new one.
        if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
            context.is_disconnect = True

    event.listen(engine, "handle_error", leave_standby)
    return engine


def _sqlite_engine(url: URL) -> Engine:
    Path(url.database or "").absolute().parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False})

    def prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves; the driver's own choice would never be IMMEDIATE
        for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
        _use_wal(connection)

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITE) else "BEGIN")

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", begin)
    return engine


def _use_wal(connection: Any) -> None:
    # A new file becomes WAL once. SQLite does not wait for its busy timeout there when several connections try at the same time.
    until_s = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.005)


def _alembic(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
