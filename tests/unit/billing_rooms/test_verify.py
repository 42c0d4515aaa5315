"""`weir ledger verify` proves the invariants by number: books in order have no difference, and every damage is named by the one it breaks."""

from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text

from billing.db import Database
from billing.leases import store as leases
from billing.leases.store import Lease, Replica
from billing.usage.event import UsageEvent
from billing.usage.journal import Journal
from billing.usage.parking import park
from billing.usage.proofs import Proof
from billing.usage.verify import prove, verify
from tests.books import HOUR_US, event, grant, seed
from tests.clock import START_US
from tests.unit.billing_rooms.test_writer import book_now, take_the_guards_away

NUMBERS = ["1", "2", "3", "4", "5", "8", "purses", "sums", "usage"]
DAY_US = START_US - START_US % (24 * HOUR_US)


def dated(number: int, charge_ncr: int = 30, **changes: object) -> UsageEvent:
    """An event that says its day and its month."""
    return msgspec.structs.replace(event(number, charge_ncr), day_us=DAY_US, period_us=DAY_US, **changes)


def proofs(db: Database, folder: Path | None = None) -> dict[str, Proof]:
    with db.read(snapshot=True) as session:
        return {proof.number: proof for proof in prove(session, START_US, folder)}


def broken(db: Database) -> list[str]:
    return [number for number, proof in proofs(db).items() if not proof.holds]


def in_order(db: Database) -> None:
    """Books with a little of everything: two tenants, a scoped purse, a ceiling, debt that is repaid, past the credits on both lanes, a lease."""
    general, scoped = grant("g1", 100), grant("g2", 50, models=("m",), priority=1)
    seed(db, "acme", general, scoped)
    seed(db, "other", grant("g3", 40, tenant_id="other"))
    book_now(db, dated(1, 30, purses={"models:m": 20, "": 10, "cap:key:key_1": 30}), dated(2, 90, project="p"), dated(3, 5, cover_ncr=0, lane="slow"))
    book_now(db, dated(4, 60), dated(5, 7, cover_ncr=2), dated(6, 60, tenant_id="other", outcome="recovered"))
    with db.write() as session:
        same = "state, currency, timezone, created_us"
        session.execute(text(f"INSERT INTO tenant (id, name, {same}) SELECT 'quiet', 'quiet', {same} FROM tenant WHERE id = 'acme'"))
        leases.register(session, Replica(id="r", beat=1, host="h", pid=1, started_us=START_US))
        leases.put(session, [Lease(tenant_id="acme", purse="models:m", replica_id="r", amount_ncr=30, valid_until_us=START_US + HOUR_US)])


def damage(db: Database, *statements: str) -> None:
    with db.write() as session:
        take_the_guards_away(session)
        for statement in statements:
            session.execute(text(statement))


def test_books_in_order_have_no_difference_and_say_what_was_looked_at(db: Database) -> None:
    in_order(db)
    found = proofs(db)
    assert sorted(found) == NUMBERS
    assert [difference for proof in found.values() for difference in proof.differences] == []
    assert found["2"].checked["events"] == 6
    assert found["3"].checked["transactions"] > 3
    assert found["4"].checked["grants"] == 3
    assert found["8"].checked["grants used"] == 3
    assert found["purses"].checked["purses"] == 1
    assert found["sums"].checked["sums"] >= 7
    assert found["1"].checked["leases"] == 1
    assert found["usage"].notes == ["tenant other: 1 requests whose process died were charged by what was last seen of them"]


def test_without_an_instant_everything_but_leases_is_looked_at(db: Database) -> None:
    in_order(db)
    with db.read() as session:
        assert verify(session) == []
    damage(db, "UPDATE credit_account SET consumed_ncr = consumed_ncr + 1 WHERE tenant_id = 'acme'", "UPDATE lease SET amount_ncr = 51")
    with db.read() as session:
        assert len(verify(session)) == len([one for proof in prove(session, START_US) for one in proof.differences]) - 1 > 0


def test_an_empty_database_has_no_difference(db: Database) -> None:
    assert broken(db) == []


