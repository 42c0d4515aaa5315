"""Rate limits of requests and tokens per minute, as leaky buckets that refill smoothly; pure.

A bucket holds `limit` units and refills within a minute. A request takes one unit at its start. Tokens are taken when they are
known, at settle: a tenant in debt to its bucket waits until it has refilled, so the limit holds on average to the token without
anybody guessing lengths beforehand.

A limit that N processes share without talking is kept by each as the whole bucket, from which every unit costs N: so its rate is
exactly a Nth, however small the limit, and nothing is refilled or lost when N changes.
"""

MINUTE_US = 60_000_000


class Bucket:
    """`limit` units a minute, full at first. `level` may fall below zero through `spend`.

    `processes` is N above, set by whoever knows it; `name` is what the processes call it among themselves. What a bucket answers is
    what this process may take.
    """

    __slots__ = ("_at_us", "_micro", "limit", "name", "processes")

    def __init__(self, limit: int, now_us: int) -> None:
        self.limit = limit
        self.processes = 1
        self.name = ""
        self._micro = limit * MINUTE_US  # units x MINUTE_US, so that the refill is integer arithmetic
        self._at_us = now_us

    def ready(self, now_us: int) -> bool:
        """Tell whether one unit is there."""
        self._refill(now_us)
        return self._micro >= self._needed()

    def take(self, now_us: int) -> bool:
        """Take one unit if one is there."""
        if not self.ready(now_us):
            return False
        self._micro -= self.processes * MINUTE_US
        return True

    def spend(self, units: int, now_us: int) -> None:
        """Take units that were used already."""
        self._refill(now_us)
        self._micro -= units * self.processes * MINUTE_US

    def adopt(self, micro: int, now_us: int) -> None:
        """Believe the bucket that the processes share: it holds `micro` (units x MINUTE_US)."""
        self._micro = min(self.limit * MINUTE_US, micro)
        self._at_us = max(self._at_us, now_us)

    def remaining(self, now_us: int) -> int:
        """Whole units left, at least 0."""
        if not self.ready(now_us):
            return 0
        return max(1, self._micro // (self.processes * MINUTE_US))

    def missing(self, now_us: int) -> int:
        """Units, rounded up, that were taken here and have not refilled."""
        self._refill(now_us)
        return -(-(self.limit * MINUTE_US - self._micro) // (self.processes * MINUTE_US))

    def wait_us(self, now_us: int) -> int:
        """Microseconds until one unit is there."""
        self._refill(now_us)
        return max(0, -(-(self._needed() - self._micro) // self.limit))

    def full_in_us(self, now_us: int) -> int:
        """Microseconds until the bucket is full again."""
        self._refill(now_us)
        return -(-(self.limit * MINUTE_US - self._micro) // self.limit)

    def _needed(self) -> int:
        """A limit below N units is taken from when it is full: the debt that this leaves is what keeps its rate."""
        return (self.processes if self.processes < self.limit else self.limit) * MINUTE_US

    def _refill(self, now_us: int) -> None:
        if now_us > self._at_us:  # a clock that steps back refills nothing
            self._micro = min(self.limit * MINUTE_US, self._micro + (now_us - self._at_us) * self.limit)
            self._at_us = now_us
