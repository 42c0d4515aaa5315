"""A database that is away, hangs or keeps others waiting is `BooksUnavailable` within a bounded time, never an unending wait or a stranger's error."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from billing import db as db_module
from billing.db import Database
from billing.errors import BooksUnavailable


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the bounds so short that a test may wait for them."""
    monkeypatch.setattr(db_module, "LOCK_TIMEOUT_MS", 100)
    monkeypatch.setattr(db_module, "STATEMENT_TIMEOUT_MS", 400)
    monkeypatch.setattr(db_module, "POOL_TIMEOUT_S", 0.1)
    monkeypatch.setattr(db_module, "CONNECT_TIMEOUT_S", 2)


def test_a_pool_that_is_used_up_and_a_connection_that_died_are_the_books_away(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'weir.db'}")
    for error in (PoolTimeout("QueuePool limit reached"), DBAPIError("select 1", None, Exception("terminated"), connection_invalidated=True)):
        for way in (database.read, database.write):
            with pytest.raises(BooksUnavailable), way():
                raise error
    with pytest.raises(ProgrammingError), database.read():
        raise ProgrammingError("select", None, Exception("a bug of ours stays one"))
    database.close()


def test_a_server_that_takes_the_call_and_says_nothing_is_given_up(short: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        database = Database(f"postgresql://weir@127.0.0.1:{server.getsockname()[1]}/weir")
        began_s = time.monotonic()
        with pytest.raises(BooksUnavailable), database.read() as session:
            session.connection()
        assert time.monotonic() - began_s < 10
        database.close()


@pytest.mark.postgres
def test_a_lock_and_a_statement_that_take_too_long_are_given_up(short: None, postgres_url: str) -> None:
    database = Database(postgres_url)
    with database.write() as session:
        session.connection().execute(text("CREATE TABLE kept (n int)"))
    with database.write() as holder:
        holder.connection().execute(text("LOCK TABLE kept"))
        with pytest.raises(BooksUnavailable, match="lock timeout"), database.write() as session:
            session.connection().execute(text("INSERT INTO kept VALUES (1)"))
    with pytest.raises(BooksUnavailable, match="statement timeout"), database.read() as session:
        session.connection().execute(text("SELECT pg_sleep(3)"))
    database.close()


@pytest.mark.postgres
def test_a_long_read_may_take_its_time_and_the_next_one_may_not(short: None, postgres_url: str) -> None:
    database = Database(postgres_url)
    with database.read(long=True) as session:
        session.connection().execute(text("SELECT pg_sleep(0.6)"))
    with database.read() as session:
        assert session.connection().execute(text("SHOW statement_timeout")).scalar_one() == "400ms"
    database.close()


@pytest.mark.postgres
def test_more_users_than_connections_are_refused_soon(short: None, monkeypatch: pytest.MonkeyPatch, postgres_url: str) -> None:
    monkeypatch.setattr(db_module, "POOL_SIZE", 1)
    monkeypatch.setattr(db_module, "POOL_OVERFLOW", 0)
    database = Database(postgres_url)
    with database.read() as session:
        session.connection()
        with pytest.raises(BooksUnavailable), database.read() as second:
            second.connection()
    database.close()


@pytest.mark.postgres
def test_a_connection_that_the_server_ends_is_the_books_away_and_the_next_one_works(postgres_url: str) -> None:
    database = Database(postgres_url)
    with pytest.raises(BooksUnavailable), database.read() as session, database.write() as killer:
        pid = session.connection().execute(text("SELECT pg_backend_pid()")).scalar_one()
        killer.connection().execute(text(f"SELECT pg_terminate_backend({pid}, 5000)"))
        session.connection().execute(text("SELECT 1"))
    with database.read() as session:
        assert session.connection().execute(text("SELECT 1")).scalar_one() == 1
    database.close()


@pytest.mark.postgres
def test_what_the_url_says_of_the_connection_is_kept(postgres_url: str) -> None:
    database = Database(f"{postgres_url}&options=-c%20statement_timeout%3D5000&connect_timeout=9")
    with database.read() as session:
        assert session.connection().execute(text("SHOW statement_timeout")).scalar_one() == "5s"
        assert session.connection().execute(text("SHOW lock_timeout")).scalar_one() == "10s"
    database.close()


@pytest.mark.postgres
def test_a_migration_that_waits_for_another_is_not_cut_short(short: None, postgres_url: str) -> None:
    first, second = Database(postgres_url), Database(postgres_url)
    with ThreadPoolExecutor(1) as process:
        with first.write() as holder:
            holder.connection().execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": db_module.MIGRATION_LOCK})
            migrating = process.submit(second.migrate)
            waits = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            while not holder.connection().execute(waits).scalar_one():
                assert not migrating.done()
            holder.connection().execute(text("SELECT pg_sleep(0.3)"))  # longer than the lock timeout of anybody else
        migrating.result(30)
    first.close()
    second.close()
