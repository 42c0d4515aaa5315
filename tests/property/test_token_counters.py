"""Tokens are shared by weight: at any instant within the bound of the Virtual Token Counter, whoever comes and goes, and nothing is saved up or forgiven."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.lanes import line
from gateway.lanes.queue import SCALE, FairQueue, Ticket
from gateway.lanes.standing import WEIGHT_UNIT, Lane

COST_MAX = 500


def queue_of(slots: int = 1, age_us: int | None = None) -> FairQueue:
    return FairQueue(slots, depths=dict.fromkeys(Lane, 100_000), ages_us=dict.fromkeys(Lane, age_us))


def ticket(tenant: str, cost: int, weight: int = 1, **more: bool | int) -> Ticket:
    return Ticket(tenant=tenant, lane=Lane.SLOW, cost=cost, weight=weight * WEIGHT_UNIT, **more)  # type: ignore[arg-type]


class Crowd:
    """Tenants that always have work, others that come and go, and what each was served (dispatched tokens)."""

    def __init__(self, queue: FairQueue, weights: dict[str, int], costs: random.Random) -> None:
        self.queue, self.weights, self.costs = queue, weights, costs
        self.running: list[Ticket] = []
        self.served = dict.fromkeys(weights, 0)
        self.now_us = 0

    def send(self, tenant: str, cost: int | None = None) -> None:
        sent = ticket(tenant, self.costs.randint(1, COST_MAX) if cost is None else cost, self.weights.get(tenant, 1))
        if self.queue.offer(sent, self.now_us):
            self.granted([sent])
        else:
            self.granted(self.queue.next(self.now_us))

    def granted(self, tickets: list[Ticket]) -> None:
        for one in tickets:
            self.running.append(one)
            if one.tenant in self.served:
                self.served[one.tenant] += one.cost

    def end(self, which: int = 0, true_cost: int | None = None) -> None:
        one = self.running.pop(which)
        self.now_us += 1000
        self.queue.done(one, one.cost if true_cost is None else true_cost, self.now_us)
        self.granted(self.queue.next(self.now_us))


@given(
    weights=st.tuples(st.integers(1, 10), st.integers(1, 10)),
    slots=st.integers(1, 8),
    adversary=st.lists(st.tuples(st.sampled_from(["x", "y", "z"]), st.integers(1, COST_MAX), st.integers(0, 7)), max_size=150),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=150)
def test_two_backlogged_tenants_never_differ_by_more_than_the_bound(
    weights: tuple[int, int], slots: int, adversary: list[tuple[str, int, int]], seed: int
) -> None:
    """Over any interval in which both have work, what they were served per weight differs by at most twice the dearest request per weight."""
    named = dict(zip("ab", weights, strict=True))
    crowd = Crowd(queue_of(slots), named, random.Random(seed))
    for _ in range(slots):
        crowd.send("gate", 1)
    for tenant in named:
        for _ in range(len(adversary) * 2 + slots + 50):
            crowd.send(tenant)
    gaps = [0.0]
    for tenant, cost, which in adversary:
        crowd.send(tenant, cost)
        crowd.end(which % len(crowd.running))
        gaps.append(crowd.served["a"] / weights[0] - crowd.served["b"] / weights[1])
    assert all(crowd.queue.of_tenant(tenant, Lane.SLOW)[1] for tenant in named), "both had work all the time"
    bound = 2 * COST_MAX / min(weights) + len(gaps) / SCALE
    assert max(gaps) - min(gaps) <= bound


@pytest.mark.parametrize("slots", [1, 7, 64])
def test_shares_of_one_to_ten_within_five_percent(slots: int) -> None:
    weights = {"one": 1, "ten": 10}
    crowd = Crowd(queue_of(slots, age_us=60_000_000), weights, random.Random(7))
    for tenant in weights:
        for _ in range(2 * slots):
            crowd.send(tenant)
    ends = random.Random(11)
    for _ in range(20_000):
        which = ends.randrange(len(crowd.running))
        ended = crowd.running[which].tenant
        crowd.end(which)
        crowd.send(ended)
    assert crowd.served["ten"] / crowd.served["one"] == pytest.approx(10, rel=0.05)


def test_true_costs_are_what_is_shared_and_not_the_estimates() -> None:
    """One tenant says max_tokens and means it; the other asks for twenty times what it uses. Both get the same tokens."""
    queue, used = queue_of(8), {"exact": 0, "lavish": 0}
    running: list[Ticket] = []
    cost = {"exact": (100, 100), "lavish": (2000, 100)}

    def granted(tickets: list[Ticket]) -> None:
        running.extend(tickets)

    for tenant, (estimate, _) in cost.items():
        for _ in range(40):
            one = ticket(tenant, estimate)
            granted([one] if queue.offer(one, 0) else queue.next(0))
    for now_us in range(20_000):
        one = running.pop(0)
        used[one.tenant] += cost[one.tenant][1]
        queue.done(one, cost[one.tenant][1], now_us)
        granted(queue.next(now_us))
        again = ticket(one.tenant, cost[one.tenant][0])
        granted([again] if queue.offer(again, now_us) else queue.next(now_us))
    assert used["lavish"] / used["exact"] == pytest.approx(1, rel=0.05)


def test_an_idle_tenant_saves_nothing_up() -> None:
    crowd = Crowd(queue_of(1), {"busy": 1, "late": 1}, random.Random(3))
    for _ in range(400):
        crowd.send("busy")
    for _ in range(300):
        crowd.end()
    before = dict(crowd.served)
    for _ in range(100):
        crowd.send("late")
    for _ in range(60):
        crowd.end()
    gained = {tenant: crowd.served[tenant] - before[tenant] for tenant in before}
    assert abs(gained["late"] - gained["busy"]) <= 2 * COST_MAX


def test_a_tenant_that_sends_one_large_request_after_the_other_gets_no_more_than_one_that_waits() -> None:
    """Between two of its requests it has nothing in the queue; what it was served is not forgiven for that."""
    crowd = Crowd(queue_of(1), {"many": 1, "one": 1}, random.Random(5))
    for _ in range(3000):
        crowd.send("many", 50)
    crowd.send("one", COST_MAX)
    for _ in range(2000):
        ended = crowd.running[0].tenant
        crowd.end()
        if ended == "one":
            crowd.send("one", COST_MAX)
    assert crowd.served["one"] / crowd.served["many"] == pytest.approx(1, rel=0.05)


def test_a_small_weight_is_next_when_it_has_gone_without_for_the_age() -> None:
    queue = queue_of(1, age_us=5_000)
    crowd = Crowd(queue, {"great": 1000, "small": 1}, random.Random(1))
    crowd.send("great", COST_MAX)
    for _ in range(100):
        crowd.send("small", COST_MAX)
        crowd.send("great", COST_MAX)
    gone_without = [0]
    for _ in range(100):
        before = crowd.served["small"]
        crowd.end()
        gone_without.append(0 if crowd.served["small"] > before else gone_without[-1] + 1)
    assert max(gone_without) <= 6
    assert queue.promoted > 10


def test_the_age_lets_no_slow_request_pass_a_fast_one() -> None:
    queue = queue_of(1, age_us=0)
    first = Ticket(tenant="f", lane=Lane.FAST, cost=1)
    assert queue.offer(first, 0)
    slow, fast = ticket("s", 1), Ticket(tenant="f", lane=Lane.FAST, cost=1)
    assert not queue.offer(slow, 0)
    assert not queue.offer(fast, 10**12)
    queue.done(first, 1, 10**12)
    assert queue.next(10**12) == [fast]


def test_slots_that_nobody_wants_are_borrowed_and_given_to_who_comes() -> None:
    queue = FairQueue(9, depths=dict.fromkeys(Lane, 100))
    alone = [ticket("alone", 10, limit=2, borrows=True) for _ in range(10)]
    granted = [one for one in alone if queue.offer(one, 0) or one in queue.next(0)]
    assert len(granted) == 8 == queue.slow_slots, "all but the eighth that is kept for the fast lane"
    other = [ticket("other", 10, limit=2, borrows=True) for _ in range(4)]
    assert not any(queue.offer(one, 0) for one in other)
    order = []
    for one in granted[:4]:
        queue.done(one, 10, 0)
        order += queue.next(0)
    assert [one.tenant for one in order[:2]] == ["other", "other"], "who is within its limit goes before who borrows"


def test_counters_of_tenants_long_gone_take_no_memory() -> None:
    queue = queue_of(4)
    for number in range(3 * line.IDLE_MAX):
        one = ticket(f"t{number}", 10)
        assert queue.offer(one, number)
        queue.done(one, 10, number)
    lane = queue._slow
    assert len(lane._lines) <= line.IDLE_MAX
    assert len(lane._idle) <= line.IDLE_MAX + 1


def test_clients_that_come_and_go_behind_one_that_waits_take_no_memory() -> None:
    queue = queue_of(1)
    assert queue.offer(ticket("a", 1), 0)
    assert not queue.offer(ticket("b", 1), 0)
    for number in range(5_000):
        one = ticket("b", 1)
        assert not queue.offer(one, number)
        queue.leave(one, number)
    assert queue.waiting(Lane.SLOW) == 1
    assert len(queue._slow._lines["b"].tickets) < 300
