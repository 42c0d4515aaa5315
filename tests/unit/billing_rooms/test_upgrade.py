"""Books that the first release wrote go on exactly where they were: everything is found, agrees, and can be used; and the way back works too."""

import pytest
from sqlalchemy import text

from billing.credits.account import Snapshot
from billing.credits.draw import Member, Want, draw
from billing.db import Database
from billing.grants.periods import period_start
from billing.leases import store as leases
from billing.leases.store import Replica
from billing.operations.usage import balance, usage_rows
from billing.rates.card import RateCard
from billing.rates.store import all_rates
from billing.tenants.store import all_keys
from billing.usage.verify import verify
from gateway.ids import uuid7
from tests.clock import START_US

DAY_US = 86_400_000_000
MONTH_BEFORE_US = START_US - 40 * DAY_US
ANCHOR_US = START_US - 2 * DAY_US
FIRST = uuid7(START_US - DAY_US)

OLD_BOOKS = (
    ("tenant", {"id": "acme", "name": "ACME", "state": "active", "currency": "EUR", "timezone": "Europe/Berlin", "created_us": MONTH_BEFORE_US}),
    ("plan", {"id": "pro", "created_us": MONTH_BEFORE_US}),
    (
        "plan_version",
        {
            "plan_id": "pro",
            "version": 1,
            "name": "Pro",
            "allowance_ncr": 1000,
            "on_exhausted": "slow",
            "weight": 1,
            "slow_concurrency": 2,
            "monthly_fee_minor": 4900,
            "currency": "EUR",
            "created_us": MONTH_BEFORE_US,
        },
    ),
    (
        "subscription",
        {
            "id": "acme.1",
            "tenant_id": "acme",
            "plan_id": "pro",
            "version": 1,
            "anchor_us": MONTH_BEFORE_US,
            "started_us": MONTH_BEFORE_US,
            "ended_us": ANCHOR_US,
        },
    ),
    ("subscription", {"id": "acme.2", "tenant_id": "acme", "plan_id": "pro", "version": 1, "anchor_us": ANCHOR_US, "started_us": ANCHOR_US}),
    ("api_key", {"id": "key_1", "kind": "tenant", "tenant_id": "acme", "name": "k", "digest": b"d", "hint": "x", "project": "lab", "created_us": ANCHOR_US}),
    ("rate", {"id": 1, "model": "m", "effective_us": 0, "free": False, "prices": '{"input": 1, "output": 3, "requests": 0}', "created_us": 0}),
    (
        "credit_grant",
        {
            "id": f"plan:acme.2:{ANCHOR_US}",
            "tenant_id": "acme",
            "kind": "plan",
            "amount_ncr": 1000,
            "priority": 10,
            "effective_us": ANCHOR_US,
            "expires_us": period_start(ANCHOR_US, "Europe/Berlin", 1),
            "created_us": ANCHOR_US,
            "note": "",
        },
    ),
    ("grant_balance", {"grant_id": f"plan:acme.2:{ANCHOR_US}", "remaining_ncr": 960}),
    (
        "credit_grant",
        {
            "id": "promo",
            "tenant_id": "acme",
            "kind": "promotion",
            "amount_ncr": 50,
            "priority": 20,
            "effective_us": ANCHOR_US,
            "voided_us": START_US,
            "created_us": ANCHOR_US,
            "note": "taken back",
        },
    ),
    ("grant_balance", {"grant_id": "promo", "remaining_ncr": 50}),
    ("credit_account", {"tenant_id": "acme", "debt_ncr": 0, "consumed_ncr": 40, "excess_ncr": 5, "overage_ncr": 0}),
    ("ledger_tx", {"id": 1, "idem_key": f"issue:plan:acme.2:{ANCHOR_US}", "kind": "issue", "tenant_id": "acme", "at_us": ANCHOR_US}),
    ("ledger_entry", {"tx_id": 1, "seq": 0, "account": "issued", "amount_ncr": -1000}),
    ("ledger_entry", {"tx_id": 1, "seq": 1, "account": f"grant:plan:acme.2:{ANCHOR_US}", "amount_ncr": 1000}),
    ("ledger_tx", {"id": 2, "idem_key": "issue:promo", "kind": "issue", "tenant_id": "acme", "at_us": ANCHOR_US}),
    ("ledger_entry", {"tx_id": 2, "seq": 0, "account": "issued", "amount_ncr": -50}),
    ("ledger_entry", {"tx_id": 2, "seq": 1, "account": "grant:promo", "amount_ncr": 50}),
    ("ledger_tx", {"id": 3, "idem_key": "void:promo", "kind": "void", "tenant_id": "acme", "at_us": START_US}),
    ("ledger_entry", {"tx_id": 3, "seq": 0, "account": "grant:promo", "amount_ncr": -50}),
    ("ledger_entry", {"tx_id": 3, "seq": 1, "account": "issued", "amount_ncr": 50}),
    ("ledger_tx", {"id": 4, "idem_key": f"usage:acme:{FIRST}", "kind": "usage", "tenant_id": "acme", "at_us": START_US}),
    ("ledger_entry", {"tx_id": 4, "seq": 0, "account": f"grant:plan:acme.2:{ANCHOR_US}", "amount_ncr": -40}),
    ("ledger_entry", {"tx_id": 4, "seq": 1, "account": "excess", "amount_ncr": -5}),
    ("ledger_entry", {"tx_id": 4, "seq": 2, "account": "consumed", "amount_ncr": 45}),
)


