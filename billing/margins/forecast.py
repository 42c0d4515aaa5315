"""What a period is going to use, from the days before: a mean and the spread around it, and nothing that could not be added up by hand. Pure.

a day to come    the mean of the same weekday over the last 28 days; with fewer than 14 days known, the mean of all of them
part of a day    the same part of its mean
the band         twice the square root of (variance of the days around their mean x days to come), to either side; none with fewer than 3 days known
"""

from collections.abc import Sequence
from math import isqrt
from typing import NamedTuple

HISTORY_DAYS, WEEKDAYS_FROM, BAND_FROM = 28, 14, 3
_DAY_US = 86_400_000_000


class Known(NamedTuple):
    """A day that is over: its weekday (Monday is 0) and what was used (ncr)."""

    weekday: int
    ncr: int


class Coming(NamedTuple):
    """A day, or what is left of one: its ISO date, its weekday, and the part of it in microseconds of the whole."""

    day: str
    weekday: int
    left_us: int
    whole_us: int


class Outlook(NamedTuple):
    """What is to come in ncr: `expected` by day in order, and the band of their sum; `method` says in words how."""

    expected: tuple[tuple[str, int], ...]
    low_ncr: int
    high_ncr: int
    method: str

    @property
    def ncr(self) -> int:
        """What is expected in all."""
        return sum(ncr for _day, ncr in self.expected)


def look_ahead(known: Sequence[Known], coming: Sequence[Coming]) -> Outlook | None:
    """Forecast the days to come from those that are over; None where none is over, for then nobody knows."""
    if not known:
        return None
    by_weekday = len(known) >= WEEKDAYS_FROM
    sums: dict[int, list[int]] = {}
    for day in known:
        one = sums.setdefault(day.weekday if by_weekday else 0, [0, 0])
        one[0] += day.ncr
        one[1] += 1
    expected = []
    for ahead in coming:
        total, count = sums[ahead.weekday if by_weekday else 0]
        expected.append((ahead.day, total * ahead.left_us // (count * ahead.whole_us)))
    whole = sum(ncr for _day, ncr in expected)
    around = _spread(known, sums, by_weekday) if len(known) >= BAND_FROM else None
    band = 0 if around is None else 2 * isqrt(around * sum(ahead.left_us for ahead in coming) // _DAY_US)
    what = f"mean of the same weekday over {len(known)} days" if by_weekday else f"mean of {len(known)} day{'s' if len(known) > 1 else ''}"
    return Outlook(tuple(expected), max(0, whole - band), whole + band, what + (", too few for a band" if around is None else ", give or take 2 deviations"))


def exhausted_on(outlook: Outlook, left_ncr: int, today: str) -> str | None:
    """Return the day on which so many credits are expected to be used up; today where none is left, None where some stay."""
    if left_ncr <= 0:
        return today
    used = 0
    for day, ncr in outlook.expected:
        used += ncr
        if used >= left_ncr:
            return day
    return None


def _spread(known: Sequence[Known], sums: dict[int, list[int]], by_weekday: bool) -> int:
    """Return the variance of days around the mean they are expected by, whole ncr squared."""
    squares = 0
    for day in known:
        total, count = sums[day.weekday if by_weekday else 0]
        squares += (day.ncr - total // count) ** 2
    return squares // max(1, len(known) - len(sums))
