"""The days a report is about, and when they begin in a tenant's own zone; pure.

Most days have 24 hours. Those that daylight saving makes 23 or 25 are runs of their own, so that the number of a request's day is one division, also in SQL.
"""

from collections.abc import Iterator
from datetime import date, timedelta
from itertools import pairwise
from typing import NamedTuple

import msgspec

from billing.errors import Invalid
from billing.grants.periods import day_of as local_day
from billing.grants.periods import midnight, month_span

DAYS_MAX = 400
_DAY = timedelta(days=1)


class Span(msgspec.Struct, frozen=True):
    """Calendar days [first_day, end_day), each of them in the zone of the tenant that is looked at."""

    first_day: date
    end_day: date

    def day(self, index: int) -> str:
        """Return a day by its number from 0 on, as an ISO date."""
        return (self.first_day + index * _DAY).isoformat()

    def __iter__(self) -> Iterator[date]:
        """Give the days in order."""
        return (self.first_day + index * _DAY for index in range((self.end_day - self.first_day).days))


class Run(NamedTuple):
    """Days of one length that follow each other: the first begins at `start_us` and has the number `first`."""

    start_us: int
    first: int
    length_us: int


class Days(msgspec.Struct, frozen=True):
    """A span in one zone: [start_us, end_us), and its days as runs."""

    start_us: int
    end_us: int
    runs: tuple[Run, ...]

    def number(self, at_us: int) -> int:
        """Return the number of the day of an instant within the span."""
        run = next(run for run in reversed(self.runs) if run.start_us <= at_us)
        return run.first + (at_us - run.start_us) // run.length_us


def month_of(month: str) -> Span:
    """Return the days of a calendar month written YYYY-MM. Raises `Invalid`."""
    start_us, end_us = month_span(month, "UTC")
    return Span(local_day(start_us, "UTC"), local_day(end_us, "UTC"))


def span_of(month: str | None = None, first_day: date | None = None, end_day: date | None = None) -> Span:
    """Return the span a person asked for: a month, or days from the first until (not with) the last. Raises `Invalid` for neither, both or too many days."""
    if (month is None) == (first_day is None or end_day is None) or (month is not None and (first_day or end_day)):
        raise Invalid("month", "month: say a month, like 2026-11, or else two days, from and until (the day after the last)")
    if month is not None:
        return month_of(month)
    assert first_day is not None  # else there was a month
    assert end_day is not None
    if not 1 <= (end_day - first_day).days <= DAYS_MAX or not 1970 <= first_day.year <= 9000:
        raise Invalid("end_day", f"end_day: {end_day} does not follow {first_day}, or too late; it is the day after the last, at most {DAYS_MAX} days")
    return Span(first_day, end_day)


def in_zone(span: Span, timezone: str) -> Days:
    """Place a span in a zone."""
    starts = [midnight(day, timezone) for day in (*span, span.end_day)]
    runs: list[Run] = []
    for index, (start_us, end_us) in enumerate(pairwise(starts)):
        if not runs or runs[-1].length_us != end_us - start_us:
            runs.append(Run(start_us, index, end_us - start_us))
    return Days(starts[0], starts[-1], tuple(runs))
