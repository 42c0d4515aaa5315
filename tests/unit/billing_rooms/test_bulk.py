"""Many rows go to the database in as many statements as few do, on both engines, and what goes wrong there is told like everywhere else."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import text
from sqlalchemy.exc import DataError, IntegrityError

from billing.bulk import Change, Insert, InsertNew
from billing.db import Database
from billing.errors import BooksUnavailable
from billing.ledger import store as ledger
from billing.ledger.postings import Entry, Posting
from billing.usage import store
from tests.books import event

COUNTERS = Insert("counter", ("name", "n"))
ADD = Change(
    postgresql="UPDATE counter SET n = counter.n + v.n FROM unnest(%s::text[], %s::bigint[]) v(name, n) WHERE counter.name = v.name",
    sqlite="UPDATE counter SET n = n + ?2 WHERE name = ?1",
)
NEW = InsertNew("counter", {"name": "text", "n": "bigint"}, key="name", returning="n")


@pytest.fixture
def counters(db: Database) -> Database:
    with db.write() as session:
        session.execute(text("CREATE TABLE counter (name varchar PRIMARY KEY, n bigint)"))
    return db


@contextmanager
def statements(db: Database) -> Iterator[list[str]]:
    """Collect what is sent to the database, but for copied rows."""
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        sent.append(statement)

    sqlalchemy_event.listen(db.engine, "before_cursor_execute", note)
    yield sent
    sqlalchemy_event.remove(db.engine, "before_cursor_execute", note)


def posting(number: int) -> Posting:
    return Posting(idem_key=f"usage:{number}", kind="usage", tenant_id="acme", at_us=number, entries=(Entry("grant:g", -number), Entry("consumed", number)))


def rows(db: Database) -> dict[str, int]:
    with db.read() as session:
        return {row.name: row.n for row in session.execute(text("SELECT name, n FROM counter"))}


def test_rows_go_in_and_change_and_only_new_ones_are_told(counters: Database) -> None:
    with counters.write() as session:
        connection = session.connection()
        COUNTERS.run(connection, [("a", 1), ("b\t\\N'", None), ("c", -(2**63))])
        assert NEW.run(connection, [("a", 9), ("d", 4), ("d", 5), ('e"', 2**53 + 1)]) == {"d": 4, 'e"': 2**53 + 1}
        assert ADD.run(connection, [("a", 10), ("nobody", 1), ("d", 2**62)]) == 2
        assert (NEW.run(connection, []), ADD.run(connection, [])) == ({}, 0)
        COUNTERS.run(connection, [])
    assert rows(counters) == {"a": 11, "b\t\\N'": None, "c": -(2**63), "d": 2**62 + 4, 'e"': 2**53 + 1}


def test_what_the_database_refuses_has_its_own_error(counters: Database) -> None:
    with pytest.raises(IntegrityError), counters.write() as session:
        COUNTERS.run(session.connection(), [("a", 1), ("a", 2)])
    with pytest.raises((DataError, OverflowError)), counters.write() as session:
        COUNTERS.run(session.connection(), [("a", 2**63)])
    assert rows(counters) == {}


@pytest.mark.postgres
def test_a_connection_lost_while_rows_are_copied_is_the_books_away_and_the_next_one_works(postgres_url: str) -> None:
    database = Database(postgres_url)
    with database.write() as session:
        session.execute(text("CREATE TABLE counter (name varchar PRIMARY KEY, n bigint)"))
    with pytest.raises(BooksUnavailable), database.write() as session, database.write() as killer:
        pid = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        killer.execute(text(f"SELECT pg_terminate_backend({pid}, 5000)"))
        COUNTERS.run(session.connection(), [("a", 1)])
    with database.write() as session:
        COUNTERS.run(session.connection(), [("a", 1)])
    assert rows(database) == {"a": 1}
    database.close()


def test_two_hundred_postings_take_as_many_statements_as_two(db: Database) -> None:
    with statements(db) as few, db.write() as session:
        assert ledger.post(session, [posting(1), posting(2)]) == 2
    with statements(db) as many, db.write() as session:
        assert ledger.post(session, [posting(number) for number in range(1, 201)]) == 198
    assert len(many) - len(few) <= (10 if db.dialect == "sqlite" else 0)  # SQLite takes rows by powers of two
    with db.read() as session:
        assert ledger.balances(session) == {("acme", "grant:g"): -20100, ("acme", "consumed"): 20100}
        assert ledger.unbalanced(session) == []


def test_a_posting_told_twice_is_written_once_also_within_one_call(db: Database) -> None:
    with db.write() as session:
        assert ledger.post(session, [posting(1), posting(1)]) == 1
        assert ledger.post(session, [posting(1)]) == 0
        with pytest.raises(ValueError, match="sum to 1"):
            ledger.post(session, [posting(2), Posting(idem_key="x", kind="usage", tenant_id="acme", at_us=1, entries=(Entry("consumed", 1),))])
    with db.read() as session:
        assert ledger.balances(session) == {("acme", "grant:g"): -1, ("acme", "consumed"): 1}


def test_thousands_of_events_are_looked_up_in_one_statement(db: Database) -> None:
    events = [event(number) for number in range(1, 6001)]
    with db.write() as session:
        store.insert_events(session, events[:3], {one.id: 0 for one in events})
    with statements(db) as sent, db.read() as session:
        assert store.known(session, [one.id for one in events]) == {one.id: one for one in events[:3]}
    assert len([statement for statement in sent if "usage_event" in statement]) == 1
