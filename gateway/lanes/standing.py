"""How a tenant stands with its credits, and which lane that buys.

FAST -> WARN (80 % used) -> GLIDE (the last 10 %) -> SLOW (none left) -> CAPPED. The lane follows from the standing alone, so no
setting can put a slow request ahead of a fast one.
"""

from enum import StrEnum


class Standing(StrEnum):
    """A tenant's standing, from its live balance with holds counted as used."""

    FAST = "fast"
    WARN = "warn"
    GLIDE = "glide"
    SLOW = "slow"
    CAPPED = "capped"


class Lane(StrEnum):
    """Which queue a request waits in."""

    FAST = "fast"
    SLOW = "slow"


WARN_AT_PERCENT = 80
GLIDE_AT_PERCENT = 90


def standing(free_ncr: int, limit_ncr: int, *, slow_today_ncr: int = 0, slow_cap_ncr: int | None = None, blocks: bool = False) -> Standing:
    """Tell a tenant's standing. Amounts in ncr; `slow_cap_ncr` None: no daily cap; `blocks`: the plan refuses past the credits."""
    if free_ncr <= 0:
        capped = blocks or (slow_cap_ncr is not None and slow_today_ncr >= slow_cap_ncr)
        return Standing.CAPPED if capped else Standing.SLOW
    used_percent = 100 - 100 * free_ncr // limit_ncr if limit_ncr > 0 else 0
    if used_percent >= GLIDE_AT_PERCENT:
        return Standing.GLIDE
    return Standing.WARN if used_percent >= WARN_AT_PERCENT else Standing.FAST
