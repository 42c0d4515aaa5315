"""The simulator over adversarial arrivals: nobody is lost, no slow request passes a fast one, tenants share by weight within the bound, at every instant."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.money import NCR_PER_CREDIT
from billing.plans.terms import PlanTerms
from billing.rates.card import RateCard
from billing.rating import Rate, complete
from gateway.lanes.queue import FairQueue, Ticket
from gateway.lanes.standing import Lane
from gateway.lanes.ticket import INPUT_WEIGHT, OUTPUT_WEIGHT
from gateway.simulate import report
from gateway.simulate.engine import Pool, Simulation
from gateway.simulate.lane import LaneRules
from gateway.simulate.offer import Offer
from gateway.simulate.tenant import Tenant
from gateway.simulate.traffic import DAY_US, HOUR_US, Arrival

START_US = int(datetime(2026, 11, 2, tzinfo=UTC).timestamp()) * 1_000_000
CARD = RateCard([Rate(id=1, effective_us=0, free=False, prices=complete({"input": 10, "output": 10}), model="m")])
INPUT_MAX, OUTPUT_MAX = 400, 200
PATIENT = {lane: LaneRules(depth_max=100_000, wait_us=1000 * DAY_US, age_us=None) for lane in Lane}
HASTY = {lane: LaneRules(depth_max=4, wait_us=3_000_000, age_us=1_000_000) for lane in Lane}
WEIGHTS, REQUESTS = {"one": 1, "ten": 10}, 3000
POOL = {"prefill_tps": 1000, "decode_tps": 100}

Grants = Callable[[FairQueue], None]


class WatchedQueue(FairQueue):
    """The real queue, which says what it grants before and after."""

    def __init__(self, queue: FairQueue, rules: dict[Lane, LaneRules], seen: Grants, about_to: Callable[[FairQueue, Ticket], None]) -> None:
        super().__init__(
            queue.slots,
            depths={lane: rule.depth_max for lane, rule in rules.items()},
            ages_us={lane: rule.age_us for lane, rule in rules.items()},
            slow_slots=queue.slow_slots,
        )
        self.seen = seen
        self.about_to = about_to

    def _grant(self, lane, line, ticket) -> None:
        self.about_to(self, ticket)
        super()._grant(lane, line, ticket)

    def next(self, now_us: int) -> list[Ticket]:
        granted = super().next(now_us)
        self.seen(self)
        return granted

    def offer(self, ticket: Ticket, now_us: int) -> bool:
        runs = super().offer(ticket, now_us)
        self.seen(self)
        return runs

    def done(self, ticket: Ticket, cost: int, now_us: int) -> None:
        super().done(ticket, cost, now_us)
        self.charged_back(ticket, cost)

    def charged_back(self, ticket: Ticket, cost: int) -> None:
        """Hear what a request really cost."""


def tenant(name: str, *, used: bool = False, plan: int = 0, **terms) -> Tenant:
    own = Offer(plan=PlanTerms(plan=name, **{"allowance_ncr": 10**9 * NCR_PER_CREDIT, **terms}))
    return Tenant(name, own, plan=plan, anchor_us=START_US - DAY_US, timezone="UTC", start_us=START_US, used_ncr=10**18 if used else 0)


def simulation(tenants: list[Tenant], rules: dict[Lane, LaneRules], *, slots: int, slow_slots: int | None = None, hours: int = 1) -> Simulation:
    pool = Pool(slots=slots, slow_slots=slow_slots, **POOL)
    return Simulation(tenants, CARD, pool, rules, start_us=START_US, end_us=START_US + hours * HOUR_US, retries=1, plans=len(tenants))


@st.composite
def arrivals(draw: st.DrawFn, tenants: int) -> list[Arrival]:
    """Bursts of requests of one shape, and pauses; what comes out may be far less than what was asked for."""
    at_us, found = START_US, []
    for _ in range(draw(st.integers(1, 20))):
        at_us += draw(st.sampled_from([0, 0, 0, 1000, 700_000, 5_000_000]))
        asked = draw(st.sampled_from([1, OUTPUT_MAX]) | st.integers(1, OUTPUT_MAX))
        shape = (draw(st.sampled_from([1, INPUT_MAX]) | st.integers(1, INPUT_MAX)), draw(st.sampled_from([1, asked])), asked)
        found += [Arrival(at_us, draw(st.integers(0, tenants - 1)), "m", *shape)] * draw(st.integers(1, 15))
    return found


@given(came=arrivals(4), slots=st.integers(1, 4), hasty=st.booleans())
@settings(max_examples=80, deadline=None)
def test_nobody_is_lost_and_no_slow_request_is_granted_while_a_fast_one_may_run(came: list[Arrival], slots: int, hasty: bool) -> None:
    rules = HASTY if hasty else PATIENT
    made = [
        tenant("rich", fast_concurrency=2, slow_concurrency=1),
        tenant("poor", plan=1, used=True, slow_concurrency=2, slow_weight=1000, weight=1000),
        tenant("blocked", plan=2, used=True, on_exhausted="block"),
        tenant("billed", plan=3, used=True, on_exhausted="overage", credit_price="1"),
    ]
    trial = simulation(made, rules, slots=slots)
    slow_grants = 0

    def about_to(queue: FairQueue, ticket: Ticket) -> None:
        nonlocal slow_grants
        if ticket.lane is Lane.FAST:
            return
        slow_grants += 1
        assert ticket.tenant == "poor"
        assert queue.running_in(Lane.SLOW) < queue.slow_slots
        for other in made:
            running, waiting = queue.of_tenant(other.name, Lane.FAST)
            limit = other.terms.fast_concurrency
            assert not waiting or (limit is not None and running >= limit), f"{ticket.tenant} passes {other.name}"

    trial.queue = WatchedQueue(trial.queue, rules, lambda queue: None, about_to)
    trial.run(came)
    served = sum(sum(one.sums.served.values()) for one in made)
    refused, capped = sum(one.sums.refused for one in made), sum(one.sums.capped for one in made)
    assert served + refused + capped + trial.under_way == len(came)
    assert capped == sum(one.tenant == 2 for one in came)
    assert trial.under_way == 0 and trial.queue.running == 0  # an hour is enough for all
    assert not made[0].sums.served[Lane.SLOW] and not made[3].sums.served[Lane.SLOW] and not made[1].sums.served[Lane.FAST]
    assert slow_grants == made[1].sums.served[Lane.SLOW]
    assert all(part.held_ncr == 0 for one in made for part in one.account.parts)


@given(came=arrivals(3), slots=st.integers(1, 3))
@settings(max_examples=80, deadline=None)
def test_equal_weights_stay_within_the_bound_at_every_instant(came: list[Arrival], slots: int) -> None:
    """Sheng et al., OSDI '24: over any span in which two tenants keep waiting, their service differs by at most 2 max(w_in L_in, w_out M).

    M is what a running batch may hold: here every slot with the longest request.
    """
    made = [tenant(name, plan=plan) for plan, name in enumerate("abc")]
    trial = simulation(made, PATIENT, slots=slots)
    bound = 2 * max(INPUT_WEIGHT * INPUT_MAX, OUTPUT_WEIGHT * slots * (INPUT_MAX + OUTPUT_MAX))
    service = dict.fromkeys("abc", 0)
    lowest: dict[tuple[str, str], int] = {}
    highest: dict[tuple[str, str], int] = {}

    def check(queue: FairQueue) -> None:
        waiting = [name for name in service if queue.of_tenant(name, Lane.FAST)[1]]
        for pair in (("a", "b"), ("a", "c"), ("b", "c")):
            if not all(name in waiting for name in pair):
                lowest.pop(pair, None)
                highest.pop(pair, None)
                continue
            gap = service[pair[0]] - service[pair[1]]
            lowest[pair], highest[pair] = min(gap, lowest.get(pair, gap)), max(gap, highest.get(pair, gap))
            assert highest[pair] - lowest[pair] <= bound

    def about_to(queue: FairQueue, ticket: Ticket) -> None:
        service[ticket.tenant] += ticket.cost

    watched = WatchedQueue(trial.queue, PATIENT, check, about_to)
    watched.charged_back = lambda ticket, cost: service.__setitem__(ticket.tenant, service[ticket.tenant] + cost - ticket.cost)  # type: ignore[method-assign]
    trial.queue = watched
    trial.run(came)
    assert trial.under_way == 0
    assert sum(service.values()) == sum(INPUT_WEIGHT * one.input + OUTPUT_WEIGHT * one.output for one in came)


@pytest.mark.parametrize("used", [False, True])
@given(shapes=st.tuples(*[st.tuples(st.integers(100, INPUT_MAX), st.integers(50, OUTPUT_MAX))] * 2))
@settings(max_examples=3, deadline=None)
def test_tenants_that_always_wait_share_by_weight(used: bool, shapes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    """Weights 1 : 10 are token shares of 1 : 10 within 5 %, in either lane and whatever the lengths of the requests."""
    made = [tenant(name, plan=plan, used=used, weight=weight, slow_weight=weight, slow_concurrency=100) for plan, (name, weight) in enumerate(WEIGHTS.items())]
    trial = simulation(made, PATIENT, slots=4, slow_slots=4)
    came = [Arrival(START_US, plan, "m", *shapes[plan], OUTPUT_MAX) for _ in range(REQUESTS) for plan in (0, 1)]
    trial.end_us = START_US + 9 * REQUESTS * trial.pool.service_us(came[1]) // (10 * trial.pool.slots)  # `ten` could not have been served whole by then
    trial.run(came)
    lane = Lane.SLOW if used else Lane.FAST
    assert all(trial.queue.of_tenant(own.name, lane)[1] for own in made), "one of them did not wait all the time"
    one, ten = (INPUT_WEIGHT * own.sums.input_tokens + OUTPUT_WEIGHT * own.sums.output_tokens for own in made)
    assert ten / one == pytest.approx(WEIGHTS["ten"], rel=0.05)
    row = report.summary(trial, [own.offer for own in made])["plans"]
    assert [plan["lanes"][lane.value]["share_per_weight"] for plan in row] == pytest.approx([1, 1], rel=0.05)
