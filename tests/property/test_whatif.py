"""A month as it would have been: with nothing changed it is what the books say, to the last ncr, and its parts always sum to its charges."""

from decimal import Decimal

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.grants.allowance import current_period, ensure_allowance
from billing.margins.amounts import in_major
from billing.margins.whatif import Bill, Credits, Rerating, replay
from billing.meter import Meter
from billing.operations import grants, plans, tenants, versions, whatif
from billing.operations.usage import usage_rows
from billing.plans.terms import PlanTerms
from billing.rates.version import Change, checked
from billing.rating import Rate, Variant, rate
from billing.usage.event import Lane, UsageEvent
from billing.usage.writer import book
from tests.property.test_margins import CREDIT, HOUR, START, database

POLICIES = ("slow", "overage", "block")
CHANGE = Change(model="m", prices={"input": 30, "output": 70}, variants=(Variant(input_over=100, prices={"input": 50, "output": 90}),))
(PRICED,) = checked("rates", [CHANGE])
CARD = Rate(id=1, model="m", effective_us=0, free=False, prices=PRICED.prices, variants=PRICED.variants)


def terms_of(policy: str, allowance_ncr: int = 0, price: str = "0.01", fee: int = 0) -> PlanTerms:
    return PlanTerms(plan=f"p-{policy}", allowance_ncr=allowance_ncr, on_exhausted=policy, credit_price=price, monthly_fee_minor=fee)


@st.composite
def used(draw: st.DrawFn, number: int) -> UsageEvent:
    meter = Meter(input=draw(st.integers(0, 200)), output=draw(st.integers(0, 200)), requests=1)
    lane: Lane = draw(st.sampled_from(("fast", "slow")))
    charge = rate(meter, CARD, lane=lane)
    return UsageEvent(
        id=f"e{number:03}", tenant_id="acme", key_id="k", model="m", backend="b", upstream_model="u", endpoint="e", started_us=START + number * HOUR,
        ended_us=START + number * HOUR, status=200, outcome="complete", lane=lane, source="reported", meter=meter, charge_ncr=charge,
        cover_ncr=draw(st.sampled_from((0, charge // 2, charge, charge))),
    )  # fmt: skip


def up_to(most: int) -> st.SearchStrategy[tuple[UsageEvent, ...]]:
    return st.integers(0, most).flatmap(lambda count: st.tuples(*(used(number) for number in range(count))))


many = up_to(25)


def whole(bill: Bill) -> bool:
    return bill.charge_ncr == bill.from_credits_ncr + bill.overage_ncr + bill.excess_ncr + bill.refused_ncr


@given(many, st.sampled_from(POLICIES), st.booleans(), st.booleans(), st.integers(0, 10**6))
def test_nothing_changed_is_nothing_different(found: tuple[UsageEvent, ...], policy: str, named: bool, rerated: bool, unused_ncr: int) -> None:
    terms = terms_of(policy)
    credits = Credits(taken_ncr=sum(event.cover_ncr for event in found), unused_ncr=unused_ncr)
    rerate = Rerating({"m": PRICED} if rerated else {})
    books, other = replay([(event, terms) for event in found], credits, plan=terms if named else None, rerate=rerate)
    assert books == other
    assert books.charge_ncr == sum(event.charge_ncr for event in found)
    assert whole(books)


@given(many, st.sampled_from(POLICIES), st.sampled_from(POLICIES), st.integers(-(10**6), 10**6), st.integers(0, 10**6), st.integers(0, 200))
def test_whatever_changes_parts_sum_and_no_credit_is_used_that_is_not_there(
    found: tuple[UsageEvent, ...], policy: str, other_policy: str, more_ncr: int, unused_ncr: int, price: int
) -> None:
    taken = sum(event.cover_ncr for event in found)
    rerate = Rerating({"m": msgspec.structs.replace(PRICED, prices=dict.fromkeys(PRICED.prices, price), variants=())})
    credits = Credits(taken_ncr=taken, unused_ncr=unused_ncr, more_ncr=more_ncr)
    books, other = replay([(event, terms_of(policy)) for event in found], credits, plan=terms_of(other_policy), rerate=rerate)
    assert whole(books)
    assert whole(other)
    assert other.charge_ncr == sum((event.meter.input or 0) + (event.meter.output or 0) + 1 for event in found) * price
    assert other.from_credits_ncr <= max(0, taken + unused_ncr + more_ncr)
    assert other.requests == books.requests == len(found)
    richer = Credits(taken_ncr=taken, unused_ncr=unused_ncr, more_ncr=more_ncr + 10**6)
    assert (
        replay([(event, terms_of(policy)) for event in found], richer, plan=terms_of(other_policy), rerate=rerate)[1].from_credits_ncr >= other.from_credits_ncr
    )


@settings(max_examples=8, deadline=None)
@given(up_to(10), st.sampled_from(("slow", "overage")), st.integers(0, 20_000), st.integers(0, 20_000))
def test_on_the_same_plan_and_rates_a_month_is_what_its_export_says(found: tuple[UsageEvent, ...], policy: str, allowance_ncr: int, given_ncr: int) -> None:
    with database() as db:
        plans.set_plan(db, terms_of(policy, allowance_ncr, fee=4900), START)
        tenants.create_tenant(db, id="acme", name="", plan=f"p-{policy}", now_us=START)
        if given_ncr:
            grants.add_grant(db, tenant_id="acme", amount_ncr=given_ncr, kind="topup", now_us=START)
        version = versions.propose_version(db, "rates", [CHANGE], now_us=START)
        for event in found:
            with db.write() as session:
                ensure_allowance(session, "acme", event.started_us)
                period = current_period(session, "acme", event.started_us)
                assert period is not None
                book(session, [msgspec.structs.replace(event, period_us=period[1].start_us)], event.started_us)
        result = whatif.what_if(db, "2026-10", plan=f"p-{policy}", version_id=version.id, now_us=START + 40 * 24 * HOUR)
        rows = usage_rows(db, "2026-10")
        bigger = terms_of(policy, allowance_ncr + 10 * CREDIT, fee=9900)
        plans.set_plan(db, msgspec.structs.replace(bigger, plan="max"), START)
        more = whatif.what_if(db, "2026-10", plan="max", now_us=START + 40 * 24 * HOUR)
    (outcome,) = result.outcomes
    assert outcome.books == outcome.other
    books = outcome.books
    assert (books.requests, books.charge_ncr) == (len(found), sum(row.charge_ncr for row in rows))
    assert books.from_credits_ncr == sum(row.covered_ncr + row.debt_ncr for row in rows)
    assert (books.overage_ncr, books.excess_ncr) == (sum(row.overage_ncr for row in rows), sum(row.excess_ncr for row in rows))
    assert in_major(books.total) == 49 + sum(row.overage_exact for row in rows)
    (outcome,) = more.outcomes
    assert outcome.books == books
    assert (outcome.other.from_credits_ncr, in_major(outcome.other.total)) == (books.charge_ncr, Decimal(99))  # enough for all of it
