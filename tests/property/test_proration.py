"""A change of plan in the course of a period gives no more than it should, by whatever way it came about; a rollover conserves credits (invariant 4)."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.credits import store as accounts
from billing.db import Database
from billing.errors import Conflict
from billing.grants import store as grants
from billing.grants.allowance import ensure_allowance
from billing.grants.periods import Period, period_at, prorate
from billing.ledger.store import balances, unbalanced
from billing.operations import plans, subscriptions, tenants
from billing.plans.terms import PlanTerms
from billing.usage.verify import verify
from billing.usage.writer import book
from tests.books import event
from tests.clock import START_US

CREDIT = 10**9
SPANS = st.tuples(st.integers(0, 2**50), st.integers(1, 32 * 86_400_000_000)).map(lambda pair: Period(0, pair[0], sum(pair)))
AMOUNTS = st.integers(0, 2**60)


@given(SPANS, AMOUNTS, st.data())
def test_a_part_of_a_period_is_never_more_than_the_whole_and_falls_with_time(span: Period, amount: int, data: st.DataObject) -> None:
    early, late = sorted(data.draw(st.integers(span.start_us - 10, span.end_us + 10)) for _ in range(2))
    assert 0 <= prorate(amount, span, late) <= prorate(amount, span, early) <= amount
    assert prorate(amount, span, span.start_us) == amount
    assert prorate(amount, span, span.end_us) == 0


@given(SPANS, st.lists(AMOUNTS, min_size=2, max_size=6), st.data())
def test_going_up_in_steps_gives_at_most_what_going_up_at_once_gives(span: Period, allowances: list[int], data: st.DataObject) -> None:
    levels = sorted(allowances)
    times = sorted(data.draw(st.integers(span.start_us, span.end_us)) for _ in levels[1:])
    steps = sum(prorate(after - before, span, at) for before, after, at in zip(levels[:-1], levels[1:], times, strict=True))
    assert steps <= prorate(levels[-1] - levels[0], span, times[0])


class Tenant:
    """A tenant that changes its plan, uses credits and looks at its months, on SQLite; it keeps the sum of what it may have been given."""

    PLANS = (("a", 0, None), ("b", 30, 10), ("c", 100, 20), ("d", 400, 1000))

    def __init__(self, folder: str) -> None:
        self.db = Database(f"sqlite:///{Path(folder) / 'weir.db'}")
        self.db.migrate()
        for name, allowance, cap in self.PLANS:
            plans.set_plan(self.db, PlanTerms(plan=name, allowance_ncr=allowance, rollover_cap_ncr=cap), START_US)

    def live(self, name: str, steps: list[tuple[int, str | None, str | None, int]]) -> None:
        """Live through steps of (time until it, plan to move to, when, charge); after each the books agree and no period gave too much."""
        tenants.create_tenant(self.db, id=name, name="", plan="c", now_us=START_US)
        at_us, changed = START_US, START_US
        for number, (wait_us, plan, when, charge) in enumerate(steps):
            at_us += wait_us
            current = subscriptions.standing(self.db, name, at_us).current
            assert current is not None
            if plan is not None and current.plan != plan and at_us > changed:
                try:
                    subscriptions.change_plan(self.db, name, plan, at_us, when=when)
                except Conflict:
                    assert when != "now", "it is to move there already"
                changed = at_us
            with self.db.write() as session:
                accounts.lock(session, [name])
                ensure_allowance(session, name, at_us)
                assert ensure_allowance(session, name, at_us) == [], "once"
                book(session, [event(int.from_bytes(name.encode()[-3:]) * 100 + number, charge, tenant=name, started_us=at_us)], at_us)
            self.agrees(name)

    def agrees(self, name: str) -> None:
        with self.db.read() as session:
            assert verify(session) == []
            assert unbalanced(session) == []
            found = grants.all_grants(session, name)
            books = balances(session)
        for grant in found:
            posted = books.get((name, f"grant:{grant.id}"))
            assert posted is None or posted == grant.remaining_ncr
            assert 0 <= grant.remaining_ncr <= grant.amount_ncr
        issued = -books.get((name, "issued"), 0)
        unposted = sum(grant.amount_ncr for grant in found if (name, f"grant:{grant.id}") not in books)
        moved = sum(grant.amount_ncr for grant in found if grant.kind == "rollover")
        assert issued + unposted == sum(grant.amount_ncr for grant in found) - moved, "what rolled over was issued once"
        left = sum(grant.remaining_ncr for grant in found)
        assert left == issued + unposted - (books.get((name, "consumed"), 0) + books.get((name, "debt"), 0)), "and is left or used once"
        ends = {grant.expires_us for grant in found if grant.expires_us is not None}
        for end_us in ends:
            of_period = [grant for grant in found if grant.expires_us == end_us]
            assert sum(grant.amount_ncr for grant in of_period if grant.kind == "plan") <= 400, "never more than the largest plan's"
            assert sum(grant.amount_ncr for grant in of_period if grant.kind == "rollover") <= 400
            assert end_us == period_at(START_US, "UTC", end_us - 1).end_us, "the anchor stays"


STEPS = st.tuples(
    st.sampled_from([1, 5, 20, 31, 40, 75]).map(lambda days: days * 86_400_000_000) | st.integers(0, 45 * 86_400_000_000),
    st.sampled_from([None, None, None, *(name for name, *_ in Tenant.PLANS)]),
    st.sampled_from([None, "now", "period-end"]),
    st.integers(0, 60),
)


@given(st.data())
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_plans_a_tenant_goes_through_no_credit_exists_twice(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        house = Tenant(folder)
        for number in range(8):
            house.live(f"t{number:02}", data.draw(st.lists(STEPS, min_size=1, max_size=10)))
        house.db.close()
