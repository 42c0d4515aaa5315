"""Entries of many things over time, of which exactly one applies to a thing at an instant, or none; pure.

The one that applies is the one with the greatest (effective_us, id) not after the instant. A timeline is never changed: a new one
takes its place.
"""

from bisect import bisect_right
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Timeline(Generic[K, V]):
    """What applies to each key from which instant on; a value of None says that nothing does."""

    def __init__(self, entries: Iterable[tuple[K, tuple[int, int], V | None]]) -> None:
        """Take (key, (effective_us, id), value) in any order."""
        self._starts: dict[K, list[int]] = {}
        self._values: dict[K, list[V | None]] = {}
        for key, start, value in sorted(entries, key=lambda entry: entry[1]):
            self._starts.setdefault(key, []).append(start[0])
            self._values.setdefault(key, []).append(value)

    def find(self, key: K, now_us: int) -> V | None:
        """Return what applies to a key at an instant; None when nothing does."""
        starts = self._starts.get(key)
        index = bisect_right(starts, now_us) if starts else 0
        return self._values[key][index - 1] if index else None
