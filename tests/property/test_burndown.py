"""Burning down over grants: a fold that loses nothing, respects windows and order, and does not care how it was cut into batches."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from billing.credits.burndown import Burn, Charge, burn, spendable_ncr, usable
from billing.grants.grant import Grant, burn_key
from tests.books import grant

TIMES = st.integers(0, 12)
AMOUNTS = st.integers(0, 40)


@st.composite
def grants_in_order(draw: st.DrawFn, *, always: bool = False) -> list[Grant]:
    found = []
    for number in range(draw(st.integers(0, 5))):
        start = 0 if always else draw(TIMES)
        amount = draw(AMOUNTS)
        found.append(
            grant(
                f"g{number}",
                amount,
                remaining_ncr=draw(st.integers(0, amount)),
                kind=draw(st.sampled_from(["plan", "topup", "promotion"])),
                priority=draw(st.integers(0, 2)),
                effective_us=start,
                expires_us=None if always else draw(st.none() | st.integers(start + 1, 14)),
                voided_us=None if always else draw(st.none() | st.just(3)),
            )
        )
    return sorted(found, key=burn_key)


@st.composite
def charges(draw: st.DrawFn) -> Charge:
    charge = draw(AMOUNTS)
    return Charge(draw(TIMES), charge, draw(st.integers(0, charge)), draw(st.booleans()))


def after(grants: list[Grant], burnt: Burn) -> list[Grant]:
    return [replace(one, remaining_ncr=burnt.left[one.id]) for one in grants]


@given(grants_in_order(), AMOUNTS, st.lists(charges()))
def test_nothing_is_lost(grants: list[Grant], debt: int, uses: list[Charge]) -> None:
    burnt = burn(grants, debt, uses)
    assert burnt.charged_ncr == sum(use.charge_ncr for use in uses)
    assert burnt.charged_ncr == sum(burnt.covered) + burnt.new_debt_ncr + burnt.excess_ncr + burnt.overage_ncr
    assert sum(burnt.draws.values()) == sum(burnt.covered) + burnt.repaid_ncr
    assert burnt.debt_ncr == debt + burnt.new_debt_ncr - burnt.repaid_ncr >= 0
    assert sum(one.remaining_ncr for one in grants) == sum(burnt.left.values()) + sum(burnt.draws.values())
    assert all(0 <= burnt.left[one.id] <= one.remaining_ncr for one in grants)


@given(grants_in_order(), AMOUNTS, st.lists(charges()), st.integers(0, 10))
def test_two_runs_in_a_row_equal_one(grants: list[Grant], debt: int, uses: list[Charge], cut: int) -> None:
    whole = burn(grants, debt, uses)
    first = burn(grants, debt, uses[:cut])
    second = burn(after(grants, first), first.debt_ncr, uses[cut:])
    assert second.left == whole.left
    assert second.debt_ncr == whole.debt_ncr
    assert first.covered + second.covered == whole.covered


@given(grants_in_order(always=True), AMOUNTS, st.lists(charges()), st.randoms())
def test_while_the_grants_stay_the_same_order_does_not_matter(grants: list[Grant], debt: int, uses: list[Charge], random: object) -> None:
    shuffled = list(uses)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = burn(grants, debt, uses), burn(grants, debt, shuffled)
    assert one.left == other.left
    assert one.debt_ncr == other.debt_ncr


@given(grants_in_order(), AMOUNTS, st.lists(charges()), st.randoms())
def test_in_any_order_credits_left_less_debt_are_the_same(grants: list[Grant], debt: int, uses: list[Charge], random: object) -> None:
    shuffled = list(uses)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = burn(grants, debt, uses), burn(grants, debt, shuffled)
    assert sum(one.left.values()) - one.debt_ncr == sum(other.left.values()) - other.debt_ncr


@given(grants_in_order(), charges())
def test_one_charge_takes_only_from_usable_grants_and_each_whole_before_the_next(grants: list[Grant], use: Charge) -> None:
    burnt = burn(grants, 0, [use])
    assert all(usable(one, use.started_us) for one in grants if one.id in burnt.draws)
    open_ = [one for one in grants if usable(one, use.started_us) and one.remaining_ncr]
    drawn = [burnt.draws.get(one.id, 0) for one in open_]
    partial = [index for index, one in enumerate(open_) if drawn[index] < one.remaining_ncr]
    assert all(drawn[index] == 0 for index in range(partial[0] + 1, len(open_))) if partial else True
    assert burnt.new_debt_ncr == max(0, use.cover_ncr - sum(one.remaining_ncr for one in open_))


@given(grants_in_order(), AMOUNTS, st.lists(charges()), TIMES)
def test_spendable_is_what_usable_grants_hold_less_debt(grants: list[Grant], debt: int, uses: list[Charge], at: int) -> None:
    burnt = burn(grants, debt, uses)
    expected = sum(one.remaining_ncr for one in after(grants, burnt) if usable(one, at)) - burnt.debt_ncr
    assert spendable_ncr(grants, burnt.left, burnt.debt_ncr, at) == expected
