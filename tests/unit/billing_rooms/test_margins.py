"""Margins on both engines: revenue that sums to the invoices, costs that are never silently nothing, GPUs with their idle time, stated exchange."""

import csv
import io
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from billing.db import Database
from billing.errors import Invalid, NotFound
from billing.grants.allowance import current_period, ensure_allowance
from billing.grants.periods import day_of
from billing.invoices.company import Company
from billing.invoices.store import set_company
from billing.margins.span import Span, month_of, span_of
from billing.meter import Meter
from billing.operations import costs, exchange, gpus, grants, invoices, margins, plans, tenants
from billing.operations import periods as closing
from billing.plans.terms import PlanTerms
from billing.rates.store import insert_costs
from billing.rates.version import Change, checked
from billing.rating import Variant
from billing.tenants.profile import Party
from billing.usage.event import UsageEvent
from billing.usage.writer import book
from tests.taken import usage_bytes
from tests.unit.billing_rooms.test_exports import CREDIT, DAY, END, HOUR, START

NOVEMBER, DECEMBER = month_of("2026-11"), month_of("2026-12")
LATER = START + 100 * DAY
PICO = 10**12


@pytest.fixture
def acme(db: Database) -> Database:
    """A tenant in Berlin on an overage plan since 10 October, 49 EUR for 10 credits a month anchored there."""
    terms = PlanTerms(plan="pro", allowance_ncr=10 * CREDIT, on_exhausted="overage", credit_price="0.0123", monthly_fee_minor=4900, currency="EUR")
    plans.set_plan(db, terms, START - 50 * DAY)
    tenants.create_tenant(db, id="acme", name="Acme", plan="pro", currency="EUR", timezone="Europe/Berlin", now_us=START - 22 * DAY)
    return db


def use(db: Database, number: int, at_us: int, tenant: str = "acme", **more: Any) -> None:
    with db.write() as session:
        ensure_allowance(session, tenant, at_us)
        found = current_period(session, tenant, at_us)
        assert found is not None
        fields: dict[str, Any] = {
            "id": f"event-{number:03}", "tenant_id": tenant, "key_id": "k", "model": "m", "backend": "b", "upstream_model": "u", "endpoint": "e",
            "started_us": at_us, "ended_us": at_us + HOUR, "status": 200, "outcome": "complete", "lane": "fast", "source": "reported",
            "meter": Meter(input=1000, output=500, requests=1), "charge_ncr": CREDIT, "cover_ncr": CREDIT, "period_us": found[1].start_us,
        }  # fmt: skip
        book(session, [UsageEvent(**(fields | more))], at_us)


