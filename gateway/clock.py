"""The only place that asks what time it is.

Instants are UTC epoch microseconds as integers, in memory as in the database; the monotonic clock, in seconds, is for
measuring how long something took. Everything else is handed a `Clock`, so that a test can hold time in its hand.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from time import clock_gettime, monotonic, time_ns
from typing import Protocol


class Clock(Protocol):
    """Something that tells the time."""

    def now_us(self) -> int:
        """Return the instant as UTC epoch microseconds."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds since an arbitrary instant; never goes back."""
        ...


# A lease that ended while the machine was suspended has ended: the usual monotonic clock would not know.
BOOT: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class SystemClock:
    """The machine's own clock."""

    __slots__ = ("monotonic_s",)

    def __init__(self) -> None:
        # Never goes back, and goes on while the machine sleeps where that can be told (Linux). No function of ours, for each request asks five times.
        self.monotonic_s: Callable[[], float] = monotonic if BOOT is None else partial(clock_gettime, BOOT)

    def now_us(self) -> int:
        """Return the instant as UTC epoch microseconds."""
        return time_ns() // 1000


def format_instant(instant_us: int) -> str:
    """Write an instant (UTC epoch microseconds) in RFC 3339, to the second: 2026-11-01T00:00:00Z."""
    return datetime.fromtimestamp(instant_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
