"""A database that is away, hangs or keeps others waiting is `BooksUnavailable` within a bounded time, never an unending wait or a stranger's error."""

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlmodel import Session

from billing import db as db_module
from billing.db import Database
from billing.errors import BooksContended, BooksLocked, BooksUnavailable, Invalid
from tests.real.muzzle import Muzzle


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
def test_more_users_than_connections_are_refused_soon(short: None, postgres_url: str) -> None:
    database = Database(postgres_url, pool_max=1)
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


def counters(database: Database) -> None:
    with database.write() as session:
        session.connection().execute(text("CREATE TABLE counter (name text PRIMARY KEY, n int)"))
        session.connection().execute(text("INSERT INTO counter VALUES ('a', 0), ('b', 0)"))


def add(session: Session, name: str) -> None:
    session.connection().execute(text("UPDATE counter SET n = n + 1 WHERE name = :name"), {"name": name})


def counted(database: Database) -> list[int]:
    with database.read() as session:
        return list(session.connection().execute(text("SELECT n FROM counter ORDER BY name")).scalars())


@pytest.mark.postgres
def test_two_transactions_that_deadlock_are_both_done_in_the_end(postgres_url: str) -> None:
    slept: list[float] = []
    database = Database(postgres_url, sleep=slept.append, jitter=lambda: 0.5)
    counters(database)
    meeting = threading.Barrier(2)
    tries: list[str] = []

    def work(session: Session, first: str, second: str) -> str:
        add(session, first)
        tries.append(first)
        if len(tries) <= 2:  # each holds what the other one wants
            meeting.wait(10)
        add(session, second)
        return first

    with ThreadPoolExecutor(2) as processes:
        one = processes.submit(database.retrying, lambda session: work(session, "a", "b"))
        two = processes.submit(database.retrying, lambda session: work(session, "b", "a"))
        assert (one.result(30), two.result(30)) == ("a", "b")
    assert counted(database) == [2, 2]
    assert len(tries) == 3
    assert slept == [db_module.RETRY_S[0] * 0.5]
    database.close()


@pytest.mark.postgres
def test_a_write_that_deadlocks_says_so_and_wrote_nothing(postgres_url: str) -> None:
    database = Database(postgres_url)
    counters(database)
    meeting = threading.Barrier(2)

    def write(first: str, second: str) -> None:
        with database.write() as session:
            add(session, first)
            meeting.wait(10)
            add(session, second)

    with ThreadPoolExecutor(2) as processes:
        writes = [processes.submit(write, "a", "b"), processes.submit(write, "b", "a")]
        ends = [write.exception(30) for write in writes]
    refused = [error for error in ends if error is not None]
    assert [type(error) for error in refused] == [BooksContended]
    assert "try again" in str(refused[0])
    assert counted(database) == [1, 1]
    database.close()


@pytest.mark.postgres
def test_retries_end_and_grow_and_other_errors_are_not_retried(postgres_url: str) -> None:
    slept: list[float] = []
    database = Database(postgres_url, sleep=slept.append, jitter=lambda: 1.0)

    def contend(session: Session) -> None:
        session.connection().execute(text("DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '40001'; END $$"))

    with pytest.raises(BooksContended):
        database.retrying(contend)
    assert len(slept) == db_module.RETRIES_MAX
    assert slept == sorted(slept)
    assert slept[-1] == db_module.RETRY_S[1]
    slept.clear()
    with pytest.raises(ProgrammingError):
        database.retrying(lambda session: session.connection().execute(text("SELECT * FROM nothing_of_this_name")))
    with pytest.raises(BooksUnavailable, match="out of disk"):
        database.retrying(lambda session: session.connection().execute(text("DO $$ BEGIN RAISE EXCEPTION 'out of disk' USING ERRCODE = '53100'; END $$")))
    assert slept == []
    database.close()