def set_cost(db: Database, effective_us: int, input_pico: int = PICO // 1000, **more: Any) -> None:
    change = Change(**({"model": "u", "backend": "b", "currency": "EUR", "prices": {"input": input_pico, "output": 0}} | more))
    with db.write() as session:
        insert_costs(session, checked("costs", [change]), effective_us=effective_us, version_id=1, now_us=effective_us)


def test_a_fee_is_earned_by_what_it_pays_for_and_the_rest_when_its_period_ends(acme: Database) -> None:
    use(acme, 1, START - 2 * DAY, charge_ncr=CREDIT, cover_ncr=CREDIT)  # October
    use(acme, 2, START + DAY, charge_ncr=2 * CREDIT, cover_ncr=2 * CREDIT)
    use(acme, 3, START + 12 * DAY, charge_ncr=15 * CREDIT, cover_ncr=10 * CREDIT, model="n")
    found = margins.margins(acme, NOVEMBER, by=("model", "day"), now_us=LATER)
    said = [(line.line, line.keys["model"], line.keys["day"], line.fees, line.overage) for line in found.lines]
    assert said == [
        ("unused", "", "2026-11-10", Decimal("34.3"), 0),  # 7 of the 10 credits from 10 October, 1 o'clock, on
        ("use", "m", "2026-11-02", Decimal("9.8"), 0),
        ("use", "n", "2026-11-13", 49, Decimal("0.0615")),
    ]
    (total,) = found.totals
    assert (total.invoiced, total.line.revenue, total.deferred) == (Decimal("49.0615"), Decimal("93.1615"), Decimal("-44.1"))
    assert [line.fees for line in margins.margins(acme, month_of("2026-10"), by=(), now_us=LATER).lines] == [Decimal("4.9")]


def test_what_months_earn_is_what_their_invoices_say(acme: Database) -> None:
    grants.add_grant(acme, tenant_id="acme", amount_ncr=3 * CREDIT, kind="promotion", now_us=START - 20 * DAY)
    for number in range(40):
        use(acme, number, START - 20 * DAY + number * 31 * HOUR, charge_ncr=CREDIT // 3 + number, cover_ncr=CREDIT // 3 if number % 4 else 0, project="p")
    invoiced, earned = Decimal(0), Decimal(0)
    for month in ("2026-10", "2026-11", "2026-12", "2027-01"):
        found = margins.margins(acme, month_of(month), by=("tenant", "day"), now_us=LATER)
        (total,) = found.totals
        exact = list(csv.DictReader(io.StringIO(usage_bytes(acme, month).decode(), newline="")))
        begun = [one for one in closing.list_periods(acme, "acme", LATER) if day_of(one.start_us, one.timezone).isoformat()[:7] == month]
        fees = Decimal(49 * len(begun))
        assert total.invoiced == fees + sum((Decimal(line["overage_amount"]) for line in exact), Decimal(0))
        invoiced, earned = invoiced + total.invoiced, earned + total.line.revenue
    assert invoiced - earned == 49  # January's, which nobody used yet


def test_top_ups_and_credit_notes_are_revenue_on_their_day_and_all_lines_sum_to_what_was_invoiced(acme: Database) -> None:
    use(acme, 1, START + DAY, charge_ncr=CREDIT, cover_ncr=CREDIT)
    grants.add_grant(acme, tenant_id="acme", amount_ncr=100 * CREDIT, price_minor=2500, now_us=START + 2 * DAY)
    mistake = grants.add_grant(acme, tenant_id="acme", amount_ncr=CREDIT, price_minor=99, now_us=START + 2 * DAY)
    grants.void_grant(acme, mistake.id, START + 2 * DAY)
    with acme.write() as session:
        set_company(session, Company(party=Party(name="Weir")))
    closing.close_tenant(acme, "acme", LATER)
    bill = next(one for one in invoices.list_invoices(acme) if one.net_minor > 4900)
    invoices.issue_invoice(acme, bill.id, LATER)
    invoices.credit_invoice(acme, bill.id, START + 4 * DAY, reason="half", parts={1: 900})
    found = margins.margins(acme, NOVEMBER, by=("tenant", "day"), now_us=LATER)
    told = {line.line: (line.keys["day"], line.fees) for line in found.lines if line.line in ("sold", "credited")}
    assert told == {"sold": ("2026-11-03", Decimal(25)), "credited": ("2026-11-05", Decimal(-9))}
    (total,) = found.totals
    assert total.line.revenue == sum((line.revenue for line in found.lines), Decimal(0)) == total.invoiced - total.deferred
    assert total.invoiced == 49 + 25 - 9


def test_a_running_period_has_earned_only_what_was_used(acme: Database) -> None:
    use(acme, 1, START + DAY, charge_ncr=CREDIT, cover_ncr=CREDIT)
    (total,) = margins.margins(acme, NOVEMBER, by=("tenant",), now_us=START + 2 * DAY).totals
    assert (total.invoiced, total.line.revenue, total.deferred) == (Decimal(49), Decimal("4.9"), Decimal("44.1"))


def test_excess_and_debt_earn_nothing(acme: Database) -> None:
    use(acme, 1, START + DAY, charge_ncr=10 * CREDIT, cover_ncr=10 * CREDIT)
    use(acme, 2, START + 2 * DAY, charge_ncr=5 * CREDIT, cover_ncr=5 * CREDIT, model="debt")
    use(acme, 3, START + 3 * DAY, charge_ncr=5 * CREDIT, cover_ncr=0, lane="slow", model="excess")
    found = margins.margins(acme, NOVEMBER, by=("model",), now_us=START + 4 * DAY)
    assert {line.keys["model"]: (line.revenue, line.charge_ncr) for line in found.lines} == {
        "m": (Decimal(49), 10 * CREDIT),
        "debt": (Decimal(0), 5 * CREDIT),
        "excess": (Decimal(0), 5 * CREDIT),
    }


def test_the_cost_that_applied_when_a_request_began_is_taken_with_its_cliff(acme: Database) -> None:
    over = Variant(input_over=1500, prices={"input": 5 * PICO // 1000, "output": 0})
    set_cost(acme, START - DAY, variants=(over,))
    set_cost(acme, START + 2 * DAY, 2 * PICO // 1000)
    use(acme, 1, START + DAY)
    use(acme, 2, START + DAY, meter=Meter(input=1501, output=1))
    use(acme, 3, START + 2 * DAY - 1)
    use(acme, 4, START + 2 * DAY)
    (total,) = margins.margins(acme, NOVEMBER, by=(), tenant_id="acme", now_us=START + 3 * DAY).totals
    assert total.line.calls == Decimal("1") + Decimal("7.505") + Decimal("1") + Decimal("2")
    assert total.line.margin == total.line.revenue - total.line.calls


def test_use_without_a_cost_is_told_and_not_nothing(acme: Database) -> None:
    use(acme, 1, START + DAY)
    set_cost(acme, START + 2 * DAY)
    use(acme, 2, START + 2 * DAY, meter=Meter(input=1000, output=0, images=3, requests=1))
    found = margins.margins(acme, NOVEMBER, by=("day",), now_us=START + 3 * DAY)
    assert [(gap.backend, gap.model, gap.bucket, gap.requests, gap.units, gap.since) for gap in found.gaps] == [
        ("b", "u", "images", 1, 3, ""), ("b", "u", "input", 1, 1000, "2026-11-01"), ("b", "u", "output", 1, 500, "2026-11-01"),
        ("b", "u", "requests", 1, 1, "2026-11-01"),
    ]  # fmt: skip
    assert [(line.calls, line.uncosted_requests, line.uncosted_units) for line in found.lines if line.line == "use"] == [
        (Decimal(0), 1, 1501),
        (Decimal(1), 1, 3),
    ]
    set_cost(acme, START + 3 * DAY, free=True, prices={})
    use(acme, 3, START + 4 * DAY)
    assert len(margins.margins(acme, Span(date(2026, 11, 5), date(2026, 11, 6)), by=(), now_us=LATER).gaps) == 0


def test_a_cost_that_nobody_had_said_is_said_for_the_past_and_changes_none_that_was(acme: Database) -> None:
    use(acme, 1, START + DAY)
    use(acme, 2, START + 3 * DAY)
    costs.set_cost(acme, backend="b", model="u", currency="EUR", prices={"input": PICO // 1000, "output": 0}, now_us=START + 2 * DAY)
    (before,) = margins.margins(acme, NOVEMBER, by=(), now_us=LATER).totals
    costs.set_cost(acme, backend="b", model="u", currency="EUR", prices={"input": 5 * PICO // 1000, "output": 0}, effective_us=START, now_us=LATER)
    (after,) = margins.margins(acme, NOVEMBER, by=(), now_us=LATER).totals
    assert (before.line.calls, before.line.uncosted_requests) == (Decimal(1), 1)
    assert (after.line.calls, after.line.uncosted_requests) == (Decimal(6), 0)
    for effective_us in (START, START + DAY, START + 4 * DAY):
        with pytest.raises(Invalid, match="only what nobody had said"):
            costs.set_cost(acme, backend="b", model="u", currency="EUR", free=True, effective_us=effective_us, now_us=LATER)


def test_gpus_are_paid_by_those_who_used_them_and_idle_time_is_a_line(acme: Database) -> None:
    tenants.create_tenant(acme, id="other", name="", plan="pro", currency="EUR", timezone="UTC", now_us=START - 22 * DAY)
    noon = START + 61 * HOUR  # 3 November, noon in UTC
    gpus.add_gpu(acme, backend="b", gpus=2, hour_pico=3 * PICO, currency="EUR", start_us=noon - 12 * HOUR, end_us=noon + 12 * HOUR, now_us=LATER)
    use(acme, 1, noon, meter=Meter(input=100, output=50))  # works 3000
    use(acme, 2, noon + HOUR // 2, "other", meter=Meter(cache_read=1000))  # works 1000; half of its hour runs beside the other's
    found = margins.margins(acme, NOVEMBER, by=("tenant", "backend"), now_us=LATER)
    spent = {(line.line, line.keys["tenant"]): line.gpus for line in found.lines if line.gpus}
    assert spent == {("idle", ""): Decimal("135"), ("use", "acme"): Decimal("6.75"), ("use", "other"): Decimal("2.25")}
    assert found.gaps == ()
    assert found.totals[0].idle == 135
    only = margins.margins(acme, NOVEMBER, by=("tenant",), tenant_id="other", now_us=LATER)
    assert [line.gpus for line in only.lines if line.gpus] == [Decimal("2.25")]
    (so_far,) = margins.margins(acme, NOVEMBER, by=(), now_us=noon - 11 * HOUR).totals  # time that has not come costs nothing yet
    assert so_far.line.gpus == 6


def test_an_entry_without_an_end_ends_the_one_before_and_a_mistake_is_taken_away(db: Database) -> None:
    one = gpus.add_gpu(db, backend="b", gpus=2, hour_pico=PICO, currency="USD", start_us=START, now_us=START)
    two = gpus.add_gpu(db, backend="b", gpus=4, hour_pico=PICO, currency="USD", now_us=START + DAY)
    assert [(gpu.id, gpu.start_us, gpu.end_us) for gpu in gpus.list_gpus(db)] == [(one.id, START, START + DAY), (two.id, START + DAY, None)]
    assert gpus.remove_gpu(db, two.id, END) == two
    with pytest.raises(NotFound):
        gpus.remove_gpu(db, two.id, END)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("gpus", {"gpus": 0}), ("price", {"hour_pico": -1}), ("until", {"end_us": START}), ("weights", {"weights": (0, 0, 0)}), ("currency", {"currency": "XXX"})],
)
def test_gpus_that_cannot_be_billed_are_refused(db: Database, field: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as refused:
        fields: dict[str, Any] = {"backend": "b", "gpus": 1, "hour_pico": 1, "currency": "USD", "start_us": START, "now_us": START}
        gpus.add_gpu(db, **(fields | wrong))
    assert refused.value.field == field


def test_currencies_are_added_only_at_a_stated_rate(acme: Database) -> None:
    set_cost(acme, START - DAY, currency="USD")
    use(acme, 1, START + DAY)
    apart = margins.margins(acme, NOVEMBER, by=("tenant",), now_us=START + 2 * DAY)
    assert [(line.currency, line.revenue, line.cost) for line in apart.lines] == [("EUR", Decimal("4.9"), Decimal(0)), ("USD", Decimal(0), Decimal(1))]
    for refused in (
        lambda: margins.losers(acme, NOVEMBER, now_us=START + 2 * DAY),
        lambda: margins.margins(acme, NOVEMBER, by=(), currency="EUR", now_us=START + 2 * DAY),
    ):
        with pytest.raises(Invalid, match="weir fx set USD EUR"):
            refused()
    exchange.state_rate(acme, base="USD", quote="EUR", day=date(2026, 10, 31), rate="2", now_us=START)
    exchange.state_rate(acme, base="USD", quote="EUR", day=date(2026, 11, 30), rate="7", now_us=START)
    exchange.state_rate(acme, base="USD", quote="EUR", day=date(2026, 11, 30), rate="0.925", now_us=START)
    exchange.state_rate(acme, base="USD", quote="EUR", day=date(2026, 12, 1), rate="9", now_us=START)
    found = margins.margins(acme, NOVEMBER, by=("tenant",), currency="EUR", now_us=START + 2 * DAY)
    assert [(line.currency, line.revenue, line.cost, line.margin) for line in found.lines] == [("EUR", Decimal("4.9"), Decimal("0.925"), Decimal("3.975"))]
    assert found.rates is not None
    assert found.rates.rates == {"USD": (925 * PICO // 1000, "2026-11-30")}


def test_tenants_that_lose_money_come_with_the_greatest_loss_first(acme: Database) -> None:
    set_cost(acme, START - DAY, 10 * PICO // 1000)
    for number, (tenant, tokens) in enumerate((("a", 1000), ("b", 5000), ("c", 10)), 1):
        tenants.create_tenant(acme, id=tenant, name="", plan="pro", currency="EUR", now_us=START)
        use(acme, number, START + DAY, tenant, meter=Meter(input=tokens))
    lost = margins.losers(acme, NOVEMBER, now_us=START + 2 * DAY)
    assert [(line.keys["tenant"], line.margin) for line in lost] == [("b", Decimal("-45.1")), ("a", Decimal("-5.1"))]


FIRST = date(2026, 11, 2)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"month": "2026-13"},
        {"month": "2026-11", "end_day": FIRST},
        {"first_day": FIRST},
        {"first_day": FIRST, "end_day": FIRST},
        {"first_day": FIRST, "end_day": date(2030, 1, 1)},
    ],
)
def test_a_span_that_is_none_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        span_of(**asked)


def test_a_wrong_dimension_or_tenant_is_refused(acme: Database) -> None:
    with pytest.raises(Invalid, match="tenant, project, model, backend, day"):
        margins.margins(acme, DECEMBER, by=("colour",), now_us=LATER)
    with pytest.raises(NotFound):
        margins.margins(acme, DECEMBER, by=(), tenant_id="nobody", now_us=LATER)