def old_event(at_us: int, charge: int, cover: int, lane: str) -> dict[str, object]:
    return {
        "id": uuid7(at_us), "tenant_id": "acme", "key_id": "key_1", "project": "lab", "model": "m", "backend": "b", "upstream_model": "u",
        "endpoint": "chat/completions", "started_us": at_us, "ended_us": at_us + 1, "status": 200, "outcome": "complete", "lane": lane, "stream": False,
        "source": "reported", "input": charge, "output": 0, "rate_id": 1, "charge_ncr": charge, "cover_ncr": cover, "covered_ncr": cover, "attempts": 1,
        "queue_ms": 0,
    }  # fmt: skip


@pytest.fixture
def old(empty_db: Database) -> Database:
    empty_db.migrate("0001")
    events = [old_event(START_US - DAY_US, 10, 10, "fast") | {"id": FIRST}, old_event(START_US, 30, 30, "fast"), old_event(START_US + 5, 5, 0, "slow")]
    with empty_db.write() as session:
        for table, row in (*OLD_BOOKS, *(("usage_event", event) for event in events)):
            names = ", ".join(row)
            session.connection().execute(text(f"INSERT INTO {table} ({names}) VALUES ({', '.join(':' + name for name in row)})"), row)
    return empty_db


def drawn(db: Database) -> Snapshot:
    with db.write() as session:
        leases.register(session, Replica(id="a", beat=1, host="here", pid=1, started_us=START_US))
        return draw(session, Member(replica_id="a", beats=(1,)), "acme", [Want(key_id="key_1", project="lab", model="m", need_ncr=10)], START_US + 10)


def test_old_books_agree_and_go_on_where_they_were(old: Database) -> None:
    old.migrate()
    with old.read() as session:
        assert verify(session) == []
        assert [key.project for key in all_keys(session, "acme")] == ["lab"]
        priced = RateCard(all_rates(session)).at("m", START_US)
    assert priced is not None and priced.bound(10, 0) == 10
    found = balance(old, "acme", START_US + 10)
    assert (found.limit_ncr, found.remaining_ncr, found.debt_ncr, found.excess_ncr) == (1000, 960, 0, 5)
    snapshot = drawn(old)
    assert [(state.name, state.left_ncr, state.lease_ncr) for state in snapshot.purses] == [("", 960, 480)]
    assert snapshot.past_today_ncr == 5
    assert sum(row.charge_ncr for row in usage_rows(old, "2026-11")) == 45


def test_the_way_back_keeps_what_the_first_release_knew(old: Database) -> None:
    old.migrate()
    drawn(old)
    old.unmigrate("0001")
    with old.read() as session:
        kept = ("usage_event", "credit_grant", "ledger_tx")
        counts = {table: session.connection().execute(text(f"SELECT count(*) FROM {table}")).scalar_one() for table in kept}
    assert counts == {"usage_event": 3, "credit_grant": 2, "ledger_tx": 4}
    old.migrate()
    with old.read() as session:
        assert verify(session) == []