@pytest.mark.postgres
def test_connections_that_died_in_the_pool_are_replaced_before_anybody_gets_one(postgres_url: str) -> None:
    database, killer = Database(postgres_url), Database(postgres_url)
    with database.read() as one, database.read() as two:
        pids = [session.connection().execute(text("SELECT pg_backend_pid()")).scalar_one() for session in (one, two)]
    with killer.write() as session:  # what a restart of the server does to those who were connected
        for pid in pids:
            session.connection().execute(text(f"SELECT pg_terminate_backend({pid}, 5000)"))
    with database.write() as one, database.read() as two:
        assert one.connection().execute(text("SELECT 1")).scalar_one() + two.connection().execute(text("SELECT 1")).scalar_one() == 2
    database.close()
    killer.close()


@pytest.mark.postgres
def test_a_primary_that_became_a_standby_is_the_books_away_and_its_connections_are_given_up(postgres_url: str) -> None:
    database = Database(postgres_url)
    counters(database)
    with database.write() as session:
        before = session.connection().execute(text("SELECT pg_backend_pid()")).scalar_one()
        session.connection().execute(text("SET default_transaction_read_only = on"))
    with pytest.raises(BooksUnavailable, match="read-only"), database.write() as session:
        add(session, "a")
    with database.write() as session:
        assert session.connection().execute(text("SELECT pg_backend_pid()")).scalar_one() != before
        add(session, "a")
    assert counted(database) == [1, 0]
    database.close()


