"""A flush notices each threshold that use has reached, once a period and percent, in its own transaction, and sends no statement where none was."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec
import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import text

from billing.alerts import store
from billing.alerts.thresholds import Threshold
from billing.alerts.webhook import Webhook
from billing.db import Database
from billing.grants import store as grants
from billing.jobs.prune_webhooks import KEPT_US, run_once
from billing.operations.grants import void_grant
from billing.usage.event import UsageEvent
from billing.usage.writer import book
from tests.books import HOUR_US, event, grant, seed
from tests.clock import START_US

PERIOD, NEXT = START_US - HOUR_US, START_US + HOUR_US


def use(number: int, charge_ncr: int, *, period_us: int | None = PERIOD, **more: object) -> UsageEvent:
    return event(number, charge_ncr, period_us=period_us, **more)  # type: ignore[arg-type]


def book_now(db: Database, *events: UsageEvent, now_us: int = START_US) -> None:
    with db.write() as session:
        book(session, events, now_us)


def noted(db: Database, tenant: str = "acme", period_us: int = PERIOD) -> list[Threshold]:
    with db.read() as session:
        return store.thresholds_of(session, tenant, period_us)


def percents(db: Database, tenant: str = "acme", period_us: int = PERIOD) -> list[int]:
    return [one.percent for one in noted(db, tenant, period_us)]


def messages(db: Database) -> list[tuple[str, str | None, int]]:
    with db.read() as session:
        found = store.deliveries(session, None, 1000)
    return sorted((one.webhook_id, one.tenant_id, msgspec.json.decode(one.body)["data"]["percent"]) for one in found)


def hook(db: Database, webhook_id: str, tenant: str | None = None, events: tuple[str, ...] | None = None, disabled_us: int | None = None) -> None:
    with db.write() as session:
        store.insert_webhook(
            session, Webhook(id=webhook_id, url=f"https://{webhook_id}.test/", tenant_id=tenant, events=events, created_us=1, disabled_us=disabled_us)
        )


def statements(db: Database, *events: UsageEvent) -> list[str]:
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        sent.append(statement)

    sqlalchemy_event.listen(db.engine, "before_cursor_execute", note)
    book_now(db, *events)
    sqlalchemy_event.remove(db.engine, "before_cursor_execute", note)
    return sent


def test_a_threshold_is_noted_when_use_reaches_it_and_not_before(db: Database) -> None:
    seed(db, "acme", grant("g", 1000))
    book_now(db, use(1, 499))
    assert noted(db) == []
    book_now(db, use(2, 1), now_us=START_US + 7)
    assert noted(db) == [Threshold(tenant_id="acme", period_us=PERIOD, percent=50, at_us=START_US + 7, used_ncr=500, limit_ncr=1000)]
    book_now(db, use(3, 299))
    assert percents(db) == [50]
    book_now(db, use(4, 1))
    assert percents(db) == [50, 80]
    book_now(db, use(5, 200))
    assert percents(db) == [50, 80, 100]


def test_one_batch_may_reach_several_and_each_is_told_once_to_each_endpoint_concerned(db: Database) -> None:
    seed(db, "acme", grant("g", 1000))
    seed(db, "beta", grant("h", 1000, tenant_id="beta"))
    hook(db, "all")
    hook(db, "beta", tenant="beta")
    hook(db, "exhausted", tenant="acme", events=("credits.exhausted",))
    hook(db, "gone", disabled_us=1)
    book_now(db, use(1, 300), use(2, 900), use(3, 700, tenant="beta"))
    assert percents(db) == [50, 80, 100]
    assert percents(db, "beta") == [50]
    told = [("all", "acme", 50), ("all", "acme", 80), ("all", "acme", 100), ("all", "beta", 50), ("beta", "beta", 50), ("exhausted", "acme", 100)]
    assert messages(db) == sorted(told)


def test_what_is_told_is_decimal_text_and_the_same_id_for_the_same_news(db: Database) -> None:
    seed(db, "acme", grant("g", 10_000_000_000))
    hook(db, "all")
    book_now(db, use(1, 5_500_000_000))
    with db.read() as session:
        (one,) = store.deliveries(session, None, 10)
    assert msgspec.json.decode(one.body) == {
        "type": "credits.threshold",
        "timestamp": "2026-11-03T12:00:00Z",
        "data": {"tenant": "acme", "period": "2026-11-03T11:00:00Z", "percent": 50, "used": "5.5", "limit": "10", "remaining": "4.5"},
    }
    assert (one.type, one.state, one.due_us, one.tries) == ("credits.threshold", "waiting", START_US, 0)
    assert one.id.startswith("msg_") and len(one.id) == 36


def test_told_again_nothing_is_noted_and_a_flush_that_is_undone_notes_nothing(db: Database) -> None:
    seed(db, "acme", grant("g", 1000))
    hook(db, "all")
    with pytest.raises(RuntimeError), db.write() as session:
        book(session, [use(1, 900)], START_US)
        raise RuntimeError
    assert noted(db) == [] == messages(db)
    for _ in range(3):
        book_now(db, use(1, 900), use(1, 900))
    assert percents(db) == [50, 80]
    assert len(messages(db)) == 2


def test_a_flush_that_reaches_nothing_new_sends_no_statement_for_it(db: Database) -> None:
    seed(db, "acme", grant("g", 1000))
    hook(db, "all")
    below = statements(db, use(1, 10))
    assert not [one for one in below if "threshold" in one or "webhook" in one]
    reaching = statements(db, use(2, 800))
    assert len(reaching) == len(below) + 3  # the thresholds, the endpoints, the messages
    again = statements(db, use(3, 10))
    assert not [one for one in again if "INTO threshold" in one or "webhook" in one]


def test_a_top_up_takes_it_below_and_a_second_crossing_is_not_told(db: Database) -> None:
    seed(db, "acme", grant("g", 1000))
    book_now(db, use(1, 600))
    with db.write() as session:
        grants.insert_grant(session, grant("more", 1000))
    book_now(db, use(2, 300))
    assert [(one.percent, one.used_ncr, one.limit_ncr) for one in noted(db)] == [(50, 600, 1000)]
    book_now(db, use(3, 200))
    assert percents(db) == [50]
    book_now(db, use(4, 600))
    assert [(one.percent, one.used_ncr) for one in noted(db)] == [(50, 600), (80, 1700)]


def test_what_a_void_grant_takes_past_a_threshold_is_told_with_the_next_request(db: Database) -> None:
    seed(db, "acme", grant("a", 1000), grant("b", 1000, priority=50))
    book_now(db, use(1, 700))
    assert percents(db) == []
    void_grant(db, "b", START_US)
    book_now(db, use(2, 1))
    assert percents(db) == [50]


def test_a_new_period_begins_anew_and_a_late_event_is_of_its_own(db: Database) -> None:
    old, new = grant("old", 100, effective_us=PERIOD, expires_us=NEXT), grant("new", 100, effective_us=NEXT)
    seed(db, "acme", old, new)
    book_now(db, use(1, 60))
    book_now(db, use(2, 85, period_us=NEXT, started_us=NEXT), now_us=NEXT)
    book_now(db, use(3, 30), now_us=NEXT)
    book_now(db, use(4, 1, period_us=NEXT, started_us=NEXT), now_us=NEXT)
    assert percents(db) == [50, 80]
    assert percents(db, period_us=NEXT) == [50, 80]
    book_now(db, use(5, 14, period_us=NEXT, started_us=NEXT), now_us=NEXT)
    assert percents(db, period_us=NEXT) == [50, 80, 100]


def test_debt_counts_as_use_and_past_the_credits_does_not(db: Database) -> None:
    seed(db, "acme", grant("g", 100))
    book_now(db, use(1, 150))
    assert [(one.percent, one.used_ncr) for one in noted(db)] == [(50, 150), (80, 150), (100, 150)]
    seed(db, "beta", grant("h", 100, tenant_id="beta"))
    book_now(db, use(2, 500, tenant="beta", cover_ncr=10, lane="slow"))
    assert percents(db, "beta") == []


def test_nothing_granted_is_nothing_reached_and_only_the_tenants_own_purse_counts(db: Database) -> None:
    seed(db, "acme", grant("seat", 1000, key_id="key_1"))
    book_now(db, use(1, 900, purses={"key:key_1": 900}))
    assert percents(db) == []
    with db.write() as session:
        grants.insert_grant(session, grant("own", 1000))
    book_now(db, use(2, 499))
    assert percents(db) == []
    book_now(db, use(3, 1))
    assert percents(db) == [50]


def test_a_tenant_without_a_subscription_has_one_period(db: Database) -> None:
    seed(db, "acme", grant("g", 100))
    book_now(db, use(1, 80, period_us=None))
    assert percents(db, period_us=0) == [50, 80]


def test_processes_that_flush_at_once_note_each_threshold_once(db: Database) -> None:
    seed(db, "acme", grant("g", 400))
    hook(db, "all")

    def flush(first: int) -> None:
        other = Database(db.engine.url.render_as_string(hide_password=False))
        try:
            for number in range(first, first + 10):
                other.retrying(partial(book, events=[use(number, 10), use(1, 10)], now_us=START_US))
        finally:
            other.close()

    with ThreadPoolExecutor(4) as processes:
        assert list(processes.map(flush, (100, 200, 300, 400))) == [None] * 4
    assert percents(db) == [50, 80, 100]
    assert messages(db) == [("all", "acme", 50), ("all", "acme", 80), ("all", "acme", 100)]


def test_messages_are_forgotten_after_thirty_days_and_thresholds_stay(db: Database) -> None:
    seed(db, "acme", grant("g", 100))
    hook(db, "all")
    book_now(db, use(1, 60))
    book_now(db, use(2, 30), now_us=START_US + 1)
    with db.write() as session:
        assert run_once(session, START_US + KEPT_US) == 0
        assert run_once(session, START_US + KEPT_US + 1) == 1
        assert run_once(session, START_US + KEPT_US + 1) == 0
    assert messages(db) == [("all", "acme", 80)]
    assert percents(db) == [50, 80]


def test_the_step_goes_down_and_up_with_data_in_it(empty_db: Database) -> None:
    empty_db.migrate("0006")
    with empty_db.write() as session:
        session.execute(text("INSERT INTO tenant (id, name, state, currency, timezone, created_us) VALUES ('acme', 'a', 'active', 'USD', 'UTC', 1)"))
        session.execute(text("INSERT INTO credit_account (tenant_id, debt_ncr, consumed_ncr, excess_ncr, overage_ncr) VALUES ('acme', 1, 2, 3, 4)"))
    empty_db.migrate()
    with empty_db.write() as session:
        grants.insert_grant(session, grant("g", 100))
    book_now(empty_db, use(1, 90))
    assert percents(empty_db) == [50, 80]
    empty_db.unmigrate("0006")
    empty_db.migrate()
    assert percents(empty_db) == []
    book_now(empty_db, use(2, 1))
    assert percents(empty_db) == [50, 80]
    with empty_db.read() as session:
        assert session.execute(text("SELECT excess_ncr, overage_ncr FROM credit_account")).one() == (3, 4)
