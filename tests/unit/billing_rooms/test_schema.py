"""The migrated schema is the one the rows describe, on both engines; it goes up and down; facts and entries refuse to change."""

from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel

import billing
from billing.db import Database
from billing.errors import BooksUnavailable, Invalid

for table in sorted(Path(billing.__path__[0]).glob("*/table.py")):  # each registers its rows
    import_module(f"billing.{table.parent.name}.table")


def not_a_partition(name: str | None, kind: str, _parents: object) -> bool:
    """Partitions of `usage_event` are rows of it, not tables of ours."""
    return kind != "table" or not str(name).startswith("usage_event_")


def test_migrated_schema_equals_the_rows(empty_db: Database) -> None:
    empty_db.migrate()
    with empty_db.engine.connect() as connection:
        opts = {"compare_type": True, "compare_server_default": True, "include_name": not_a_partition}
        context = MigrationContext.configure(connection, opts=opts)
        assert compare_metadata(context, SQLModel.metadata) == []


def test_migrated_nullability_and_keys_equal_the_rows(empty_db: Database) -> None:
    empty_db.migrate()
    inspector = inspect(empty_db.engine)
    for table in SQLModel.metadata.sorted_tables:
        found = {column["name"]: column["nullable"] for column in inspector.get_columns(table.name)}
        assert found == {column.name: bool(column.nullable) for column in table.columns}, table.name
        assert inspector.get_pk_constraint(table.name)["constrained_columns"] == [column.name for column in table.primary_key.columns]


def test_migrating_twice_is_once(empty_db: Database) -> None:
    empty_db.migrate()
    empty_db.migrate()
    assert "usage_event" in inspect(empty_db.engine).get_table_names()


def test_down_leaves_nothing_and_up_again_works(empty_db: Database) -> None:
    empty_db.migrate()
    empty_db.unmigrate()
    assert inspect(empty_db.engine).get_table_names() == ["alembic_version"]
    empty_db.migrate()
    assert "ledger_entry" in inspect(empty_db.engine).get_table_names()


def test_processes_that_migrate_together_take_turns(empty_db: Database) -> None:
    def migrate(_: int) -> None:
        other = Database(empty_db.engine.url.render_as_string(hide_password=False))
        other.migrate()
        other.close()

    with ThreadPoolExecutor(3) as processes:
        assert list(processes.map(migrate, range(3))) == [None] * 3


@pytest.mark.parametrize("change", ["UPDATE ledger_tx SET kind = 'x'", "DELETE FROM ledger_tx", "UPDATE usage_event SET status = 1", "DELETE FROM usage_event"])
def test_facts_and_entries_refuse_to_change(db: Database, change: str) -> None:
    with db.write() as session:
        session.connection().execute(text("INSERT INTO ledger_tx (id, idem_key, kind, tenant_id, at_us) VALUES (1, 'k', 'burn', 't', 1)"))
        session.connection().execute(text("INSERT INTO ledger_entry (tx_id, seq, account, amount_ncr) VALUES (1, 0, 'consumed', 5)"))
        session.connection().execute(
            text(
                "INSERT INTO usage_event (id, tenant_id, key_id, model, backend, upstream_model, endpoint, started_us, ended_us, status, outcome, lane, stream,"
                " source, charge_ncr, cover_ncr, covered_ncr, attempts, queue_ms)"
                " VALUES ('e', 't', 'k', 'm', 'b', 'u', '/v1', 1, 2, 200, 'complete', 'fast', false, 'reported', 1, 1, 1, 1, 0)"
            )
        )
    with pytest.raises(DBAPIError, match="never changed"), db.write() as session:
        session.connection().execute(text(change))
    with pytest.raises(DBAPIError, match="never changed"), db.write() as session:
        session.connection().execute(text("DELETE FROM ledger_entry"))


def test_a_write_that_raises_leaves_nothing(db: Database) -> None:
    def fail() -> None:
        with db.write() as session:
            session.connection().execute(text("INSERT INTO change (seq, at_us) VALUES (1, 1)"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with db.read() as session:
        assert session.connection().execute(text("SELECT count(*) FROM change")).scalar_one() == 0


def test_sqlite_is_opened_as_the_books_need_it(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'deep' / 'weir.db'}")
    names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
    with database.read() as session:
        pragmas = {name: session.connection().execute(text(f"PRAGMA {name}")).scalar_one() for name in names}
    assert pragmas == {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 10_000}
    database.close()


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite://", "sqlite:///:memory:", "nonsense"])
def test_a_database_that_cannot_hold_the_books_is_refused(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        Database(url)
    assert refused.value.field == "database"


def test_a_database_that_is_away_is_books_unavailable() -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/none?connect_timeout=2")
    with pytest.raises(BooksUnavailable), database.read() as session:
        session.connection()
    database.close()
