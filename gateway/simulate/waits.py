"""How long requests waited, as a distribution that takes the same memory for ten requests and for ten million. Pure.

Unlike the gateway's own (`lanes/waits.py`), which is of the last minutes, this is of everything, finer, and knows the longest.
"""

FINE = 7  # bits of a wait that are kept: buckets are at most 1/64 of their wait wide


class Waits:
    """Counts of waits (microseconds) in buckets that grow with the wait. Percentiles are at most 1.6 % too high; the longest is exact."""

    __slots__ = ("_buckets", "count", "longest_us", "sum_us")

    def __init__(self) -> None:
        self.count = 0
        self.sum_us = 0
        self.longest_us = 0
        self._buckets: dict[int, int] = {}

    def add(self, wait_us: int) -> None:
        """Count one."""
        self.count += 1
        self.sum_us += wait_us
        if wait_us > self.longest_us:
            self.longest_us = wait_us
        shift = max(0, wait_us.bit_length() - FINE)
        bucket = (shift << FINE) | (wait_us >> shift)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    def merge(self, other: "Waits") -> None:
        """Count all that another has counted."""
        self.count += other.count
        self.sum_us += other.sum_us
        self.longest_us = max(self.longest_us, other.longest_us)
        for bucket, count in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + count

    def percentile(self, percent: int) -> int | None:
        """Return the wait that so many percent did not exceed; None where there was none."""
        wanted = -(-self.count * percent // 100)
        for upto_us, seen in self.steps():
            if seen >= wanted:
                return upto_us
        return None

    def steps(self) -> list[tuple[int, int]]:
        """Return (wait, how many waited no longer) for each wait that occurred, rising: the cumulative distribution."""
        seen, steps = 0, []
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            shift = bucket >> FINE
            upto_us = (((bucket & ((1 << FINE) - 1)) + 1) << shift) - 1
            steps.append((min(upto_us, self.longest_us), seen))
        return steps
