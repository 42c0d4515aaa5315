"""Bills against the books: both sides are partitioned exactly, the residue is booked once, names are never guessed; on both engines."""

from collections import Counter
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.db import Database
from billing.errors import Conflict, Invalid, NotFound
from billing.meter import Meter
from billing.operations import costs, reconciliation
from billing.rating import Variant
from billing.reconcile import store
from billing.reconcile.bill import Bill, Line
from billing.reconcile.books import Ours
from billing.reconcile.matching import PERIOD_US, Tolerance, match, residue
from billing.usage.writer import book
from tests.books import event, grant, seed
from tests.clock import START_US

DAY_US = 86_400_000_000
DAY = START_US - START_US % DAY_US
HEADER = "day,model,bucket,quantity,cost,currency\n"
MODELS, BUCKETS = st.sampled_from(["", "a", "b"]), st.sampled_from(["input", "output"])
AMOUNTS = st.integers(-(10**20), 10**20)
MEASURES = st.sampled_from(["quantity", "cost"])
LINES = st.lists(st.builds(Line, st.sampled_from([DAY, DAY + DAY_US]), MODELS, BUCKETS | st.just("total"), MEASURES, AMOUNTS), min_size=1)
OURS = st.lists(st.builds(Ours, day_us=st.sampled_from([DAY, DAY + DAY_US]), model=st.sampled_from("abc"), bucket=BUCKETS, measure=MEASURES, amount=AMOUNTS))
USUAL = Tolerance(Decimal("0.5"), Decimal(1))


def bill_csv(*rows: str) -> bytes:
    return (HEADER + "".join(f"{row}\n" for row in rows)).encode()


@pytest.fixture
def used(db: Database) -> Database:
    """Two requests on the day and one on the next, of 7 in and 3 out; a price that changes between the first two."""
    costs.set_cost(db, backend="b", model="u", currency="USD", prices={"input": 100, "output": 1000}, effective_us=START_US - 10, now_us=START_US - 10)
    costs.set_cost(
        db, backend="b", model="u", currency="USD", prices={"input": 200, "output": 1000}, effective_us=START_US + 5, now_us=START_US,
        variants=[Variant(input_over=7, prices={"input": 400, "output": 2000})],
    )  # fmt: skip
    seed(db, "acme", grant("g", 10**9))
    with db.write() as session:
        book(session, [event(1), event(2, started_us=START_US + 10), event(3, started_us=START_US + DAY_US)], START_US + DAY_US + 10)
    return db


@given(LINES, OURS)
def test_every_unit_of_both_sides_is_in_one_item_by_day_and_in_one_of_the_period(lines: list[Line], ours: list[Ours]) -> None:
    bill = Bill(start_us=DAY, end_us=DAY + 2 * DAY_US, currency="USD", lines=tuple(lines))
    items = match(bill, {"b": "c"}, ours, USUAL, unreported={})
    for by_day in (True, False):
        mine = [item for item in items if (item.day_us != PERIOD_US) == by_day]
        for measure in bill.measures:
            assert sum(item.provider for item in mine if item.measure == measure) == sum(line.amount for line in lines if line.measure == measure)
            assert sum(item.gateway for item in mine if item.measure == measure) == sum(own.amount for own in ours if own.measure == measure)
    assert {item.measure for item in items} <= set(bill.measures)
    assert max(Counter((item.day_us, item.model, item.bucket, item.measure) for item in items).values(), default=0) <= 1
    assert sum(residue(items).values()) == sum(item.difference for item in items if item.measure == "cost" and item.day_us == PERIOD_US)
    assert match(bill, {"b": "c"}, list(reversed(ours)), USUAL, unreported={}) == items


@given(st.integers(1, 10**12), st.integers(0, 2 * 10**12))
def test_a_match_is_within_the_tolerance_exactly(provider: int, gateway: int) -> None:
    bill = Bill(start_us=DAY, end_us=DAY + DAY_US, currency=None, lines=(Line(DAY, "a", "input", "quantity", provider),))
    ours = [Ours(day_us=DAY, model="a", bucket="input", measure="quantity", amount=gateway)]
    wanted = "provider_only" if not gateway else "matched" if 200 * abs(provider - gateway) <= provider else "mismatch"
    assert {item.state for item in match(bill, {}, ours, USUAL, unreported={})} == {wanted}


def test_our_costs_are_those_of_the_version_that_applied(used: Database) -> None:
    made = reconciliation.import_bill(used, bill_csv("2026-11-03,u,input,14,0,USD", "2026-11-03,u,output,6,0,USD"), backend="b", vendor="csv", now_us=1)
    found = {(item.bucket, item.measure): item.gateway for item in reconciliation.run(used, made.id, now_us=2).items if item.day_us == DAY}
    assert (found[("input", "quantity")], found[("output", "quantity")]) == (14, 6)
    assert (found[("input", "cost")], found[("output", "cost")]) == (7 * 100 + 7 * 200, 6 * 1000)


