"""The replica with the fewest exchanges under way for its weight; among equals each in turn, so that an idle pool is used evenly."""

from collections.abc import Sequence

from backends.replica import Replica


class LeastLoaded:
    """Counts turns, to be fair among equals."""

    def __init__(self) -> None:
        self._turn = 0

    def pick(self, candidates: Sequence[Replica]) -> Replica:
        """Choose the least loaded: inflight over weight, compared in integers."""
        self._turn += 1
        count = len(candidates)
        start = self._turn % count
        best = candidates[start]
        for offset in range(1, count):
            other = candidates[(start + offset) % count]
            if other.inflight * best.weight < best.inflight * other.weight:
                best = other
        return best


def build() -> LeastLoaded:
    """Make one."""
    return LeastLoaded()
