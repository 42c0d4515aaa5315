"""Usage events lie in partitions by month on PostgreSQL: rows are moved there and back, an id is unique over all of them, facts stay facts."""

import logging
from collections.abc import Iterator

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlmodel import Session

from billing.db import Database
from billing.jobs import make_partitions
from billing.usage import store
from billing.usage.event import UsageEvent
from billing.usage.partitions import first_id, make_months, month_after
from gateway.ids import uuid7
from tests.books import event

DAY_US = 86_400_000_000
NOVEMBER_US = 1_793_491_200_000_000  # 2026-11-01T00:00Z
DECEMBER_US = NOVEMBER_US + 30 * DAY_US
BEFORE = (
    "INSERT INTO usage_event (id, tenant_id, key_id, model, backend, upstream_model, endpoint, started_us, ended_us, status, outcome, lane, stream, source,"
    " charge_ncr, cover_ncr, covered_ncr, attempts, queue_ms)"
    " VALUES (:id, 'acme', 'k', 'm', 'b', 'u', '/v1', 1, 2, 200, 'complete', 'fast', false, 'reported', 1, 1, 1, 1, 0)"
)
WHERE = text("SELECT id, tableoid::regclass::text FROM usage_event")


def made(at_us: int, number: int = 1) -> UsageEvent:
    return msgspec.structs.replace(event(number), id=uuid7(at_us), started_us=at_us, ended_us=at_us)


def insert(db: Database, *events: UsageEvent) -> None:
    with db.write() as session:
        store.insert_events(session, events, {one.id: 0 for one in events})


def make(db: Database, now_us: int) -> list[str]:
    with db.write() as session:
        return make_months(session, now_us)


def places(db: Database) -> dict[str, str]:
    with db.read() as session:
        return {row[0]: row[1] for row in session.execute(WHERE)}


def plan(session: Session, query: str) -> str:
    return "\n".join(session.execute(text(f"EXPLAIN {query}")).scalars())


@pytest.fixture
def postgres_db(postgres_url: str) -> Iterator[Database]:
    """A PostgreSQL whose events are not divided yet."""
    database = Database(postgres_url)
    database.migrate("0005")
    yield database
    database.close()


@pytest.mark.parametrize(("year", "month"), [(2026, 11), (2026, 12), (2027, 1), (2028, 2)])
def test_the_first_id_of_a_month_parts_it_from_the_one_before(year: int, month: int) -> None:
    start_us = int(first_id(year, month).replace("-", ""), 16) * 1000
    assert uuid7(start_us - 1) < first_id(year, month) <= uuid7(start_us)


def test_months_go_on_over_the_year() -> None:
    assert [month_after(2026, 11, count) for count in range(4)] == [(2026, 11), (2026, 12), (2027, 1), (2027, 2)]


def test_rows_are_moved_into_their_months_and_back(postgres_db: Database) -> None:
    ids = {
        uuid7(at_us): month for at_us, month in ((NOVEMBER_US - 1, "2026_10"), (NOVEMBER_US, "2026_11"), (DECEMBER_US - 1, "2026_11"), (DECEMBER_US, "2026_12"))
    }
    odd = ["req-of-another-make", "ffffffff-ffff-7fff-8000-000000000000", "00000000-0000-7000-8000-000000000001", uuid7(NOVEMBER_US).upper()]
    with postgres_db.write() as session:
        for event_id in (*ids, *odd):
            session.execute(text(BEFORE), {"id": event_id})
    postgres_db.migrate()
    expected = {event_id: f"usage_event_{month}" for event_id, month in ids.items()} | dict.fromkeys(odd, "usage_event_default")
    assert places(postgres_db) == expected
    postgres_db.unmigrate("0005")
    assert places(postgres_db) == dict.fromkeys(expected, "usage_event")
    with pytest.raises(IntegrityError), postgres_db.write() as session:
        session.execute(text(BEFORE), {"id": odd[0]})
    with pytest.raises(DBAPIError, match="never changed"), postgres_db.write() as session:
        session.execute(text("DELETE FROM usage_event"))
    postgres_db.migrate()
    assert places(postgres_db) == expected


