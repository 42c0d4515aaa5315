"""A forecast is what its rule says, whole numbers only: the mean of comparable days, in a band that holds it."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from billing.margins.forecast import BAND_FROM, WEEKDAYS_FROM, Coming, Known, exhausted_on, look_ahead

WHOLE = 86_400_000_000
days = st.lists(st.integers(0, 10**15), max_size=28).map(lambda found: [Known(index % 7, ncr) for index, ncr in enumerate(found)])
coming = st.lists(st.integers(1, WHOLE), max_size=31).map(lambda found: [Coming(f"day {index:02}", index % 7, left, WHOLE) for index, left in enumerate(found)])


@given(days, coming)
def test_each_day_is_the_mean_of_comparable_days_rounded_down(known: list[Known], left: list[Coming]) -> None:
    outlook = look_ahead(known, left)
    if outlook is None:
        assert not known
        return
    for day, (name, ncr) in zip(left, outlook.expected, strict=True):
        alike = [one.ncr for one in known if len(known) < WEEKDAYS_FROM or one.weekday == day.weekday]
        exact = Fraction(sum(alike), len(alike)) * day.left_us / day.whole_us
        assert (name, ncr) == (day.day, exact.numerator // exact.denominator)
    assert 0 <= outlook.low_ncr <= outlook.ncr <= outlook.high_ncr
    if len(known) < BAND_FROM or len({one.ncr for one in known}) == 1:
        assert outlook.low_ncr == outlook.ncr == outlook.high_ncr


@given(days.filter(bool), coming, st.integers(-5, 10**16))
def test_credits_end_on_the_first_day_by_which_they_are_used(known: list[Known], left: list[Coming], ncr: int) -> None:
    outlook = look_ahead(known, left)
    assert outlook is not None
    day = exhausted_on(outlook, ncr, "today")
    before = sum(one for name, one in outlook.expected if day is None or name < day)
    if ncr <= 0:
        assert day == "today"
    elif day is None:
        assert outlook.ncr < ncr
    else:
        assert before < ncr <= before + dict(outlook.expected)[day]


def test_a_day_unlike_the_others_widens_the_band() -> None:
    left = [Coming("a", 0, WHOLE, WHOLE)]
    calm = look_ahead([Known(index % 7, 100) for index in range(28)], left)
    rough = look_ahead([Known(index % 7, 100 + (40 if index == 0 else 0)) for index in range(28)], left)
    assert calm is not None
    assert rough is not None
    assert (calm.low_ncr, calm.high_ncr) == (100, 100)
    assert (rough.ncr, rough.low_ncr, rough.high_ncr) == (110, 96, 124)  # (30^2 + 3 * 10^2) / 21 = 57, of which 7 is the root
    assert "weekday over 28 days" in rough.method
