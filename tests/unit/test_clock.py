"""Clocks: the system's, and the one that tests hold."""

from gateway.clock import Clock, SystemClock, format_instant
from tests.clock import START_US, ManualClock


def test_the_system_clock_counts_microseconds_and_never_goes_back() -> None:
    clock: Clock = SystemClock()
    first, then = clock.monotonic_s(), clock.monotonic_s()
    assert then >= first
    assert clock.now_us() > 1_700_000_000_000_000


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock()
    protocol: Clock = clock
    assert protocol.now_us() == protocol.now_us() == START_US
    clock.advance(1.5)
    assert (clock.now_us(), clock.monotonic_s()) == (START_US + 1_500_000, 1.5)


def test_an_instant_is_written_in_utc_to_the_second() -> None:
    assert format_instant(START_US + 999_999) == "2026-11-03T12:00:00Z"
