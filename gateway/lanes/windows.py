"""Rate limits of requests and tokens per minute, as leaky buckets that refill smoothly; pure.

A bucket holds `limit` units and refills within a minute. A request takes one unit at its start. Tokens are taken when they are
known, at settle: a tenant in debt to its bucket waits until it has refilled, so the limit holds on average to the token without
anybody guessing lengths beforehand.
"""

MINUTE_US = 60_000_000


class Bucket:
    """`limit` units a minute, full at first. `level` may fall below zero through `spend`."""

    __slots__ = ("_at_us", "_micro", "limit")

    def __init__(self, limit: int, now_us: int) -> None:
        self.limit = limit
        self._micro = limit * MINUTE_US  # units x MINUTE_US, so that the refill is integer arithmetic
        self._at_us = now_us

    def take(self, now_us: int) -> bool:
        """Take one unit if one is there."""
        self._refill(now_us)
        if self._micro < MINUTE_US:
            return False
        self._micro -= MINUTE_US
        return True

    def spend(self, units: int, now_us: int) -> None:
        """Take units that were used already."""
        self._refill(now_us)
        self._micro -= units * MINUTE_US

    def remaining(self, now_us: int) -> int:
        """Whole units left, at least 0."""
        self._refill(now_us)
        return max(0, self._micro // MINUTE_US)

    def wait_us(self, now_us: int) -> int:
        """Microseconds until one unit is there."""
        self._refill(now_us)
        return max(0, -(-(MINUTE_US - self._micro) // self.limit))

    def full_in_us(self, now_us: int) -> int:
        """Microseconds until the bucket is full again."""
        self._refill(now_us)
        return -(-(self.limit * MINUTE_US - self._micro) // self.limit)

    def _refill(self, now_us: int) -> None:
        if now_us > self._at_us:  # a clock that steps back refills nothing
            self._micro = min(self.limit * MINUTE_US, self._micro + (now_us - self._at_us) * self.limit)
            self._at_us = now_us
