"""Periods and days partition time, for every anchor, in every kind of zone, across changes of the clock."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import Invalid
from billing.grants.periods import day_of, day_span, month_span, period_at, period_start

# Whole hours, half hours, three quarters; changes at midnight; a day that never was (Apia, 30 Dec 2011); none at all.
ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "America/Havana", "Asia/Kathmandu", "Australia/Lord_Howe", "Asia/Beirut", "Pacific/Apia", "America/Sao_Paulo"]
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
INSTANTS = st.datetimes(datetime(1999, 1, 1), datetime(2045, 1, 1), timezones=st.just(UTC)).map(lambda at: (at - EPOCH) // timedelta(microseconds=1))


def us(year: int, month: int, day: int, hour: int = 0, zone: str = "UTC") -> int:
    return (datetime(year, month, day, hour, tzinfo=ZoneInfo(zone)).astimezone(UTC) - EPOCH) // timedelta(microseconds=1)


@given(INSTANTS, ZONES, INSTANTS)
def test_every_instant_is_in_exactly_the_period_found(anchor: int, zone: str, at: int) -> None:
    period = period_at(anchor, zone, at)
    assert period.start_us <= at < period.end_us
    assert period.start_us == period_start(anchor, zone, period.index)
    assert period.end_us == period_start(anchor, zone, period.index + 1)


@given(INSTANTS, ZONES, st.integers(-300, 300))
def test_periods_follow_each_other_without_gap_or_overlap(anchor: int, zone: str, index: int) -> None:
    start = period_start(anchor, zone, index)
    end = period_start(anchor, zone, index + 1)
    assert start < end
    assert period_at(anchor, zone, start).index == index
    assert period_at(anchor, zone, end - 1).index == index
    assert period_at(anchor, zone, end).index == index + 1


@given(st.integers(1, 31), ZONES, st.integers(1, 240))
def test_a_period_begins_on_the_anchors_day_or_the_months_last(day: int, zone: str, index: int) -> None:
    anchor = us(2012, 1, day, 12, zone)
    began = day_of(period_start(anchor, zone, index), zone)
    last = (began.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
    assert began.day == min(day, last.day)
    assert (began.year - 2012) * 12 + began.month - 1 == index


def test_a_clamped_month_does_not_move_the_ones_after_it() -> None:
    days = [day_of(period_start(us(2026, 1, 31), "UTC", index), "UTC").isoformat() for index in range(5)]
    assert days == ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30", "2026-05-31"]
    assert day_of(period_start(us(2028, 1, 31), "UTC", 1), "UTC").isoformat() == "2028-02-29"


def test_a_time_that_the_clock_skips_or_repeats_is_one_instant() -> None:
    skipped = period_start(us(2026, 2, 28, 2, "Europe/Berlin") + 30 * 60 * 10**6, "Europe/Berlin", 1)  # 28 Mar 02:30 exists; 29 Mar does not
    assert skipped == us(2026, 3, 28, 1) + 30 * 60 * 10**6
    in_the_gap = period_start(us(2026, 1, 29, 2, "Europe/Berlin") + 30 * 60 * 10**6, "Europe/Berlin", 2)
    assert in_the_gap == us(2026, 3, 29, 1) + 30 * 60 * 10**6  # 02:30 read with the offset before the change
    twice = period_start(us(2026, 9, 25, 2, "Europe/Berlin"), "Europe/Berlin", 1)
    assert twice == us(2026, 10, 25, 0)  # the first of the two 02:00


def test_an_anchor_in_the_second_of_two_equal_hours_is_its_own_start() -> None:
    anchor = us(2026, 10, 25, 1) + 15 * 60 * 10**6  # 02:15 in Berlin for the second time
    assert period_at(anchor, "Europe/Berlin", anchor).start_us == anchor
    assert period_at(anchor, "Europe/Berlin", anchor).index == 0
    assert period_at(anchor, "Europe/Berlin", anchor - 1).index == -1


@given(INSTANTS, ZONES)
def test_days_partition_time(at: int, zone: str) -> None:
    start, end = day_span(at, zone)
    assert start <= at < end
    assert day_of(start, zone) == day_of(at, zone) == day_of(end - 1, zone)
    assert day_of(end, zone) > day_of(at, zone)


@given(ZONES, st.integers(1999, 2044), st.integers(1, 12))
def test_months_partition_time(zone: str, year: int, month: int) -> None:
    start, end = month_span(f"{year}-{month:02d}", zone)
    after = f"{year + month // 12}-{month % 12 + 1:02d}"
    assert start < end == month_span(after, zone)[0]
    assert day_of(end - 1, zone).month == month


@pytest.mark.parametrize("month", ["2026-13", "2026-1", "26-11", "2026-11-01", "", "1969-12", "٢٠٢٦-11"])
def test_a_month_written_otherwise_is_refused(month: str) -> None:
    with pytest.raises(Invalid, match="2026-11"):
        month_span(month, "UTC")
