"""How much is set aside at once."""

from hypothesis import given
from hypothesis import strategies as st

from billing.leases.quantum import quantum

AMOUNT = st.integers(0, 10**6)


def test_half_of_an_even_share() -> None:
    assert quantum(1000, 1, 0, 0, 10**9) == 500
    assert quantum(1000, 4, 0, 0, 10**9) == 125


def test_a_need_past_the_share_is_met_exactly() -> None:
    assert quantum(1000, 4, 300, 0, 10**9) == 300
    assert quantum(100, 4, 300, 0, 10**9) == 100


def test_a_lease_stays_below_its_bound_unless_a_request_needs_more() -> None:
    assert quantum(1000, 1, 0, 90, 100) == 10
    assert quantum(1000, 1, 0, 200, 100) == 0
    assert quantum(1000, 1, 50, 200, 100) == 50


@given(AMOUNT, st.integers(1, 100), AMOUNT, AMOUNT, AMOUNT)
def test_never_more_than_is_there_and_never_less_than_nothing(available: int, processes: int, need: int, leased: int, most: int) -> None:
    given_ = quantum(available, processes, need, leased, most)
    assert 0 <= given_ <= available
    assert given_ >= min(need, available)
    assert leased + given_ <= max(most, leased + need)
