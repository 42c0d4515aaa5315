"""Months billed anew on both engines: other plans, other rates, a change of plan in between, months that begin with the first request."""

from typing import Any

import pytest

from billing.db import Database
from billing.errors import BillingError, Invalid, NotFound
from billing.margins.amounts import in_major
from billing.margins.span import month_of
from billing.meter import Meter
from billing.operations import margins, plans, subscriptions, tenants, versions
from billing.operations.whatif import Outcome, what_if
from billing.plans.store import subscriptions_within
from billing.plans.terms import PlanTerms
from billing.rates.version import Change
from tests.unit.billing_rooms.test_exports import CREDIT, DAY, START
from tests.unit.billing_rooms.test_margins import use

NOW = START + 60 * DAY


def plan(db: Database, name: str, credits: int, on_exhausted: str = "overage", price: str | None = "0.5", fee: int = 0) -> None:
    terms = PlanTerms(plan=name, allowance_ncr=credits * CREDIT, on_exhausted=on_exhausted, credit_price=price, monthly_fee_minor=fee, currency="EUR")
    plans.set_plan(db, terms, START)


@pytest.fixture
def acme(db: Database) -> Database:
    """A tenant in Berlin on 10 credits for 10 EUR from 1 November on, which used 10 of them and 5 past them."""
    plan(db, "pro", 10, fee=1000)
    tenants.create_tenant(db, id="acme", name="", plan="pro", currency="EUR", timezone="Europe/Berlin", now_us=START)
    for number in range(10):
        use(db, number, START + number * DAY)
    use(db, 10, START + 11 * DAY, charge_ncr=5 * CREDIT, cover_ncr=0)
    return db


def then(db: Database, name: str | None = None, version_id: int | None = None) -> Outcome:
    (found,) = what_if(db, "2026-11", plan=name, version_id=version_id, now_us=NOW).outcomes
    assert (in_major(found.books.total), found.running) == (in_major(found.books.fee) + in_major(found.books.overage), False)
    return found


@pytest.mark.parametrize(
    ("credits", "on_exhausted", "said"),
    [
        (12, "overage", (12, 3, 0, 0, "1.5")),
        (4, "overage", (4, 11, 0, 0, "5.5")),
        (4, "slow", (4, 0, 11, 0, "0")),
        (4, "block", (4, 0, 0, 11, "0")),
        (100, "block", (15, 0, 0, 0, "0")),
    ],
)
def test_on_another_plan_credits_pay_more_or_less_and_the_rest_is_what_the_plan_says(
    acme: Database, credits: int, on_exhausted: str, said: tuple[int, int, int, int, str]
) -> None:
    plan(acme, "other", credits, on_exhausted, "0.5" if on_exhausted == "overage" else None, fee=300)
    found = then(acme, "other")
    bill = found.other
    assert (found.first_day, found.end_day, in_major(found.books.total)) == ("2026-11-01", "2026-12-01", in_major(found.books.overage) + 10)
    parts = (bill.from_credits_ncr, bill.overage_ncr, bill.excess_ncr, bill.refused_ncr)
    assert tuple(ncr // CREDIT for ncr in parts) == said[:4]
    assert f"{in_major(bill.total) - 3:f}".rstrip("0").rstrip(".") == said[4]


def test_at_other_rates_credits_end_earlier(acme: Database) -> None:
    change = Change(model="m", prices={"input": CREDIT // 1000, "output": CREDIT // 500})  # a request of 1000 and 500 tokens costs 2 instead of 1
    version = versions.propose_version(acme, "rates", [change], now_us=START)
    found = then(acme, version_id=version.id)
    assert (found.books.charge_ncr, found.other.charge_ncr, found.other.from_credits_ncr) == (15 * CREDIT, 22 * CREDIT, 10 * CREDIT)
    assert in_major(found.other.overage) == 6
    ended = versions.propose_version(acme, "rates", [Change(model="m", ended=True)], now_us=START)
    result = what_if(acme, "2026-11", version_id=ended.id, now_us=NOW)
    assert result.outcomes[0].other.charge_ncr == 0
    assert result.unpriced == (("m", "input", 11_000), ("m", "output", 5_500), ("m", "requests", 11))


def test_a_change_of_plan_in_the_course_of_a_period_changes_nothing_by_itself(acme: Database) -> None:
    plan(acme, "max", 40, price="0.1", fee=9000)
    subscriptions.change_plan(acme, "acme", "max", START + 15 * DAY)
    use(acme, 11, START + 16 * DAY)
    use(acme, 12, START + 17 * DAY, charge_ncr=20 * CREDIT, cover_ncr=14 * CREDIT)
    version = versions.propose_version(acme, "rates", [Change(model="unused", prices={"input": 1, "output": 1})], now_us=START)
    found = then(acme, version_id=version.id)
    assert found.books == found.other
    assert in_major(found.books.overage) * 10 == 25 + 6  # 5 at 0.5, 6 at 0.1
    (total,) = margins.margins(acme, month_of("2026-11"), by=("tenant",), now_us=NOW).totals
    assert total.invoiced == total.line.revenue == in_major(found.books.total)
    (december,) = what_if(acme, "2026-12", plan="max", now_us=NOW).outcomes
    assert in_major(december.books.fee) == 90


def test_the_request_that_begins_the_first_month_is_in_it(db: Database) -> None:
    terms = PlanTerms(plan="trial", allowance_ncr=10 * CREDIT, activate_on_first_use=True, currency="EUR", monthly_fee_minor=500)
    plans.set_plan(db, terms, START)
    tenants.create_tenant(db, id="acme", name="", plan="trial", currency="EUR", now_us=START)
    use(db, 1, START + 3 * DAY, meter=Meter(input=1))
    with db.read() as session:
        anchor_us = subscriptions_within(session, "acme", START, NOW)[0].anchor_us
    assert anchor_us == START + 3 * DAY
    use(db, 2, START + 3 * DAY - 1, period_us=anchor_us)  # it came first, and its draw a moment later
    plan(db, "other", 1, "overage")
    found = then(db, "other")
    assert (found.books.requests, found.other.overage_ncr, found.books.from_credits_ncr) == (2, CREDIT, 2 * CREDIT)


def test_tenants_in_another_currency_are_left_out_and_named(acme: Database) -> None:
    plans.set_plan(acme, PlanTerms(plan="yen", currency="JPY"), START)
    assert what_if(acme, "2026-11", plan="yen", now_us=NOW).left_out == ("acme",)
    refused: list[tuple[type[BillingError], dict[str, Any]]] = [
        (Invalid, {"plan": "yen", "tenant_id": "acme"}),
        (Invalid, {}),
        (NotFound, {"plan": "none"}),
        (NotFound, {"version_id": 99}),
        (NotFound, {"plan": "pro", "tenant_id": "nobody"}),
    ]
    for error, asked in refused:
        with pytest.raises(error):
            what_if(acme, "2026-11", now_us=NOW, **asked)
