"""What slow means, knob by knob: however a plan sets it, no slow request comes before a fast one by it, also not one of another plan."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from billing.errors import Invalid
from billing.plans.terms import PlanTerms, PlanVersion, Terms, check_terms, terms_of
from gateway.config.forms import PlanForm
from gateway.lanes.queue import FairQueue, Ticket, slow_slots_of
from gateway.lanes.standing import Lane, past_credits, priority_of, seats_of, weight_of

AGE_US = 60_000_000
weights = st.integers(1, 1000)
seats = st.integers(1, 100_000)


@st.composite
def plans(draw: st.DrawFn) -> Terms:
    """Any plan that an admin may write."""
    terms = PlanTerms(
        plan="p",
        on_exhausted=draw(st.sampled_from(["slow", "overage", "block"])),
        credit_price="0.01",
        weight=draw(weights),
        slow_weight=draw(weights),
        glide_percent=draw(st.integers(0, 100)),
        fast_concurrency=draw(st.none() | seats),
        slow_concurrency=draw(seats),
        slow_delay_ms=draw(st.integers(0, 600_000)),
        slow_tokens_per_second=draw(st.none() | st.integers(1, 100_000)),
        slow_priority=draw(st.integers(1, 1_000_000)),
        slow_flex=draw(st.booleans()),
        slow_daily_cap_ncr=draw(st.none() | st.integers(0, 10**15)),
        spill_after_ms=draw(st.none() | st.integers(0, 600_000)),
    )
    try:
        check_terms(terms)
    except Invalid:
        assume(False)
    return terms_of(PlanVersion(version=1, terms=terms, created_us=0))


@given(plans(), st.integers(0, 10**12), st.integers(1, 10**12), st.integers(1, 10**12))
def test_weight_slow_never_weighs_more_than_fast_of_its_plan(terms: Terms, slow_free: int, fast_free: int, limit: int) -> None:
    assert weight_of(Lane.SLOW, -slow_free, limit, terms) <= weight_of(Lane.FAST, fast_free, limit, terms)


@given(plans(), plans(), st.integers(1, 8), st.integers(0, 10**6))
def test_weight_and_age_no_slow_request_of_any_plan_passes_a_fast_one_of_any_other(slow: Terms, fast: Terms, slots: int, cost: int) -> None:
    """The queue serves the lanes apart: neither the greatest slow weight nor the longest wait brings one before a fast request."""
    queue = FairQueue(slots, depths=dict.fromkeys(Lane, 100), ages_us=dict.fromkeys(Lane, 0))
    running = [Ticket(tenant="r", lane=Lane.FAST, cost=1) for _ in range(slots)]
    assert all(queue.offer(one, 0) for one in running)
    late = Ticket(tenant="s", lane=Lane.SLOW, cost=0, weight=weight_of(Lane.SLOW, 0, 1, slow), limit=seats_of(Lane.SLOW, slow))
    fast_one = Ticket(tenant="f", lane=Lane.FAST, cost=cost, weight=weight_of(Lane.FAST, 1, 10**9, fast), limit=seats_of(Lane.FAST, fast))
    assert not queue.offer(late, 0)
    assert not queue.offer(fast_one, 10**9)
    queue.done(running.pop(), 1, 10**9)
    assert queue.next(10**9) == [fast_one]


@given(plans())
def test_concurrency_without_credits_never_more_seats_than_with_them(terms: Terms) -> None:
    fast, slow = seats_of(Lane.FAST, terms), seats_of(Lane.SLOW, terms)
    assert slow is not None and (fast is None or slow <= fast)


@given(st.integers(2, 10_000))
def test_borrowed_slots_leave_an_eighth_to_the_fast_lane(slots: int) -> None:
    queue = FairQueue(slots, depths=dict.fromkeys(Lane, slots))
    taken = sum(queue.offer(Ticket(tenant="s", lane=Lane.SLOW, cost=1, limit=1, borrows=True), 0) for _ in range(min(slots, 300)))
    assert taken == min(300, slow_slots_of(slots)) < slots


@given(plans(), st.integers(-1, 10**12), st.integers(0, 10**9))
def test_priority_in_the_engine_slow_is_always_behind_fast(terms: Terms, waited_us: int, age_us: int) -> None:
    fast, slow = (priority_of(lane, terms, waited_us, age_us) for lane in (Lane.FAST, Lane.SLOW))
    assert fast == 0 < slow <= terms.slow_priority


@given(plans(), st.integers(0, 2 * AGE_US), st.integers(0, 2 * AGE_US))
def test_priority_in_the_engine_gets_better_the_longer_a_request_waited(terms: Terms, one: int, other: int) -> None:
    soon, late = (priority_of(Lane.SLOW, terms, waited, AGE_US) for waited in sorted((one, other)))
    assert late <= soon
    assert priority_of(Lane.SLOW, terms, AGE_US, AGE_US) == 1
    assert priority_of(Lane.SLOW, terms, 0, AGE_US) == terms.slow_priority


@given(plans(), st.integers(-(10**12), 10**12), st.integers(0, 10**12), st.booleans())
def test_past_the_credits_nobody_is_let_into_the_fast_lane_but_for_overage(terms: Terms, unheld: int, hold: int, spent: bool) -> None:
    past = past_credits(terms, unheld_ncr=unheld, hold_ncr=hold, day_spent=spent)
    assert (past.lane is Lane.FAST) == (terms.on_exhausted == "overage")
    if past.lane is None:
        assert hold > 0, "what costs nothing is never refused"
        assert terms.on_exhausted == "block" or past.reason == "slow_daily_cap"


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("slow_weight", {"weight": 2, "slow_weight": 3}),
        ("slow_concurrency", {"fast_concurrency": 1, "slow_concurrency": 2}),
        ("slow_priority", {"slow_priority": 0}),
        ("slow_delay_ms", {"slow_delay_ms": -1}),
        ("slow_tokens_per_second", {"slow_tokens_per_second": 0}),
        ("spill_after_ms", {"spill_after_ms": -1}),
    ],
)
def test_a_plan_that_would_put_slow_before_fast_cannot_be_written(field: str, wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match=field):
        PlanForm.model_validate({"credits": "1", **wrong})
    with pytest.raises(Invalid, match=field):
        check_terms(PlanTerms(plan="p", **wrong))  # type: ignore[arg-type]


def test_seats_that_are_left_out_fit_those_of_the_fast_lane() -> None:
    assert PlanForm(credits="1").terms("p").slow_concurrency == 2
    assert PlanForm(credits="1", fast_concurrency=1).terms("p").slow_concurrency == 1
