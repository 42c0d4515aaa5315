"""How a tenant stands with its credits, and which lane that buys.

FAST -> WARN (80 % used) -> GLIDE (the last 10 %) -> SLOW (none left) -> CAPPED. The lane follows from the standing alone, so no
setting can put a slow request ahead of a fast one.
"""

from enum import StrEnum
from typing import Literal, NamedTuple

from billing.credits.account import Account
from billing.credits.purse import Claims
from billing.plans.terms import Terms


class Word(StrEnum):
    """An enumeration whose members have their text as a plain attribute: `value` of an enumeration is a property that takes three calls."""

    text: str

    def __init__(self, text: str) -> None:
        self.text = text


class Standing(Word):
    """A tenant's standing, from its live balance with holds counted as used."""

    FAST = "fast"
    WARN = "warn"
    GLIDE = "glide"
    SLOW = "slow"
    CAPPED = "capped"


class Lane(Word):
    """Which queue a request waits in."""

    text: Literal["fast", "slow"]

    FAST = "fast"
    SLOW = "slow"


FAST, SLOW = Lane.FAST, Lane.SLOW  # looked up once: a member by its enumeration's name costs ten times a global


class Past(NamedTuple):
    """What becomes of a request that its credits do not cover: the lane it takes (None: it is refused), and why.

    `reason` with a lane: overage, credits_exhausted, credits_too_few; without: block, set_aside (for requests that run), slow_daily_cap.
    """

    lane: Lane | None
    reason: str


SET_ASIDE, DAY_SPENT = "set_aside", "slow_daily_cap"
FAST_PRIORITY = 0  # vLLM: lower runs earlier, and this is what it gives to whoever names none
WARN_PERCENT = 20
GLIDE_PERCENT = 10
_IN_CREDIT = Standing.FAST
WEIGHT_UNIT = 1024  # a plan's weight of 1 in the queue's integers, so that a weight between two still has its place


def standing(free_ncr: int, limit_ncr: int, *, capped: bool = False, glide_percent: int = GLIDE_PERCENT) -> Standing:
    """Tell a standing from what is free of what was granted (ncr). `capped`: past the credits this tenant is refused."""
    if free_ncr <= 0:
        return Standing.CAPPED if capped else Standing.SLOW
    if 100 * free_ncr <= glide_percent * limit_ncr:
        return Standing.GLIDE
    return Standing.WARN if 100 * free_ncr <= WARN_PERCENT * limit_ncr else _IN_CREDIT


def standing_of(account: Account, claims: Claims, terms: Terms, now_us: int) -> Standing:
    """Tell how a tenant stands now with what requests of one kind may use, on the terms of its plan."""
    capped = terms.on_exhausted == "block" or day_is_spent(account, terms, now_us)
    return standing(claims.unheld_ncr, claims.limit_ncr, capped=capped, glide_percent=terms.glide_percent)


def weight_of(lane: Lane, free_ncr: int, limit_ncr: int, terms: Terms) -> int:
    """Return what a request weighs in its lane's queue, in 1/WEIGHT_UNIT of a plan's weight.

    Over the last `glide_percent` of what was granted (ncr) it falls from the plan's weight with credits to that without, as AWS does with
    burst credits: w_slow + (w_fast - w_slow) * free / (glide * limit). So nothing drops at once, and no slow request weighs more than a fast one
    of the same plan. A plan that invoices what is past the credits keeps its weight: it never comes to the slow lane.
    """
    if terms.on_exhausted == "overage":
        return terms.weight * WEIGHT_UNIT
    slow = min(terms.slow_weight, terms.weight) * WEIGHT_UNIT
    if lane is SLOW:
        return slow
    full = terms.weight * WEIGHT_UNIT
    glide = terms.glide_percent * limit_ncr  # in hundredths of an ncr
    if 100 * free_ncr >= glide:
        return full
    return slow + (full - slow) * 100 * max(0, free_ncr) // glide if glide else slow


def day_is_spent(account: Account, terms: Terms, now_us: int) -> bool:
    """Tell whether the slow lane's daily cap is reached."""
    cap_ncr = terms.slow_daily_cap_ncr
    return terms.on_exhausted == "slow" and cap_ncr is not None and account.spent_today_ncr(now_us) >= cap_ncr


def past_credits(terms: Terms, *, unheld_ncr: int, hold_ncr: int, day_spent: bool) -> Past:
    """Decide, as the plan says, about a request that may cost `hold_ncr` where `unheld_ncr` is left beside the holds. What costs nothing is served."""
    if terms.on_exhausted == "overage":
        return Past(Lane.FAST, "overage")
    if hold_ncr and terms.on_exhausted == "block":
        return Past(None, SET_ASIDE if unheld_ncr >= hold_ncr else "block")
    if hold_ncr and day_spent:
        return Past(None, DAY_SPENT)
    return Past(Lane.SLOW, "credits_exhausted" if unheld_ncr <= 0 else "credits_too_few")


def seats_of(lane: Lane, terms: Terms) -> int | None:
    """Return how many of a tenant's requests may run at once in a lane; None: any number. Without credits never more than with them."""
    if lane is FAST:
        return terms.fast_concurrency
    return terms.slow_concurrency if terms.fast_concurrency is None else min(terms.slow_concurrency, terms.fast_concurrency)


def priority_of(lane: Lane, terms: Terms, waited_us: int, age_us: int) -> int:
    """Return the place that a request asks for inside an engine that schedules by priority: lower runs earlier.

    The engine starves the low without end, so a slow request's place improves with what it has waited here, in a straight line to the first behind
    all fast ones at `age_us` (microseconds). A slow one never comes to a fast one's.
    """
    if lane is Lane.FAST:
        return FAST_PRIORITY
    first, last = FAST_PRIORITY + 1, max(FAST_PRIORITY + 1, terms.slow_priority)
    return last if age_us <= 0 else last - (last - first) * min(max(0, waited_us), age_us) // age_us


def lane_of(now: Standing, terms: Terms) -> Lane:
    """Tell which lane a standing buys; a plan with overage pays for the fast one."""
    return Lane.SLOW if now in (Standing.SLOW, Standing.CAPPED) and terms.on_exhausted != "overage" else Lane.FAST