TX = "SELECT id FROM ledger_tx WHERE kind = 'usage' AND tenant_id = 'other'"
DAMAGES = [
    ("1", "UPDATE credit_account SET consumed_ncr = consumed_ncr + 1 WHERE tenant_id = 'acme'", "consumed of the account"),
    ("1", "UPDATE lease SET amount_ncr = 51", "51 ncr are leased of grants that never held more than 50"),
    ("2", "UPDATE usage_event SET covered_ncr = cover_ncr + 1 WHERE covered_ncr > 0", "do not have 0 <="),
    ("2", "UPDATE lease SET amount_ncr = -1", "the lease of process r"),
    ("2", "UPDATE credit_account SET excess_ncr = -1", "excess_ncr of the account is -1"),
    ("2", "UPDATE grant_balance SET expired_ncr = -1, remaining_ncr = remaining_ncr + 1", "grant g1"),
    ("3", f"UPDATE ledger_entry SET amount_ncr = amount_ncr + 1 WHERE account = 'consumed' AND tx_id IN ({TX})", "sums to 1 ncr"),
    ("3", f"DELETE FROM ledger_entry WHERE tx_id IN ({TX})", "has no entries"),
    ("4", "UPDATE grant_balance SET remaining_ncr = remaining_ncr + 1 WHERE grant_id = 'g2'", "grant g2"),
    ("4", "UPDATE credit_grant SET amount_ncr = amount_ncr + 1 WHERE id = 'g3'", "grant g3"),
    ("4", "UPDATE grant_balance SET expired_ncr = remaining_ncr, remaining_ncr = 0 WHERE grant_id = 'g2'", "grant g2"),
    ("4", "UPDATE ledger_entry SET account = 'grant:nobody' WHERE account = 'grant:g1'", "which does not exist"),
    ("5", "UPDATE usage_event SET charge_ncr = charge_ncr + 1 WHERE tenant_id = 'other'", "charges of events"),
    ("5", "UPDATE credit_account SET debt_ncr = debt_ncr + 1 WHERE tenant_id = 'other'", "debt of the account"),
    ("5", "UPDATE ledger_entry SET account = 'overage' WHERE account = 'excess'", "the ledger's excess"),
    ("5", "DELETE FROM usage_event WHERE tenant_id = 'other'", "cover of events"),
    ("8", f"UPDATE credit_grant SET effective_us = {START_US + HOUR_US} WHERE id = 'g3'", "before it began"),
    ("8", f"UPDATE credit_grant SET expires_us = {START_US} WHERE id = 'g1'", "the requests of its life could use"),
    ("8", f"UPDATE credit_grant SET voided_us = {START_US - HOUR_US} WHERE id = 'g2'", "grant g2"),
    ("purses", "UPDATE credit_grant SET models = '[\"n\"]' WHERE id = 'g2'", "purse `models:n`"),
    ("purses", """UPDATE usage_event SET purses = '{"models:m": 20, "": 9}' WHERE purses IS NOT NULL""", "do not sum"),
    ("sums", "UPDATE usage_sum SET cover_ncr = cover_ncr + 1 WHERE span = 'key:key_1'", "the sum of key:key_1"),
    ("sums", "DELETE FROM usage_sum WHERE span = 'project:p'", "there is no sum of project:p"),
    ("sums", "UPDATE usage_sum SET start_us = start_us - 1 WHERE span = 'period'", "its events are 0"),
    ("usage", "UPDATE ledger_tx SET idem_key = 'usage:other:nothing' WHERE kind = 'usage' AND tenant_id = 'other'", "posts event nothing"),
    ("usage", "UPDATE ledger_tx SET kind = 'issue' WHERE kind = 'usage' AND tenant_id = 'other'", "nothing of it is posted"),
]  # fmt: skip


@pytest.mark.parametrize(("number", "statement", "says"), DAMAGES)
def test_a_damage_is_named_by_the_invariant_that_it_breaks(db: Database, number: str, statement: str, says: str) -> None:
    in_order(db)
    damage(db, statement)
    proof = proofs(db)[number]
    assert any(says in difference for difference in proof.differences), proof.differences


def test_every_number_has_a_damage_that_it_alone_or_first_names() -> None:
    assert {number for number, _statement, _says in DAMAGES} == set(NUMBERS)


def test_differences_are_counted_past_a_hundred_and_not_all_kept(db: Database) -> None:
    seed(db, "acme", *(grant(f"g{number}", 10) for number in range(150)))
    damage(db, "UPDATE grant_balance SET remaining_ncr = 11")
    proof = proofs(db)["4"]
    assert (len(proof.differences), proof.omitted) == (100, 50)


def test_what_was_leased_and_then_used_by_another_is_a_note_and_no_difference(db: Database) -> None:
    in_order(db)
    damage(db, "UPDATE lease SET amount_ncr = 31")
    proof = proofs(db)["1"]
    assert proof.holds
    assert "1 ncr more are leased than grants hold" in proof.notes[0]


def test_a_lease_on_a_grant_that_was_voided_is_no_difference(db: Database) -> None:
    in_order(db)
    damage(
        db,
        "UPDATE credit_grant SET voided_us = effective_us WHERE id = 'g2'",
        "UPDATE grant_balance SET voided_ncr = remaining_ncr, remaining_ncr = 0 WHERE grant_id = 'g2'",
    )
    proof = proofs(db)["1"]
    assert proof.holds
    assert "30 ncr more are leased than grants hold" in proof.notes[0]


def test_sums_may_hold_what_was_booked_before_events_said_their_day(db: Database) -> None:
    seed(db, "acme", grant("g1", 100))
    book_now(db, event(1, 10), dated(2, 20))
    damage(db, "UPDATE usage_sum SET events = 2, charge_ncr = 30, cover_ncr = 30 WHERE span = 'day'")
    assert broken(db) == []
    damage(db, "UPDATE usage_sum SET charge_ncr = 31 WHERE span = 'day'")
    assert broken(db) == ["sums"]


def test_the_journals_folder_says_what_is_in_no_book(db: Database, tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    journal = Journal(folder, lambda: START_US)
    assert proofs(db, folder)["journal"].holds
    journal.settled(event(1))
    park(folder, event(2))
    (folder / "damaged-1-2.wal").write_bytes(b"torn")
    proof = proofs(db, folder)["journal"]
    assert [difference.partition(" ")[0] for difference in proof.differences] == [f"rejected-{START_US}-{event(2).id}.wal"]
    assert [note.partition(" ")[0] for note in proof.notes] == ["damaged-1-2.wal:", "1"]
    journal.close()


def test_a_snapshot_does_not_see_what_is_booked_meanwhile(db: Database) -> None:
    seed(db, "acme", grant("g1", 100))
    book_now(db, dated(1))
    with db.read(snapshot=True) as session:
        first = prove(session, START_US)
        book_now(db, dated(2))
        again = prove(session, START_US)
    assert [proof.checked for proof in again] == [proof.checked for proof in first]
    assert all(proof.holds for proof in again)
    assert proofs(db)["2"].checked["events"] == 2
