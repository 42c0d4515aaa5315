"""When a plan's fee is earned: as the credits that it bought are used, the rest when its period ends. Pure.

    a credit that grants paid earns      fee / credits the plan gave for the period, until the fee is earned
    the end of the period earns          what is left of the fee: the allowance that nobody used, or that repaid debt

A fee is earned once, whatever spans a report is cut into: what a span earns is what was earned by its end less what was earned by its start.
"""

from collections.abc import Iterable, Iterator

import msgspec

from billing.grants.periods import period_at
from billing.plans.terms import PlanTerms, Subscription

FEE_US_MAX = 32 * 86_400_000_000  # a period is no longer, with the hour that a clock may go back


class Fee(msgspec.Struct, frozen=True, kw_only=True):
    """A plan's fee (an amount, see `amounts`) for the period [start_us, end_us) of a subscription, and the credits (ncr) that the plan gave for it."""

    subscription: str
    plan: str
    start_us: int
    end_us: int
    amount: int
    currency: str
    credits_ncr: int = 0

    def earned(self, covered_ncr: int) -> int:
        """Return how much is earned when grants have paid so much of the period's use; all of it only by the end where the plan gives no credits."""
        return self.amount * min(covered_ncr, self.credits_ncr) // self.credits_ncr if self.credits_ncr else 0


def periods_of(
    subscriptions: Iterable[tuple[Subscription, PlanTerms]], timezone: str, start_us: int, end_us: int
) -> Iterator[tuple[Subscription, PlanTerms, int, int]]:
    """Yield (subscription, its terms, start_us, end_us) of each period for which a fee is due and that overlaps a span of time, oldest first.

    A period's fee is the one of the plan that the tenant is on when it begins: a change of plan in its course gives credits and costs nothing by itself.
    """
    for subscription, terms in subscriptions:
        if subscription.anchor_us is None:
            continue  # its months begin with the first request
        first = max(subscription.started_us, subscription.anchor_us, start_us - FEE_US_MAX)
        period = period_at(subscription.anchor_us, timezone, first)
        while period.start_us < end_us and (subscription.ended_us is None or period.start_us < subscription.ended_us):
            if period.end_us > start_us and period.start_us >= max(subscription.started_us, subscription.anchor_us):
                yield subscription, terms, period.start_us, period.end_us
            period = period_at(subscription.anchor_us, timezone, period.end_us)
