"""A batch of events becomes books: each once, over the right grants, and everything agrees afterwards."""

import msgspec
import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from billing.credits import store as accounts
from billing.db import Database
from billing.grants import store as grants
from billing.meter import Meter
from billing.operations.events import list_conflicts
from billing.usage import store
from billing.usage.event import UsageEvent
from billing.usage.verify import verify
from billing.usage.writer import Booked, book
from tests.books import HOUR_US, event, grant, seed
from tests.clock import START_US


def left_of(booked: Booked, tenant: str) -> int:
    return sum(state.left_ncr for state in booked.standings[tenant].states)


def book_now(db: Database, *events: UsageEvent, now_us: int = START_US) -> Booked:
    with db.write() as session:
        return book(session, events, now_us)


def problems(db: Database) -> list[str]:
    with db.read() as session:
        return verify(session)


def left(db: Database, grant_id: str) -> int:
    with db.read() as session:
        found = grants.get_grant(session, grant_id)
    assert found is not None
    return found.remaining_ncr


def test_a_batch_takes_from_the_grant_what_it_charges(db: Database) -> None:
    seed(db, "acme", grant("g1", 100))
    booked = book_now(db, event(1, 30), event(2, 20))
    assert booked.new == 2
    assert left_of(booked, "acme") == 50 == left(db, "g1")
    assert problems(db) == []


def test_the_same_batch_told_again_changes_nothing(db: Database) -> None:
    seed(db, "acme", grant("g1", 100))
    batch = [event(1, 30), event(2, 20)]
    book_now(db, *batch)
    again = book_now(db, *batch, event(3, 1), event(3, 1))
    assert again.new == 1
    assert again.conflicts == []
    assert left_of(again, "acme") == 49
    assert problems(db) == []


def test_an_id_with_other_content_is_a_conflict_and_the_first_is_kept(db: Database) -> None:
    seed(db, "acme", grant("g1", 100))
    book_now(db, event(1, 30))
    booked = book_now(db, event(1, 31), event(2, 5), event(2, 6))
    assert sorted(booked.conflicts) == [event(1).id, event(2).id]
    assert left(db, "g1") == 65
    assert problems(db) == []


def test_what_came_with_other_content_is_kept_once_with_what_it_contradicts(db: Database) -> None:
    seed(db, "acme", grant("g1", 100))
    first, other, third = event(1, 30), event(1, 31), msgspec.structs.replace(event(1, 30), meter=Meter(input=8, output=3, cache_read=0), ttft_us=5)
    book_now(db, first)
    book_now(db, other, now_us=START_US + 1)
    book_now(db, other, third, first, now_us=START_US + 2)
    book_now(db, msgspec.structs.replace(first, charge_ncr=1, cover_ncr=1, source="recovered"), now_us=START_US + 3)
    found = list_conflicts(db)
    assert [(one.id, one.tenant_id, one.seen_us) for one in found] == [(first.id, "acme", START_US + 2), (first.id, "acme", START_US + 1)]
    assert found[0].differences == (("ttft_us", None, 5), ("input", 7, 8))
    assert found[1].differences == (("charge_ncr", 30, 31), ("cover_ncr", 30, 31))
    assert [one.seen_us for one in list_conflicts(db, "acme", limit=1)] == [START_US + 2]
    assert problems(db) == []


def test_a_conflict_is_kept_with_the_batch_that_saw_it_or_not_at_all(db: Database) -> None:
    seed(db, "acme", grant("g1", 100))
    book_now(db, event(1, 30))
    with pytest.raises(IntegrityError):
        book_now(db, event(1, 31), event(2, 1, tenant="nobody"))
    assert list_conflicts(db) == []


def test_a_flush_takes_as_many_statements_for_fifty_tenants_as_for_two(db: Database) -> None:
    def sent_for(first: int, people: int) -> int:
        sent: list[str] = []

        def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
            sent.append(statement)

        sqlalchemy_event.listen(db.engine, "before_cursor_execute", note)
        book_now(db, *(event(first + number, 3, tenant=f"t{number % people}") for number in range(200)))
        sqlalchemy_event.remove(db.engine, "before_cursor_execute", note)
        return len(sent)

    for number in range(50):
        seed(db, f"t{number}", grant(f"g{number}", 1000, tenant_id=f"t{number}"))
    sent_for(1000, 50)  # opens their accounts
    assert sent_for(2000, 50) - sent_for(3000, 2) <= (10 if db.dialect == "sqlite" else 0)  # SQLite takes rows by powers of two
    assert problems(db) == []


