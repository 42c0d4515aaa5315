"""What a trial keeps of a lane beside its queue: its limits, and what a fair share would be. Pure."""

import msgspec

from gateway.lanes.queue import SCALE

SET_ASIDE_US = 1_000_000  # what is left of the credits is held by requests that run


class LaneRules(msgspec.Struct, frozen=True, kw_only=True):
    """A lane's limits: how many may wait, how long, and after how long one that got nothing is next (microseconds)."""

    depth_max: int
    wait_us: int
    age_us: int | None


class Fluid:
    """What a lane's waiters would get if every token were split among them by weight: `virtual` rises by tokens over the sum of their weights (x SCALE)."""

    __slots__ = ("virtual", "weight")

    def __init__(self) -> None:
        self.virtual = self.weight = 0

    def granted(self, tokens: int) -> None:
        """Split what one of them was granted."""
        self.virtual += tokens * SCALE // self.weight
