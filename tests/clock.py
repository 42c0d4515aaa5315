"""A clock that a test holds in its hand: it moves only when told to."""

from datetime import UTC, datetime

START_US = int(datetime(2026, 11, 3, 12, tzinfo=UTC).timestamp()) * 1_000_000


class ManualClock:
    """Stands still at `at_us` (UTC epoch microseconds) until `advance`."""

    def __init__(self, at_us: int = START_US) -> None:
        self.at_us = at_us
        self._start_us = at_us

    def now_us(self) -> int:
        return self.at_us

    def monotonic_s(self) -> float:
        return (self.at_us - self._start_us) / 1_000_000

    def advance(self, seconds: float) -> None:
        self.at_us += round(seconds * 1_000_000)