def test_a_shift_over_midnight_is_seen_by_day_and_cancels_over_the_period(used: Database) -> None:
    data = bill_csv("2026-11-03,billed,input,7,,", "2026-11-04,billed,input,14,,")
    made = reconciliation.import_bill(used, data, backend="b", vendor="csv", aliases={"billed": "u"}, now_us=1)
    states = [(item.day_us, item.state) for item in reconciliation.run(used, made.id, now_us=2).items if item.bucket == "input"]
    assert states == [(DAY, "mismatch"), (DAY + DAY_US, "mismatch"), (PERIOD_US, "matched")]


def test_names_are_not_guessed(used: Database) -> None:
    made = reconciliation.import_bill(used, bill_csv("2026-11-03,u-2024-07-18,input,14,,"), backend="b", vendor="csv", now_us=1)
    items = reconciliation.run(used, made.id, now_us=2).items
    assert {(item.model, item.bucket): item.state for item in items if item.bucket == "input"} == {
        ("u-2024-07-18", "input"): "provider_only", ("u", "input"): "gateway_only",
    }  # fmt: skip


def test_a_missing_cost_is_told_and_never_matches(used: Database) -> None:
    with used.write() as session:
        book(session, [msgspec.structs.replace(event(4), upstream_model="unpriced")], START_US + DAY_US + 20)
    made = reconciliation.import_bill(used, bill_csv("2026-11-03,unpriced,input,,1,USD"), backend="b", vendor="csv", now_us=1)
    (found,) = [item for item in reconciliation.run(used, made.id, now_us=2).items if (item.day_us, item.model, item.bucket) == (DAY, "unpriced", "input")]
    assert (found.state, found.gateway, found.without_cost) == ("mismatch", 0, 7)


def test_the_residue_is_booked_once_however_often_it_is_run(used: Database) -> None:
    made = reconciliation.import_bill(used, bill_csv("2026-11-03,,total,,0.00000001,USD"), backend="b", vendor="csv", now_us=1)
    first, second = (reconciliation.run(used, made.id, now_us=at_us) for at_us in (2, 3))
    assert first.items == second.items == reconciliation.show_run(used, second.run.id).items
    with used.read() as session:
        assert store.residue(session, DAY, DAY + DAY_US) == [("b", DAY, "USD", 10_000 - 7 * 100 - 7 * 200 - 6 * 1000)]
        assert store.residue(session, DAY + DAY_US, DAY + 2 * DAY_US) == []


def test_a_bill_is_imported_once_and_a_corrected_one_supersedes_it(used: Database) -> None:
    data, wider = bill_csv("2026-11-03,u,input,14,,"), bill_csv("2026-11-03,u,input,15,,", "2026-11-04,u,input,7,,")
    first = reconciliation.import_bill(used, data, backend="b", vendor="csv", now_us=1)
    assert reconciliation.import_bill(used, data, backend="b", vendor="csv", now_us=2) == first
    second = reconciliation.import_bill(used, wider, backend="b", vendor="csv", now_us=3)
    assert [(bill.id, bill.superseded_by) for bill in reconciliation.list_bills(used)[0]] == [(first.id, second.id), (second.id, None)]
    with pytest.raises(Conflict, match="superseded by bill 2"):
        reconciliation.run(used, first.id, now_us=4)
    with pytest.raises(Conflict, match="import one that covers it"):
        reconciliation.import_bill(used, bill_csv("2026-11-04,u,input,7,,"), backend="b", vendor="csv", now_us=5)
    money = reconciliation.import_bill(used, bill_csv("2026-11-04,u,input,,7,USD"), backend="b", vendor="csv", now_us=6)
    assert money.superseded_by is None


def test_what_is_wrong_is_refused(used: Database) -> None:
    made = reconciliation.import_bill(used, bill_csv("2026-11-03,u,input,,7,EUR"), backend="b", vendor="csv", now_us=1)
    with pytest.raises(Invalid, match="the bill is in EUR"):
        reconciliation.run(used, made.id, now_us=2)
    with pytest.raises(NotFound):
        reconciliation.run(used, 99, now_us=2)
    with pytest.raises(NotFound):
        reconciliation.show_run(used, 99)


def test_requests_without_reported_usage_are_counted_beside_the_difference(used: Database) -> None:
    with used.write() as session:
        book(session, [msgspec.structs.replace(event(5), source="estimated", meter=Meter(input=100, output=3))], START_US + DAY_US + 20)
    made = reconciliation.import_bill(used, bill_csv("2026-11-03,u,input,14,,"), backend="b", vendor="csv", now_us=1)
    (found,) = [item for item in reconciliation.run(used, made.id, now_us=2).items if (item.day_us, item.bucket) == (DAY, "input")]
    assert (found.state, found.gateway, found.unreported) == ("mismatch", 14 + 100, 1)
