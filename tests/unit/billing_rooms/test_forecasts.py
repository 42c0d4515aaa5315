"""Forecasts of periods that run, on both engines."""

from typing import Any

import pytest

from billing.db import Database
from billing.errors import NotFound
from billing.grants.periods import day_span
from billing.operations import forecasts, plans, tenants
from billing.plans.terms import PlanTerms
from tests.unit.billing_rooms.test_exports import CREDIT, DAY, START
from tests.unit.billing_rooms.test_margins import use


@pytest.fixture
def acme(db: Database) -> Database:
    """A tenant in Berlin since 20 October, on 100 credits a month for 49 EUR; past them 0.50 EUR a credit."""
    terms = PlanTerms(plan="pro", allowance_ncr=100 * CREDIT, on_exhausted="overage", credit_price="0.5", monthly_fee_minor=4900, currency="EUR")
    plans.set_plan(db, terms, START - 20 * DAY)
    tenants.create_tenant(db, id="acme", name="", plan="pro", currency="EUR", timezone="Europe/Berlin", now_us=START - 12 * DAY)
    return db


def used(db: Database, number: int, at_us: int, credits: int, **more: Any) -> None:
    use(db, number, at_us, charge_ncr=credits * CREDIT, **({"cover_ncr": credits * CREDIT, "day_us": day_span(at_us, "Europe/Berlin")[0]} | more))


def test_a_period_is_forecast_from_the_days_that_are_over(acme: Database) -> None:
    for number in range(1, 13):  # 20 days, of which 12 used 5 credits: 3 a day
        used(acme, number, START - 11 * DAY + number * DAY, 5)
    now_us = START + 9 * DAY
    (found,) = forecasts.forecasts(acme, now_us=now_us)
    assert (found.used_ncr, found.left_ncr, found.past_ncr, found.fee_minor) == (60 * CREDIT, 40 * CREDIT, 0, 4900)
    assert found.expected is not None
    assert found.low is not None
    assert found.high is not None
    assert (found.first_day, found.end_day) == ("2026-10-20", "2026-11-20")
    assert found.low.used_ncr <= found.expected.used_ncr <= found.high.used_ncr
    assert "weekday over 20 days" in found.method
    weekly = found.expected.used_ncr - found.used_ncr
    assert found.expected.past_ncr == max(0, weekly - 40 * CREDIT)
    assert forecasts.forecasts(acme, tenant_id="acme", now_us=now_us) == [found]


def test_what_is_past_the_credits_is_expected_on_the_invoice(acme: Database) -> None:
    for number in range(1, 6):
        used(acme, number, START - 10 * DAY + number * DAY, 20)
    used(acme, 6, START - 3 * DAY, 10, cover_ncr=0)
    now_us = day_span(START - 2 * DAY, "Europe/Berlin")[0]
    (found,) = forecasts.forecasts(acme, now_us=now_us)
    assert found.expected is not None
    assert (found.left_ncr, found.exhausted_day, found.method.split(",")[0]) == (0, "2026-10-30", "mean of 9 days")
    more = found.expected.used_ncr - found.used_ncr
    assert found.expected.past_ncr == 10 * CREDIT + more
    assert found.expected.total_minor == 4900 + ((10 * CREDIT + more) * 50 + CREDIT // 2) // CREDIT  # rounded once


def test_nobody_knows_before_a_day_is_over(acme: Database) -> None:
    (found,) = forecasts.forecasts(acme, now_us=START - 12 * DAY + 1)
    assert (found.expected, found.low, found.high, found.exhausted_day, found.method) == (None, None, None, None, "no day is over yet")
    with pytest.raises(NotFound):
        forecasts.forecasts(acme, tenant_id="nobody", now_us=START)


def test_who_is_in_no_period_has_no_forecast(db: Database) -> None:
    plans.set_plan(db, PlanTerms(plan="trial", allowance_ncr=CREDIT, activate_on_first_use=True), START)
    tenants.create_tenant(db, id="new", name="", plan="trial", now_us=START)
    assert forecasts.forecasts(db, now_us=START + DAY) == []