@pytest.mark.postgres
def test_processes_that_would_not_find_room_are_told_before_they_start(postgres_url: str) -> None:
    database = Database(postgres_url, pool_max=10)
    with database.read() as session:
        most, kept = (int(session.connection().execute(text(f"SHOW {name}")).scalar_one()) for name in ("max_connections", "superuser_reserved_connections"))
    database.check_room((most - kept) // 10)
    with pytest.raises(Invalid, match=f"max_connections {most}, {kept} reserved.*pool_max to at most 1,") as refused:
        database.check_room(most - kept)
    assert refused.value.field == "database.pool_max"
    database.close()


def test_a_file_has_room_for_every_process(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'weir.db'}")
    database.check_room(10_000)
    database.close()


def test_hardening_pushes_the_wal_in_which_a_commit_still_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(f"sqlite:///{tmp_path / 'weir.db'}")
    database.harden()  # before there is anything
    database.migrate()
    pushed: list[str] = []
    fsync = os.fsync

    def note(fd: int) -> None:
        pushed.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        fsync(fd)

    monkeypatch.setattr("billing.db.os.fsync", note)
    database.harden()
    assert pushed == ["weir.db-wal", tmp_path.name]
    database.close()


def test_a_snapshot_stays_what_it_was(postgres_url: str) -> None:
    database = Database(postgres_url)
    count = text("SELECT COUNT(*) FROM numbers")
    with database.write() as session:
        session.execute(text("CREATE TABLE numbers (id integer)"))
    for snapshot, sees in ((True, 0), (False, 1)):
        with database.read(snapshot=snapshot, long=True) as reader:
            assert reader.execute(count).scalar_one() == 0
            with database.write() as session:
                session.execute(text("INSERT INTO numbers VALUES (1)"))
            assert reader.execute(count).scalar_one() == sees
        with database.write() as session:
            session.execute(text("DELETE FROM numbers"))
    database.close()


@pytest.mark.postgres
def test_a_transaction_that_stalls_lets_go_of_its_locks_and_its_process_is_told(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db_module, "STALLED_TIMEOUT_MS", 200)
    stalled = Database(postgres_url)
    monkeypatch.undo()
    others = Database(postgres_url)
    with others.write() as session:
        session.connection().execute(text("CREATE TABLE spot (id int)"))
    with pytest.raises(BooksUnavailable), stalled.write() as session:
        session.connection().execute(text("LOCK TABLE spot"))
        with others.write() as other:  # waits until the server has ended the first, well before its own bound
            other.connection().execute(text("INSERT INTO spot VALUES (1)"))
        session.connection().execute(text("INSERT INTO spot VALUES (2)"))
    with stalled.read() as session:
        assert session.connection().execute(text("SELECT count(*) FROM spot")).scalar_one() == 1
    stalled.close()
    others.close()


@pytest.mark.postgres
def test_a_connection_that_is_acknowledged_and_never_answered_is_cut_off_and_the_next_one_works(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with Muzzle(postgres_url) as proxy:
        database = Database(proxy.url, watch_s=0.5)
        with pytest.raises(BooksUnavailable), database.write() as session:
            session.connection().execute(text("CREATE TABLE spot (id int)"))
            proxy.silence()
            session.connection().execute(text("INSERT INTO spot VALUES (1)"))
        assert database.cuts == 1
        assert "its connections are cut off" in caplog.text
        with database.write() as session:
            session.connection().execute(text("CREATE TABLE spot (id int)"))
        proxy.silence()
        with database.read() as session:  # now it is the question whether the pooled connection still lives that has no answer
            assert session.connection().execute(text("SELECT count(*) FROM spot")).scalar_one() == 0
        assert database.cuts == 2
        database.close()


@pytest.mark.postgres
def test_a_commit_without_an_answer_is_cut_off(postgres_url: str) -> None:
    with Muzzle(postgres_url) as proxy:
        database = Database(proxy.url, watch_s=0.5)
        with pytest.raises(BooksUnavailable), database.write() as session:
            session.connection().execute(text("SELECT 1"))
            proxy.silence()
        assert database.cuts == 1
        database.close()


@pytest.mark.postgres
def test_work_that_lasts_is_not_cut_off_while_its_statements_are_answered(postgres_url: str) -> None:
    database = Database(postgres_url, watch_s=1.0)
    with database.write() as session:
        for _ in range(4):
            session.connection().execute(text("SELECT pg_sleep(0.4)"))
    with database.read(long=True) as session:
        session.connection().execute(text("SELECT pg_sleep(1.3)"))
    assert database.cuts == 0
    database.close()


@pytest.mark.postgres
def test_who_waits_for_a_lock_in_vain_is_told_that_it_was_a_lock(postgres_url: str) -> None:
    database = Database(postgres_url)
    counters(database)
    with database.write() as holder:
        add(holder, "a")
        began_s = time.monotonic()
        with pytest.raises(BooksLocked), database.write() as session:
            db_module.wait_briefly(session)
            add(session, "a")
        assert time.monotonic() - began_s < 5
    assert counted(database) == [1, 0]
    database.close()


@pytest.mark.postgres
def test_a_migration_behind_a_long_read_holds_up_nobody_for_long_and_is_done_in_the_end(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db_module, "DDL_LOCK_MS", 100)
    pausing, others_read = threading.Event(), threading.Event()

    def pause(_seconds: float) -> None:
        pausing.set()
        assert others_read.wait(20)

    database, migrating = Database(postgres_url), Database(postgres_url, sleep=pause)
    database.migrate()
    with ThreadPoolExecutor(1) as process:
        with database.read() as reader:
            reader.connection().execute(text("SELECT count(*) FROM webhook"))
            going = process.submit(migrating.unmigrate, "0006")
            assert pausing.wait(20)
            with database.read() as other:  # it does not queue behind the migration
                other.connection().execute(text("SET LOCAL lock_timeout = 1000"))
                other.connection().execute(text("SELECT count(*) FROM webhook"))
            assert not going.done()
        others_read.set()
        going.result(30)
    database.migrate()
    database.close()
    migrating.close()


@pytest.mark.postgres
def test_a_migration_that_never_gets_its_lock_says_what_to_do(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db_module, "DDL_LOCK_MS", 50)
    monkeypatch.setattr(db_module, "DDL_S_MAX", 0.2)
    slept: list[float] = []
    database, migrating = Database(postgres_url), Database(postgres_url, sleep=slept.append)
    database.migrate()
    version = text("SELECT version_num FROM alembic_version")
    with database.read() as reader:
        before = reader.connection().execute(version).scalar_one()
        reader.connection().execute(text("SELECT count(*) FROM webhook"))
        with pytest.raises(BooksLocked, match=r"something has held a lock.*pg_stat_activity.*nothing was changed"):
            migrating.unmigrate("0006")
    assert set(slept) == {db_module.DDL_PAUSE_S}
    with database.read() as session:
        assert session.connection().execute(version).scalar_one() == before
    database.close()
    migrating.close()
