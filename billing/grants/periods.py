"""Months and days as a tenant's calendar counts them: pure arithmetic on UTC epoch microseconds.

Period k runs from the ORIGINAL anchor plus k months to the anchor plus k+1, in the tenant's zone: the day is clamped to the month's
length, but a clamped month does not move the ones after it (31 Jan, 28 Feb, 31 Mar). Every span is half-open, so periods
partition time. A wall-clock time that daylight saving skips is read with the offset before the change; one that happens twice
is the first of the two.
"""

import calendar
import re
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from billing.errors import Invalid

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Period(msgspec.Struct, frozen=True):
    """One month of a subscription: [start_us, end_us), the `index`-th since the anchor."""

    index: int
    start_us: int
    end_us: int


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo:
    """Return the IANA zone of that name. Raises `Invalid` for a name that is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Invalid("timezone", f"timezone: `{name}` is not an IANA time zone; write one like UTC, Europe/Berlin or America/New_York") from None


def period_start(anchor_us: int, timezone: str, index: int) -> int:
    """Return the instant at which period `index` (0 is the anchor's own) begins."""
    if index == 0:
        return anchor_us
    anchor = _local(anchor_us, timezone)
    month0 = anchor.year * 12 + anchor.month - 1 + index
    year, month = divmod(month0, 12)
    day = min(anchor.day, calendar.monthrange(year, month + 1)[1])
    return instant_us(anchor.replace(year=year, month=month + 1, day=day, fold=0))


def period_at(anchor_us: int, timezone: str, at_us: int) -> Period:
    """Return the period that an instant falls into; before the anchor its index is negative."""
    anchor, at = _local(anchor_us, timezone), _local(at_us, timezone)
    index = (at.year - anchor.year) * 12 + at.month - anchor.month
    while period_start(anchor_us, timezone, index) > at_us:
        index -= 1
    while period_start(anchor_us, timezone, index + 1) <= at_us:
        index += 1
    return Period(index, period_start(anchor_us, timezone, index), period_start(anchor_us, timezone, index + 1))


def period_on(anchor_us: int, timezone: str, day: date) -> Period | None:
    """Return the period that begins on a calendar day of the zone; None where none does."""
    period = period_at(anchor_us, timezone, midnight(day + timedelta(days=1), timezone) - 1)
    return period if day_of(period.start_us, timezone) == day else None


def prorate(amount_ncr: int, period: Period, now_us: int) -> int:
    """Return the part of a period's amount that falls to what is left of the period at an instant: never more than the whole, rounded down to the ncr."""
    left_us = min(max(0, period.end_us - now_us), period.end_us - period.start_us)
    return amount_ncr * left_us // (period.end_us - period.start_us)


def day_of(at_us: int, timezone: str) -> date:
    """Return the calendar day on which an instant falls in a zone."""
    return _local(at_us, timezone).date()


def wall_clock(at_us: int, timezone: str) -> str:
    """Write an instant as a zone's clock shows it, to the minute, with the zone's name: 2026-12-10 00:00 Europe/Berlin."""
    return f"{_local(at_us, timezone):%Y-%m-%d %H:%M} {timezone}"


def day_span(at_us: int, timezone: str) -> tuple[int, int]:
    """Return [start_us, end_us) of the calendar day around an instant: 23 to 25 hours where the clock changes."""
    day = day_of(at_us, timezone)
    return midnight(day, timezone), midnight(day + timedelta(days=1), timezone)


def day_begin(day: str, timezone: str) -> int:
    """Return the instant at which a calendar day, written YYYY-MM-DD, begins in a zone."""
    return midnight(date.fromisoformat(day), timezone)


def month_span(month: str, timezone: str) -> tuple[int, int]:
    """Return [start_us, end_us) of a calendar month written YYYY-MM. Raises `Invalid` for any other text."""
    match = re.fullmatch(r"(\d{4})-(0[1-9]|1[0-2])", month, re.ASCII)
    if match is None or not 1970 <= int(match[1]) <= 9000:
        raise Invalid("month", f"month: `{month}` is not a month; write it like 2026-11")
    first = date(int(match[1]), int(match[2]), 1)
    after = first + timedelta(days=calendar.monthrange(first.year, first.month)[1])
    return midnight(first, timezone), midnight(after, timezone)


def midnight(day: date, timezone: str) -> int:
    """Return the instant at which a calendar day begins in a zone."""
    return instant_us(datetime.combine(day, time(), zone(timezone)))


def _local(at_us: int, timezone: str) -> datetime:
    return (_EPOCH + timedelta(microseconds=at_us)).astimezone(zone(timezone))


def instant_us(local: datetime) -> int:
    """Turn an aware instant into epoch microseconds, exactly."""
    return (local.astimezone(UTC) - _EPOCH) // _MICROSECOND
