"""The step that gave grants a scope and an end takes old books along, and goes down and up again without losing what the ledger knows."""

from typing import Any

from sqlalchemy import text

from billing.db import Database
from billing.grants import store as grants
from billing.operations.grants import void_grant
from billing.tenants import store as tenants

OLD = """
INSERT INTO tenant (id, name, state, currency, timezone, created_us) VALUES ('acme', 'acme', 'active', 'USD', 'UTC', 1);
INSERT INTO api_key (id, kind, tenant_id, name, digest, hint, project, created_us) VALUES
 ('k1', 'tenant', 'acme', '', '1', 'x', 'search', 7), ('k2', 'tenant', 'acme', '', '2', 'x', 'search', 5),
 ('k3', 'tenant', 'acme', '', '3', 'x', NULL, 5), ('k4', 'admin', NULL, '', '4', 'x', 'search', 5);
INSERT INTO credit_grant (id, tenant_id, kind, amount_ncr, priority, effective_us, expires_us, voided_us, created_us, note) VALUES
 ('live', 'acme', 'topup', 100, 1, 1, NULL, NULL, 1, ''), ('void', 'acme', 'topup', 100, 1, 1, NULL, 9, 1, ''),
 ('over', 'acme', 'topup', 100, 1, 1, 5, NULL, 1, '');
INSERT INTO grant_balance (grant_id, remaining_ncr) VALUES ('live', 70), ('void', 60), ('over', 50);
INSERT INTO ledger_tx (id, idem_key, kind, tenant_id, at_us) VALUES (900, 'void:void', 'void', 'acme', 9);
INSERT INTO ledger_entry (tx_id, seq, account, amount_ncr) VALUES (900, 0, 'grant:void', -60), (900, 1, 'issued', 60);
"""


def run(db: Database, script: str) -> None:
    with db.write() as session:
        for statement in script.split(";\n"):
            if statement.strip():
                session.connection().execute(text(statement))


def rows(db: Database, query: str) -> list[tuple[Any, ...]]:
    with db.read() as session:
        return [tuple(row) for row in session.connection().execute(text(query))]


def balances(db: Database) -> dict[str, tuple[int, int, int]]:
    with db.read() as session:
        return {grant.id: (grant.remaining_ncr, grant.expired_ncr, grant.voided_ncr) for grant in grants.all_grants(session)}


def test_old_grants_keep_their_figures_and_a_void_ones_rest_is_what_was_voided(empty_db: Database) -> None:
    empty_db.migrate("0003")
    run(empty_db, OLD)
    empty_db.migrate()
    assert balances(empty_db) == {"live": (70, 0, 0), "void": (0, 0, 60), "over": (50, 0, 0)}
    assert rows(empty_db, "SELECT id FROM credit_grant WHERE closed_us IS NULL ORDER BY id") == [("live",), ("over",)]


def test_the_projects_that_keys_name_have_a_row_each(empty_db: Database) -> None:
    empty_db.migrate("0003")
    run(empty_db, OLD)
    empty_db.migrate()
    assert rows(empty_db, "SELECT tenant_id, name, ceiling_ncr, created_us FROM project") == [("acme", "search", None, 5)]
    with empty_db.read() as session:
        assert [key.ceiling_ncr for key in tenants.all_keys(session)] == [None] * 4


def test_down_and_up_again_knows_from_the_ledger_how_grants_ended(empty_db: Database) -> None:
    empty_db.migrate("0003")
    run(empty_db, OLD)
    empty_db.migrate()
    void_grant(empty_db, "live", 10)
    run(
        empty_db,
        """
INSERT INTO ledger_tx (id, idem_key, kind, tenant_id, at_us) VALUES (990, 'expire:over', 'expire', 'acme', 9);
INSERT INTO ledger_entry (tx_id, seq, account, amount_ncr) VALUES (990, 0, 'grant:over', -50), (990, 1, 'expired', 50);
UPDATE grant_balance SET expired_ncr = remaining_ncr, remaining_ncr = 0 WHERE grant_id = 'over';
""",
    )
    before = balances(empty_db)
    assert before == {"live": (0, 0, 70), "void": (0, 0, 60), "over": (0, 50, 0)}
    empty_db.unmigrate("0003")
    assert sorted(rows(empty_db, "SELECT grant_id, remaining_ncr FROM grant_balance")) == [("live", 0), ("over", 0), ("void", 0)]
    empty_db.migrate()
    assert balances(empty_db) == before
