"""Shares by weight and in a smooth order (nginx's smooth weighted round robin): weights 5 and 1 give a a b a a a, never five in a row and then one."""

from collections.abc import Sequence

from backends.replica import Replica


class Weighted:
    """Remembers what each replica is owed."""

    def __init__(self) -> None:
        self._owed: dict[str, int] = {}

    def pick(self, candidates: Sequence[Replica]) -> Replica:
        """Choose the one that is owed most; a replica that comes back starts with nothing owed."""
        owed = {replica.name: self._owed.get(replica.name, 0) + replica.weight for replica in candidates}
        best = max(candidates, key=lambda replica: owed[replica.name])
        owed[best.name] -= sum(replica.weight for replica in candidates)
        self._owed = owed
        return best


def build() -> Weighted:
    """Make one."""
    return Weighted()
