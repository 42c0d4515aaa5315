"""How a backend's slots are shared out over the processes that use it. Pure: every process computes the same from the same notes.

Each has one slot at least. Then what their fast requests need is filled, evenly from below (max-min fair), then what their slow ones need,
and what is left is spread evenly, as room for what comes. So a slow request somewhere takes no slot that a fast one elsewhere could use.

A process takes less at once, and more only as far as the others say that they have less (`claim`): what one gives up and another takes is
never both of theirs, but for requests that still run.
"""

from collections.abc import Mapping
from typing import NamedTuple

SLOTS_MIN = 1  # a process with none would have its requests wait for the next beat, or for ever


class Need(NamedTuple):
    """How many slots a process could use now, by lane: requests that run, and those that wait."""

    fast: int = 0
    slow: int = 0


def apportion(slots: int, needs: Mapping[str, Need]) -> dict[str, int]:
    """Share out a backend's slots over processes, by id: one each, then by fast need, by slow need, and the rest evenly.

    The shares add up to `slots`, or to the number of processes where there are more of those.
    """
    names = sorted(needs)
    shares = dict.fromkeys(names, SLOTS_MIN)
    left = slots - len(names)
    if left <= 0:
        return shares
    left -= _fill(shares, {name: needs[name].fast - SLOTS_MIN for name in names}, left)
    left -= _fill(shares, {name: needs[name].slow - max(0, shares[name] - needs[name].fast) for name in names}, left)
    each, over = divmod(left, len(names)) if names else (0, 0)
    for index, name in enumerate(names):
        shares[name] += each + (index < over)
    return shares


def _fill(shares: dict[str, int], wants: Mapping[str, int], left: int) -> int:
    """Give what is left to those who want it, evenly from below; of those who get less than they want the first by id get one more. Return how much."""
    before = left
    hungry = sorted((want, name) for name, want in wants.items() if want > 0)
    while hungry and hungry[0][0] * len(hungry) <= left:  # the least want can be filled for all
        want, name = hungry.pop(0)
        shares[name] += want
        left -= want
    each, over = divmod(left, len(hungry)) if hungry else (0, 0)
    for index, name in enumerate(sorted(name for _want, name in hungry)):
        shares[name] += each + (index < over)
        left -= each + (index < over)
    return before - left


def claim(due: int, held: int, left: int) -> int:
    """Return how many slots a process takes that is due so many, has `held` so far, and finds `left` that no other has claimed.

    Less at once, more only out of what is left. Where each decides in the transaction that writes its claim, one after the other, the claims never
    come to more than the slots (or to one for each process). Two that decide at the same instant may both take what is left; at its next beat each
    is due less.
    """
    return max(SLOTS_MIN, due if due <= held else max(held, min(due, left)))
