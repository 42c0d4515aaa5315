"""`weir simulate`'s parts: every request ends once, the rules are the gateway's, and money is counted as on an invoice."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from billing.money import NCR_PER_CREDIT
from billing.plans.terms import PlanTerms
from billing.rates.card import RateCard
from billing.rating import Rate, complete
from gateway.flow import queue as flow
from gateway.flow.states import Reserved
from gateway.lanes.queue import Ticket
from gateway.lanes.standing import Lane, Standing
from gateway.simulate import report
from gateway.simulate.engine import Pool, Simulation
from gateway.simulate.lane import LaneRules
from gateway.simulate.offer import Offer, portions
from gateway.simulate.request import Request, reserve, ticket_of
from gateway.simulate.tally import Cell
from gateway.simulate.tenant import Tenant
from gateway.simulate.traffic import DAY_US, HOUR_US, Arrival, Shape, arrivals, profile
from gateway.simulate.waits import Waits

START_US = int(datetime(2026, 11, 2, tzinfo=UTC).timestamp()) * 1_000_000
SECOND_US = 1_000_000
CREDIT = NCR_PER_CREDIT
RULES = {
    Lane.FAST: LaneRules(depth_max=50, wait_us=30 * SECOND_US, age_us=10 * SECOND_US),
    Lane.SLOW: LaneRules(depth_max=20, wait_us=120 * SECOND_US, age_us=60 * SECOND_US),
}


def card(**models: tuple[int, int]) -> RateCard:
    """Rates in ncr per token, in and out; a million of each is a credit of the model `m` unless it is said."""
    prices = {"m": (1000, 1000), **models}
    return RateCard(
        Rate(id=1, effective_us=0, free=False, prices=complete({"input": inward, "output": outward}), model=name) for name, (inward, outward) in prices.items()
    )


def offer(name: str = "p", **terms: Any) -> Offer:
    return Offer(plan=PlanTerms(plan=name, **{"allowance_ncr": CREDIT, **terms}))


def tenant(offer: Offer, name: str = "t", *, plan: int = 0, used_ncr: int = 0, age_us: int = 5 * DAY_US, timezone: str = "UTC") -> Tenant:
    return Tenant(name, offer, plan=plan, anchor_us=START_US - age_us, timezone=timezone, start_us=START_US, used_ncr=used_ncr)


def run(tenants: list[Tenant], requests: Iterable[Arrival], *, slots: int = 1, hours: int = 24, plans: int = 1, **more: Any) -> Simulation:
    """Let requests come; a slot reads a million tokens a second and writes a thousand."""
    pool = Pool(slots=slots, prefill_tps=1_000_000, decode_tps=more.pop("decode_tps", 1000))
    trial = Simulation(tenants, more.pop("rates", card()), pool, RULES, start_us=START_US, end_us=START_US + hours * HOUR_US, plans=plans, **more)
    trial.run(requests)
    return trial


def at(seconds: int, *, tenant: int = 0, output: int = 1000, output_max: int = 1000) -> Arrival:
    """A request of a thousand tokens in, that takes a second for a thousand tokens out; the two are worth 0.002 credits."""
    return Arrival(START_US + seconds * SECOND_US, tenant, "m", 1000, output, output_max)


def generated(offers: list[Offer], count: int, *, seed: int = 1, hours: int = 24, per_day: int = 100) -> tuple[list[Tenant], Iterable[Arrival]]:
    draw = Random(seed)
    habits = [profile(Shape(model="m", per_day=per_day), "UTC", START_US, draw) for _ in range(count)]
    made = [
        tenant(offers[index % len(offers)], f"t{index}", plan=index % len(offers), age_us=draw.randrange(28 * DAY_US), used_ncr=draw.randrange(2 * CREDIT))
        for index in range(count)
    ]
    return made, arrivals(habits, START_US, START_US + hours * HOUR_US, draw)


ALL_PLANS = [
    offer("slow", slow_daily_cap_ncr=CREDIT // 100),
    offer("block", on_exhausted="block", requests_per_minute=2),
    offer("overage", on_exhausted="overage", credit_price="0.01", tokens_per_minute=2000),
    offer("fallback", on_exhausted="fallback", fallback_model="small", fast_concurrency=2),
    offer("paced", slow_delay_ms=5000),
    offer("spill", spill_after_ms=2000, seat_allowance_ncr=CREDIT // 10),
    offer("narrow", allowed_models=frozenset({"other"})),
]


@pytest.mark.parametrize("seed", [1, 2])
def test_every_request_ends_exactly_once(seed: int) -> None:
    made, requests = generated(ALL_PLANS, 70, seed=seed, hours=15)  # it ends at the height of the day
    came = list(requests)
    trial = run(made, iter(came), slots=1, hours=15, plans=len(ALL_PLANS), rates=card(small=(100, 100)), seed=seed, decode_tps=40)
    assert len(came) > 5000 and trial.under_way
    whole = Cell()
    for plan, own in enumerate(ALL_PLANS):
        mine = Cell()
        for lane in Lane:
            mine.merge(trial.tally.total(plan, lane))
        whole.merge(mine)
        sums = [one.sums for one in made if one.plan == plan]
        assert mine.arrived == sum(one.arrived for one in sums) == sum(made[one.tenant].plan == plan for one in came), own.name
        assert mine.served == sum(sum(one.served.values()) for one in sums)
        assert (mine.refused, mine.capped) == (sum(one.refused for one in sums), sum(one.capped for one in sums))
        assert mine.charge_ncr == mine.cover_ncr + mine.excess_ncr + mine.overage_ncr
    assert whole.served + whole.refused + whole.capped + trial.under_way == len(came)
    assert all((whole.refused, whole.capped, whole.retried, whole.starved, whole.spilled, whole.excess_ncr, whole.overage_ncr))
    assert whole.turned_away == whole.retried + whole.refused - sum(one.sums.refused for one in made if one.offer.name == "narrow")  # that is told no at once
    assert sum(sum(one.sums.stood_us.values()) for one in made) == len(made) * 15 * HOUR_US
    assert 0 < sum(hour.ran_us for hour in trial.tally.hours) <= 15 * HOUR_US


def test_the_same_seed_gives_the_same_trial_and_traffic_does_not_depend_on_plans() -> None:
    def figures(offers: list[Offer], seed: int) -> tuple[Any, list[Any]]:
        made, requests = generated(offers, 40, seed=seed, hours=3)
        trial = run(made, requests, hours=3, seed=seed)
        return report.summary(trial, offers), list(report.tenant_rows(trial))

    first = figures([offer()], 1)
    assert figures([offer()], 1) == first
    assert figures([offer()], 2) != first
    other = figures([offer(on_exhausted="block")], 1)
    assert other != first and [row["requests"] for row in other[1]] == [row["requests"] for row in first[1]]


def test_a_grant_puts_a_tenant_back_into_the_fast_lane() -> None:
    made = tenant(offer(), used_ncr=CREDIT, age_us=30 * DAY_US - HOUR_US)  # its month began on 3 October, 01:00, and renews in an hour
    renewal_s = (made.account.valid_until_us - START_US) // SECOND_US
    assert renewal_s == 25 * 3600 and made.stands is Standing.SLOW
    run([made], [at(renewal_s - 10), at(renewal_s + 10)], hours=48)
    assert made.sums.served == {Lane.SLOW: 1, Lane.FAST: 1}
    assert (made.sums.excess_ncr, made.sums.cover_ncr) == (2_000_000, 2_000_000)
    assert made.sums.stood_us == {**dict.fromkeys(Standing, 0), Standing.SLOW: 25 * HOUR_US, Standing.FAST: 23 * HOUR_US}


def test_a_request_that_waits_in_the_slow_lane_is_called_back_by_a_grant() -> None:
    made = tenant(offer(), used_ncr=CREDIT, age_us=30 * DAY_US - HOUR_US)
    other = tenant(offer(), "other")
    renewal_s = 25 * 3600
    busy = at(renewal_s - 3, tenant=1, output=10_000, output_max=10_000)
    paced = tenant(offer(slow_delay_ms=60_000), "paced", used_ncr=CREDIT, age_us=30 * DAY_US - HOUR_US)
    run([made, other, paced], [busy, at(renewal_s - 2), at(renewal_s - 1, tenant=2)], hours=48)
    assert made.sums.served[Lane.FAST] == paced.sums.served[Lane.FAST] == 1
    assert paced.sums.longest_us < 12 * SECOND_US  # and not held back for a minute


def test_a_capped_tenant_comes_back_at_its_own_midnight() -> None:
    made = tenant(offer(slow_daily_cap_ncr=3_000_000), used_ncr=CREDIT, timezone="America/New_York")  # midnight there is 05:00 UTC in November
    requests = [at(60), at(120), at(180), at(5 * 3600 - 10), at(5 * 3600 + 10), at(5 * 3600 + 60), at(5 * 3600 + 120)]
    trial = run([made], requests)
    assert (made.sums.served[Lane.SLOW], made.sums.capped) == (4, 3)  # two a day: past the cap a third is refused
    cells = [hour.cells[0, Lane.SLOW] for hour in trial.tally.hours]
    assert [(cell.served, cell.capped) for cell in cells if cell.arrived] == [(2, 1), (0, 1), (2, 1)]
    capped_h = made.sums.stood_us[Standing.CAPPED] / HOUR_US
    assert capped_h == pytest.approx((5 - 121 / 3600) + (19 - 61 / 3600), abs=0.01)


def test_revenue_is_what_the_invoice_would_say() -> None:
    plan = offer("o", on_exhausted="overage", credit_price="1.23", monthly_fee_minor=3100, allowance_ncr=2_000_000)
    fresh = tenant(plan, "fresh", age_us=0)  # a month from 2 November has 30 days
    renews = tenant(plan, "renews", age_us=30 * DAY_US + 12 * HOUR_US)  # from 2 October 12:00, 31 days, renewed at noon
    assert renews.account.valid_until_us == START_US + 12 * HOUR_US
    noon_s = 12 * 3600
    requests = [at(60, output=5_000_000, output_max=5_000_000), at(noon_s + 3600, output=4000, output_max=4000), at(noon_s + 7200, tenant=1)]
    trial = run([fresh, renews], requests, slots=4)
    assert fresh.sums.overage_ncr == {(START_US, "m"): 4_999_000_000 + 5_000_000}
    assert renews.sums.overage_ncr == {}
    row = report.summary(trial, [plan])["plans"][0]
    # 5.004 credits at 1.23 are 6.15492; fees: 31.00 / 30 = 1.0333..., 31.00 / 62 + 31.00 / 60 = 1.01666...; together 2.05
    assert (row["overage_amount"], row["fees"], row["revenue"]) == ("6.15", "2.05", "8.20")
    assert row["overage_credits"] == "5.004" and row["excess_credits"] == "0"


@pytest.mark.parametrize(
    ("terms", "lane", "outcome"),
    [
        ({"on_exhausted": "block"}, None, "capped"),
        ({"on_exhausted": "slow"}, Lane.SLOW, "excess_ncr"),
        ({"on_exhausted": "overage", "credit_price": "1"}, Lane.FAST, "overage_ncr"),
        ({"on_exhausted": "fallback", "fallback_model": "small"}, Lane.SLOW, "excess_ncr"),
    ],
)
def test_past_the_credits_the_plan_decides(terms: Mapping[str, Any], lane: Lane | None, outcome: str) -> None:
    made = tenant(offer(**terms), used_ncr=CREDIT)
    trial = run([made], [at(1)], rates=card(small=(10, 10)))
    if lane is None:
        assert made.sums.capped == 1 and not any(made.sums.served.values())
        return
    charge_ncr = 20_000 if "fallback_model" in terms else 2_000_000
    assert made.sums.served[lane] == 1 and getattr(trial.tally.total(0, lane), outcome) == charge_ncr


def test_a_client_told_to_come_later_comes_again_as_often_as_it_may() -> None:
    crowd = [tenant(offer(), f"t{index}", used_ncr=CREDIT) for index in range(30)]
    blocked = [at(0, tenant=index, output=200_000, output_max=200_000) for index in range(30)]  # one runs for 200 s, 20 wait up to 120 s, 9 find it full
    trial = run(crowd, blocked, retries=0, hours=1)
    cell = trial.tally.total(0, Lane.SLOW)
    assert (cell.served, cell.refused, cell.turned_away, cell.retried, cell.starved) == (1, 29, 29, 0, 29)
    again = run([tenant(offer(), f"t{index}", used_ncr=CREDIT) for index in range(30)], blocked, retries=2, hours=1).tally.total(0, Lane.SLOW)
    assert again.retried > 29 and again.turned_away == again.retried + again.refused and again.served >= 2


def test_a_paced_plan_is_slow_on_idle_servers_and_a_spilling_one_takes_no_slot() -> None:
    paced, plain = tenant(offer(slow_delay_ms=7000), "paced", used_ncr=CREDIT), tenant(offer(), "plain", used_ncr=CREDIT)
    run([paced, plain], [at(1), at(1, tenant=1)], slots=8)
    assert (paced.sums.longest_us, plain.sums.longest_us) == (7 * SECOND_US, 0)
    rich = tenant(offer(spill_after_ms=3000), "rich")
    trial = run([rich, tenant(offer(), "other")], [at(1, tenant=1, output=20_000, output_max=20_000), at(2), at(2, tenant=1)])
    cell = trial.tally.total(0, Lane.FAST)
    assert (cell.spilled, cell.served, rich.sums.longest_us) == (1, 3, 3 * SECOND_US)
    assert sum(hour.ran_us for hour in trial.tally.hours) == 21 * SECOND_US + 2 * 1000  # a thousand tokens are read in a millisecond


@pytest.mark.parametrize("used_ncr", [0, CREDIT * 19 // 20, CREDIT])
@pytest.mark.parametrize("terms", [{"weight": 7, "slow_weight": 2}, {"slow_delay_ms": 9, "fast_concurrency": 1, "slow_concurrency": 1}])
def test_a_ticket_is_the_one_that_the_gateway_makes(used_ncr: int, terms: dict[str, Any]) -> None:
    made = tenant(offer(**terms), used_ncr=used_ncr)
    request = Request(made, at(0, output_max=321), cast(Any, card().at("m", 0)))
    assert reserve(request, card(), START_US) is None
    reserved = cast(
        Reserved,
        SimpleNamespace(
            admitted=SimpleNamespace(terms=made.terms, tenant_id=made.name),
            hold=request.hold,
            lane=request.lane,
            prompt_tokens_max=request.input_max,
            output_tokens_max=321,
        ),
    )
    ours, theirs = ticket_of(request), flow._ticket(reserved)
    assert all(getattr(ours, field) == getattr(theirs, field) for field in Ticket.__struct_fields__)
    assert request.lane is (Lane.SLOW if used_ncr == CREDIT else Lane.FAST)


def test_a_month_rolls_over_what_the_plan_lets_and_a_seat_is_used_first() -> None:
    made = tenant(offer(rollover_cap_ncr=CREDIT // 4, seat_allowance_ncr=1_000_000), age_us=30 * DAY_US + 12 * HOUR_US)
    run([made], [at(60)])
    assert made.sums.cover_ncr == 2_000_000  # of it a million from the seat, so that the allowance lacks one
    assert {grant.kind: grant.remaining_ncr for grant in made.grants if grant.key_id is None} == {"plan": CREDIT, "rollover": CREDIT // 4}
    assert made.claims.limit_ncr == CREDIT + CREDIT // 4 + 1_000_000


def test_traffic_has_its_median_its_day_and_its_long_tail() -> None:
    draw = Random(3)
    habits = [profile(Shape(model="m", per_day=40), "UTC", START_US, draw) for _ in range(1000)]
    rates = sorted(one.per_day for one in habits)
    assert rates[500] == pytest.approx(40, rel=0.1) and rates[990] > 10 * rates[500]
    came = list(arrivals(habits, START_US, START_US + DAY_US, draw))
    assert came == sorted(came, key=lambda one: one.at_us)
    assert len(came) == pytest.approx(sum(rates), rel=0.03)
    by_hour = [sum(START_US + hour * HOUR_US <= one.at_us < START_US + (hour + 1) * HOUR_US for one in came) for hour in (2, 14)]
    assert 3 < by_hour[1] / by_hour[0] < 5
    assert all(1 <= one.output <= one.output_max for one in came)


def test_percentiles_are_close_and_the_longest_is_exact() -> None:
    draw, waits = Random(1), Waits()
    seen = sorted(round(draw.lognormvariate(14, 2)) for _ in range(5000))
    for wait_us in seen:
        waits.add(wait_us)
    for percent in (50, 95, 99):
        exact = seen[-(-5000 * percent // 100) - 1]
        assert exact <= (waits.percentile(percent) or 0) <= exact * 1.016 + 1
    assert (waits.percentile(100), waits.longest_us, waits.sum_us) == (seen[-1], seen[-1], sum(seen))
    assert Waits().percentile(50) is None


def test_tenants_are_dealt_out_by_share_to_the_last() -> None:
    shares = [one.share for one in (Offer(plan=PlanTerms(plan=str(n))) for n in range(3))]
    assert portions(shares, 100) == [34, 33, 33]
