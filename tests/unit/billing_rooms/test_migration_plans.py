"""The step to plans in full, with data in the tables, up and down, on both engines."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from billing.db import Database

BEFORE = (
    "INSERT INTO tenant (id, name, state, currency, timezone, created_us) VALUES ('acme', 'ACME', 'active', 'USD', 'UTC', 1)",
    "INSERT INTO plan (id, created_us) VALUES ('pro', 1)",
    "INSERT INTO plan_version (plan_id, version, name, allowance_ncr, on_exhausted, weight, slow_concurrency, monthly_fee_minor, currency, created_us)"
    " VALUES ('pro', 1, 'Pro', 1000, 'slow', 3, 2, 0, 'USD', 1)",
    "INSERT INTO subscription (id, tenant_id, plan_id, version, anchor_us, started_us) VALUES ('acme.1', 'acme', 'pro', 1, 5, 5)",
)
TERMS = (
    "SELECT seat_allowance_ncr, rollover_cap_ncr, activate_on_first_use, fallback_model, weight, slow_weight, glide_percent, on_database_loss FROM plan_version"
)


def run(db: Database, *statements: str) -> None:
    with db.write() as session:
        for statement in statements:
            session.connection().execute(text(statement))


def rows(db: Database, query: str) -> list[tuple[object, ...]]:
    with db.read() as session:
        return [tuple(row) for row in session.connection().execute(text(query))]


def test_plans_that_were_sold_keep_what_they_meant(empty_db: Database) -> None:
    empty_db.migrate("0002")
    run(empty_db, *BEFORE)
    empty_db.migrate("0003")
    assert rows(empty_db, TERMS) == [(0, None, False, None, 3, 3, 10, "slow")]
    with pytest.raises(DBAPIError, match="never changed"):
        run(empty_db, "UPDATE plan_version SET allowance_ncr = 2000")


def test_months_that_wait_for_a_first_request_go_down_and_up(empty_db: Database) -> None:
    empty_db.migrate("0002")
    run(empty_db, *BEFORE)
    empty_db.migrate("0003")
    run(empty_db, "INSERT INTO subscription (id, tenant_id, plan_id, version, anchor_us, started_us) VALUES ('acme.2', 'acme', 'pro', 1, NULL, 9)")
    empty_db.unmigrate("0002")
    assert rows(empty_db, "SELECT id, anchor_us FROM subscription ORDER BY id") == [("acme.1", 5), ("acme.2", 9)]
    run(empty_db, "UPDATE plan_version SET name = 'it may be changed again, as before'")
    empty_db.migrate("0003")
    assert rows(empty_db, "SELECT id, anchor_us FROM subscription ORDER BY id") == [("acme.1", 5), ("acme.2", 9)]
    assert rows(empty_db, TERMS) == [(0, None, False, None, 3, 3, 10, "slow")]
