"""How a tenant stands with its credits, and which lane that buys.

FAST -> WARN (80 % used) -> GLIDE (the last 10 %) -> SLOW (none left) -> CAPPED. The lane follows from the standing alone, so no
setting can put a slow request ahead of a fast one.
"""

from enum import StrEnum

from billing.credits.account import Account
from billing.plans.terms import Terms


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


def standing(free_ncr: int, limit_ncr: int, *, capped: bool = False) -> Standing:
    """Tell a standing from what is free of what was granted (ncr). `capped`: past the credits this tenant is refused."""
    if free_ncr <= 0:
        return Standing.CAPPED if capped else Standing.SLOW
    used_percent = 100 - 100 * free_ncr // limit_ncr if limit_ncr > 0 else 0
    if used_percent >= GLIDE_AT_PERCENT:
        return Standing.GLIDE
    return Standing.WARN if used_percent >= WARN_AT_PERCENT else Standing.FAST


def standing_of(account: Account, terms: Terms, now_us: int) -> Standing:
    """Tell how a tenant stands now, on the terms of its plan."""
    return standing(account.free_ncr, account.limit_ncr, capped=terms.on_exhausted == "block" or day_is_spent(account, terms, now_us))


def day_is_spent(account: Account, terms: Terms, now_us: int) -> bool:
    """Tell whether the slow lane's daily cap is reached."""
    cap_ncr = terms.slow_daily_cap_ncr
    return terms.on_exhausted == "slow" and cap_ncr is not None and account.spent_today_ncr(now_us) >= cap_ncr


def lane_of(now: Standing, terms: Terms) -> Lane:
    """Tell which lane a standing buys; a plan with overage pays for the fast one."""
    return Lane.SLOW if now in (Standing.SLOW, Standing.CAPPED) and terms.on_exhausted != "overage" else Lane.FAST
