"""How long requests waited for a slot lately: counts in buckets whose bounds grow by an eighth of a power of two. Pure.

A quantile is within 7 % of the true one, and nothing under a millisecond is told from no wait at all. The window slides by slices, so it
covers between nine tenths of its length and all of it. Counts of several processes add up.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

WINDOW_US = 300_000_000
SLICES = 10
SLICE_US = WINDOW_US // SLICES
NONE_US = 1024  # a shorter wait is none: bucket 0
_FIRST = 10  # bits below the first bucket's bound: 1024 = 2 ** 10
_PARTS = 3  # bits that tell the eighths of an octave
_LAST = 8 * 20  # eighteen minutes, and what is longer

Counts = Mapping[int, int]  # bucket -> how many waits


class Waits:
    """The waits of one lane over the last five minutes. Instants and waits in microseconds; `now_us` may be of any clock that goes forward."""

    __slots__ = ("_ends_us", "_now", "_slices")

    def __init__(self) -> None:
        self._now: dict[int, int] = {}
        self._slices: deque[dict[int, int]] = deque([self._now], maxlen=SLICES)
        self._ends_us = 0

    def add(self, wait_us: int, now_us: int) -> None:
        """Count one wait."""
        if now_us >= self._ends_us:
            self._slide(now_us)
        bucket = 0
        if wait_us >= NONE_US:
            octave = wait_us.bit_length() - 1
            bucket = min(_LAST, ((octave - _FIRST) << _PARTS) + (wait_us >> (octave - _PARTS)) - 7)  # 8..15 of its octave
        now = self._now
        now[bucket] = now.get(bucket, 0) + 1

    def counts(self, now_us: int) -> dict[int, int]:
        """Return the counts of the window that ends now."""
        if now_us >= self._ends_us:
            self._slide(now_us)
        return merge(self._slices)

    def quantile(self, q: float, now_us: int) -> int | None:
        """Return the wait (microseconds) that a part `q` of the requests did not exceed; None where there were none."""
        return quantile_of(self.counts(now_us), q)

    def written(self, now_us: int) -> list[int]:
        """Write the counts as a flat list: bucket, count, bucket, count."""
        return [number for pair in sorted(self.counts(now_us).items()) for number in pair]

    def _slide(self, now_us: int) -> None:
        missed = 1 + (now_us - self._ends_us) // SLICE_US
        for _ in range(min(missed, SLICES)):
            self._now = {}
            self._slices.append(self._now)
        self._ends_us += missed * SLICE_US


def read(written: Sequence[int]) -> dict[int, int]:
    """Read counts that `Waits.written` wrote; a count without its bucket is left out."""
    return dict(zip(written[::2], written[1::2], strict=False))


def merge(several: Iterable[Counts]) -> dict[int, int]:
    """Add up counts."""
    total: dict[int, int] = {}
    for counts in several:
        for bucket, count in counts.items():
            total[bucket] = total.get(bucket, 0) + count
    return total


def quantile_of(counts: Counts, q: float) -> int | None:
    """Return the wait in microseconds that a part `q` of the counted ones did not exceed: the middle of its bucket; None where none was counted."""
    left = q * sum(counts.values())
    for bucket in sorted(counts):
        left -= counts[bucket]
        if left <= 0 and counts[bucket]:
            return _middle_us(bucket)
    return None


def _middle_us(bucket: int) -> int:
    if bucket <= 0:
        return 0
    octave, part = divmod(bucket - 1, 1 << _PARTS)
    width_us = 1 << (_FIRST + octave - _PARTS)
    return (part + (1 << _PARTS)) * width_us + width_us // 2