def test_an_id_is_refused_twice_wherever_it_lies(postgres_db: Database) -> None:
    postgres_db.migrate()
    make(postgres_db, NOVEMBER_US)
    first, late, odd = made(NOVEMBER_US), made(NOVEMBER_US - 1), event(7)
    insert(postgres_db, first, late, odd)
    for again in (first, late, odd):
        with pytest.raises(IntegrityError):
            insert(postgres_db, made(NOVEMBER_US), again)
    assert sorted(places(postgres_db).values()) == ["usage_event_2026_11", "usage_event_default", "usage_event_default"]


def test_this_month_and_the_next_three_are_made_once(postgres_db: Database) -> None:
    postgres_db.migrate()
    assert make(postgres_db, NOVEMBER_US) == ["usage_event_2026_11", "usage_event_2026_12", "usage_event_2027_01", "usage_event_2027_02"]
    assert make(postgres_db, NOVEMBER_US + DAY_US) == []
    with postgres_db.write() as session:
        assert make_partitions.run_once(session, DECEMBER_US) == 1
        assert make_partitions.run_once(session, DECEMBER_US) == 0


def test_a_month_whose_events_came_first_stays_in_the_default_and_they_are_found(postgres_db: Database, caplog: pytest.LogCaptureFixture) -> None:
    postgres_db.migrate()
    early = made(NOVEMBER_US + DAY_US)
    insert(postgres_db, early)
    with caplog.at_level(logging.WARNING):
        assert make(postgres_db, NOVEMBER_US + DAY_US) == ["usage_event_2026_12", "usage_event_2027_01", "usage_event_2027_02"]
    assert "2026-11" in caplog.text
    late = made(NOVEMBER_US + 2 * DAY_US)
    insert(postgres_db, late)
    assert places(postgres_db) == {early.id: "usage_event_default", late.id: "usage_event_default"}
    with postgres_db.read() as session:
        assert store.known(session, [early.id, late.id]) == {early.id: early, late.id: late}
        assert [one.id for one, _covered in store.events_between(session, NOVEMBER_US, DECEMBER_US, "acme")] == [early.id, late.id]


@pytest.mark.parametrize("change", ["UPDATE {0} SET status = 1", "DELETE FROM {0}", "TRUNCATE {0}"])
@pytest.mark.parametrize("table", ["usage_event", "usage_event_2026_11", "usage_event_2026_12", "usage_event_default", "usage_conflict"])
def test_facts_refuse_to_change_in_every_partition(postgres_db: Database, change: str, table: str) -> None:
    with postgres_db.write() as session:
        session.execute(text(BEFORE), {"id": uuid7(NOVEMBER_US)})  # this month's partition is the migration's, the next one the job's
    postgres_db.migrate()
    make(postgres_db, NOVEMBER_US)
    insert(postgres_db, made(DECEMBER_US), event(1))
    with postgres_db.write() as session:
        store.keep_conflicts(session, [event(1, 11)], NOVEMBER_US)
    column = change.replace("status = 1", "seen_us = 1") if table == "usage_conflict" else change
    with pytest.raises(DBAPIError, match="never changed"), postgres_db.write() as session:
        session.execute(text(column.format(table)))


def test_a_look_up_by_id_reads_one_partition_and_one_by_tenant_the_index(postgres_db: Database) -> None:
    postgres_db.migrate()
    make(postgres_db, NOVEMBER_US)
    events = [msgspec.structs.replace(made(NOVEMBER_US + number * 1_000_000), tenant_id=f"t{number % 50}") for number in range(3000)]
    insert(postgres_db, *events)
    with postgres_db.write() as session:
        session.execute(text("ANALYZE usage_event"))
    with postgres_db.read() as session:
        assert session.execute(text("SHOW plan_cache_mode")).scalar_one() == "force_custom_plan"  # a kept plan would read every month
        one = plan(session, f"SELECT * FROM usage_event WHERE id = ANY('{{{events[5].id},{events[6].id}}}'::text[])")
        assert "Index" in one
        assert one.count("usage_event_2026_11") >= 1
        assert "usage_event_2026_12" not in one and "default" not in one
        span = f"started_us >= {NOVEMBER_US} AND started_us < {DECEMBER_US}"
        assert "usage_event_2026_11_tenant_id_started_us_idx" in plan(session, f"SELECT * FROM usage_event WHERE tenant_id = 't7' AND {span}")


def test_on_sqlite_there_is_nothing_to_make(tmp_path: object) -> None:
    database = Database(f"sqlite:///{tmp_path}/weir.db")
    database.migrate()
    assert make(database, NOVEMBER_US) == []
    database.close()
