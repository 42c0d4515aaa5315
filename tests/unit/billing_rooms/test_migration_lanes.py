"""The step to lanes, with plans sold and processes running, up and down, on both engines."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from billing.db import Database
from billing.errors import BooksUnavailable
from tests.unit.billing_rooms.test_migration_plans import BEFORE, rows, run

PROCESS = "INSERT INTO replica (id, beat, host, pid, started_us) VALUES ('r', 1, 'h', 2, 3)"
TERMS = "SELECT slow_delay_ms, slow_tokens_per_second, slow_priority, slow_flex, spill_after_ms, slow_concurrency FROM plan_version"


def test_plans_that_were_sold_keep_what_slow_meant_and_still_refuse_to_change(empty_db: Database) -> None:
    empty_db.migrate("0008")
    run(empty_db, *BEFORE, PROCESS)
    empty_db.migrate("0009")
    assert rows(empty_db, TERMS) == [(0, None, 10, True, None, 2)]
    assert rows(empty_db, "SELECT id, note FROM replica") == [("r", None)]
    with pytest.raises(DBAPIError, match="never changed"):
        run(empty_db, "UPDATE plan_version SET slow_priority = 1")


def test_it_goes_down_and_up_again(empty_db: Database) -> None:
    empty_db.migrate("0008")
    run(empty_db, *BEFORE, PROCESS)
    empty_db.migrate("0009")
    empty_db.unmigrate("0008")
    with pytest.raises((DBAPIError, BooksUnavailable)), empty_db.read() as session:
        session.connection().execute(text("SELECT slow_flex FROM plan_version"))
    assert rows(empty_db, "SELECT plan_id, version, slow_concurrency FROM plan_version") == [("pro", 1, 2)]
    empty_db.migrate("0009")
    assert rows(empty_db, TERMS) == [(0, None, 10, True, None, 2)]
