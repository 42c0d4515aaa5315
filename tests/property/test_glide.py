"""The weight of a request falls smoothly with the credits, keeps the plans' ratios, and never puts a slow request ahead of a fast one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from billing.plans.terms import PlanTerms, PlanVersion, Terms, terms_of
from gateway.lanes.queue import SCALE, FairQueue, Ticket
from gateway.lanes.standing import WEIGHT_UNIT, Lane, Standing, standing, weight_of

CREDIT = 10**9
LIMITS = st.integers(0, 10**18)


@st.composite
def plans(draw: st.DrawFn) -> Terms:
    weight = draw(st.integers(1, 1000))
    terms = PlanTerms(
        plan="p",
        weight=weight,
        slow_weight=draw(st.integers(1, weight)),
        glide_percent=draw(st.integers(0, 100)),
        on_exhausted=draw(st.sampled_from(["slow", "block", "fallback", "overage"])),
    )
    return terms_of(PlanVersion(version=1, terms=terms, created_us=0))


@given(plans(), LIMITS, st.data())
def test_more_credits_never_weigh_less_and_slow_never_weighs_more_than_fast(terms: Terms, limit: int, data: st.DataObject) -> None:
    less, more = sorted(data.draw(st.integers(-limit, limit)) for _ in range(2))
    low, high = (weight_of(Lane.FAST, free, limit, terms) for free in (less, more))
    assert low <= high <= terms.weight * WEIGHT_UNIT
    for free in (less, more):
        assert 1 <= weight_of(Lane.SLOW, free, limit, terms) <= low


@given(plans(), st.integers(1, 10**18))
def test_it_begins_and_ends_where_the_standing_does(terms: Terms, limit: int) -> None:
    full, slow = terms.weight * WEIGHT_UNIT, terms.slow_weight * WEIGHT_UNIT
    edge = terms.glide_percent * limit // 100
    above = weight_of(Lane.FAST, edge + 1, limit, terms)
    assert above == full
    assert standing(edge + 1, limit, glide_percent=terms.glide_percent) is not Standing.GLIDE
    if terms.on_exhausted == "overage":
        assert weight_of(Lane.FAST, 0, limit, terms) == full, "it pays for the fast lane and stays in it"
    elif edge:
        assert standing(edge, limit, glide_percent=terms.glide_percent) is Standing.GLIDE
        assert weight_of(Lane.FAST, 0, limit, terms) == slow == weight_of(Lane.SLOW, 0, limit, terms), "no step between the last fast and the first slow"


@given(plans(), st.integers(CREDIT, 10**6 * CREDIT), st.integers(1, 99))
def test_there_is_no_cliff(terms: Terms, limit: int, percent: int) -> None:
    """A hundredth of the glide moves the weight by a hundredth of the difference, and the integers' unit."""
    step = terms.glide_percent * limit // 10_000
    free = terms.glide_percent * limit * percent // 10_000
    before, after = (weight_of(Lane.FAST, at, limit, terms) for at in (free, max(0, free - step)))
    assert before - after <= (terms.weight - terms.slow_weight) * WEIGHT_UNIT / 100 + 2


def test_half_of_the_glide_is_half_of_the_way() -> None:
    terms = terms_of(PlanVersion(version=1, terms=PlanTerms(plan="p", weight=9, slow_weight=1), created_us=0))
    assert [weight_of(Lane.FAST, free, 1000, terms) / WEIGHT_UNIT for free in (1000, 100, 50, 25, 0, -5)] == [9, 9, 5, 3, 1, 1]


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(1, 10**6))
def test_the_counters_keep_the_ratio_of_the_weights(one: int, other: int, cost: int) -> None:
    steps = [cost * SCALE // (weight * WEIGHT_UNIT) for weight in (one, other)]
    assert abs(steps[0] * one - steps[1] * other) <= max(one, other)


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(list(Lane)), plans(), st.integers(0, 100), st.integers(1, 500)), max_size=40),
    st.integers(1, 4),
)
@settings(deadline=None)
def test_no_slow_request_is_granted_a_slot_while_a_fast_one_could_take_it(arrivals: list[tuple[str, Lane, Terms, int, int]], slots: int) -> None:
    queue = FairQueue(slots, depths=dict.fromkeys(Lane, 100))
    waiting: list[Ticket] = []
    running: list[Ticket] = []

    def granted(tickets: list[Ticket]) -> None:
        for ticket in tickets:
            waiting.remove(ticket)
            assert ticket.lane is Lane.FAST or not any(other.lane is Lane.FAST for other in waiting if other not in tickets)
            running.append(ticket)

    for tenant, lane, terms, free, cost in arrivals:
        ticket = Ticket(tenant=tenant, lane=lane, cost=cost, weight=weight_of(lane, free, 100, terms))
        if queue.offer(ticket, 0):
            assert lane is Lane.FAST or not any(other.lane is Lane.FAST for other in waiting)
            running.append(ticket)
        else:
            waiting.append(ticket)
            granted(queue.next(0))
        if len(running) == slots and cost % 3 == 0:
            queue.done(running.pop(0), cost, 0)
            granted(queue.next(0))
    while running:
        queue.done(running.pop(0), 1, 0)
        granted(queue.next(0))
    assert waiting == []