def test_events_come_back_as_they_were_told(db: Database) -> None:
    seed(db, "acme", grant("g1", 25))
    told = [event(1, 20), event(2, 20), event(3, 9, cover_ncr=2, lane="slow")]
    book_now(db, *told)
    with db.read() as session:
        found = list(store.events_between(session, START_US, START_US + 1))
    assert [one for one, _covered in found] == told
    assert [covered for _one, covered in found] == [20, 5, 0]


def test_what_grants_cannot_pay_becomes_debt_and_the_next_grant_repays_it(db: Database) -> None:
    seed(db, "acme", grant("g1", 25))
    assert book_now(db, event(1, 40)).standings["acme"].debt_ncr == 15
    with db.write() as session:
        grants.insert_grant(session, grant("g2", 100))
    booked = book_now(db, event(2, 10))
    assert booked.standings["acme"].debt_ncr == 0
    assert left_of(booked, "acme") == 75
    assert problems(db) == []


def test_slow_use_past_the_credits_is_excess_and_fast_use_is_overage(db: Database) -> None:
    seed(db, "acme", grant("g1", 10))
    book_now(db, event(1, 30, cover_ncr=10, lane="slow"), event(2, 7, cover_ncr=0))
    with db.read() as session:
        totals = accounts.get(session, "acme")
    assert (totals.consumed_ncr, totals.excess_ncr, totals.overage_ncr, totals.debt_ncr) == (10, 20, 7, 0)
    assert problems(db) == []


def test_an_event_uses_the_grants_of_its_own_start_and_not_of_its_booking(db: Database) -> None:
    old = grant("old", 100, effective_us=START_US - HOUR_US, expires_us=START_US + HOUR_US)
    new = grant("new", 100, effective_us=START_US + HOUR_US)
    seed(db, "acme", old, new)
    booked = book_now(db, event(1, 30, started_us=START_US), event(2, 5, started_us=START_US + HOUR_US), now_us=START_US + 2 * HOUR_US)
    assert (left(db, "old"), left(db, "new")) == (70, 95)
    assert left_of(booked, "acme") == 95
    assert problems(db) == []


def test_a_tenant_that_does_not_exist_spoils_the_transaction_and_books_nothing(db: Database) -> None:
    seed(db, "acme", grant("g1", 100))
    with pytest.raises(IntegrityError):
        book_now(db, event(1, 30), event(2, 1, tenant="nobody"))
    assert left(db, "g1") == 100
    assert problems(db) == []


def test_several_tenants_in_one_batch_stay_apart(db: Database) -> None:
    seed(db, "acme", grant("g1", 100))
    seed(db, "beta", grant("g2", 50, tenant_id="beta"))
    booked = book_now(db, event(1, 30), event(2, 20, tenant="beta"), event(3, 1))
    assert left_of(booked, "acme") == 69
    assert left_of(booked, "beta") == 30
    assert problems(db) == []


def test_free_use_is_a_fact_without_a_posting(db: Database) -> None:
    seed(db, "acme")
    assert book_now(db, event(1, 0)).new == 1
    assert problems(db) == []


def take_the_guards_away(session: Session) -> None:
    """Let rows be changed that the schema protects, as somebody with the database's password could."""
    if session.get_bind().dialect.name == "postgresql":
        for table in ("usage_event", "ledger_tx", "ledger_entry"):
            session.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        return
    for name in session.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all():
        session.execute(text(f"DROP TRIGGER {name}"))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("UPDATE grant_balance SET remaining_ncr = remaining_ncr + 1", "grant g1"),
        ("UPDATE ledger_entry SET amount_ncr = amount_ncr + 1 WHERE account = 'consumed'", "sums to 1"),
        ("UPDATE usage_event SET charge_ncr = charge_ncr + 1", "charges of events"),
        ("UPDATE credit_account SET debt_ncr = debt_ncr + 1", "debt"),
        ("DELETE FROM usage_event", "cover of events"),
    ],
)
def test_verify_names_what_was_tampered_with(db: Database, damage: str, says: str) -> None:
    seed(db, "acme", grant("g1", 100))
    book_now(db, event(1, 30))
    with db.write() as session:
        take_the_guards_away(session)
        session.execute(text(damage))
    assert any(says in problem for problem in problems(db))
