"""Burning down by example: who burns first, what repays debt, what is refused."""

import pytest

from billing.credits.burndown import Charge, burn
from billing.grants.grant import Grant, burn_key
from tests.books import grant


def in_order(*grants: Grant) -> list[Grant]:
    return sorted(grants, key=burn_key)


def use(cover: int, at: int = 5) -> Charge:
    return Charge(at, cover, cover, True)


def test_the_plan_burns_before_the_top_up() -> None:
    grants = in_order(grant("topup", 100, effective_us=0), grant("plan", 10, kind="plan", priority=10, effective_us=0, expires_us=9))
    assert burn(grants, 0, [use(25)]).draws == {"plan": 10, "topup": 15}


def test_what_expires_first_burns_first_and_what_never_does_last() -> None:
    grants = in_order(grant("never", 5, effective_us=0), grant("late", 5, effective_us=0, expires_us=9), grant("soon", 5, effective_us=0, expires_us=8))
    assert list(burn(grants, 0, [use(15)]).draws) == ["soon", "late", "never"]


def test_a_promotion_burns_before_what_was_paid_for() -> None:
    grants = in_order(grant("a", 5, effective_us=0), grant("b", 5, kind="promotion", effective_us=0))
    assert burn(grants, 0, [use(5)]).draws == {"b": 5}


def test_a_grant_is_usable_from_its_first_instant_to_before_its_last() -> None:
    grants = [grant("g", 100, effective_us=5, expires_us=8)]
    assert burn(grants, 0, [use(1, at) for at in (4, 5, 7, 8)]).covered == [0, 1, 1, 0]


def test_debt_is_repaid_before_anything_new_is_covered_also_by_a_request_that_takes_no_credits() -> None:
    burnt = burn([grant("g", 10, effective_us=0)], 8, [use(5)])
    assert (burnt.repaid_ncr, burnt.covered, burnt.debt_ncr) == (8, [2], 3)
    assert burn([grant("g", 10, effective_us=0)], 8, [Charge(5, 4, 0, False)]).debt_ncr == 0


@pytest.mark.parametrize("bad", [Charge(5, 10, 11, True), Charge(5, 10, -1, True), Charge(5, -1, -1, False)])
def test_a_cover_outside_its_charge_is_refused(bad: Charge) -> None:
    with pytest.raises(ValueError, match="cannot be covered"):
        burn([], 0, [bad])
