"""Which percentages of what a tenant was granted its use has reached. Pure.

Limit and use are those a client is shown: the grants of the tenant's own purse in effect when the latest request began, and of them what is gone, debt
included. A percentage is reached once in a period; credits that come later take it below again, and a second time is not told.
"""

from collections.abc import Iterable, Sequence

import msgspec

from billing.credits.burndown import Burn, usable
from billing.grants.grant import GENERAL, Grant, purse_of

PERCENTS = (50, 80, 100)


class Threshold(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's use reached `percent` of the limit in the period that began at `period_us` (0: it has none), seen at `at_us`. Amounts in ncr."""

    tenant_id: str
    period_us: int
    percent: int
    at_us: int
    used_ncr: int
    limit_ncr: int


class Noticed(msgspec.Struct, frozen=True):
    """How far the books have looked: the highest percentage written for a period, and all below it. An older period says nothing of a later one."""

    period_us: int = 0
    percent: int = 0


def reached(limit_ncr: int, used_ncr: int) -> list[int]:
    """Return the percentages that this use has reached, ascending; none where nothing was granted."""
    return [percent for percent in PERCENTS if limit_ncr > 0 and used_ncr * 100 >= limit_ncr * percent]


def crossed(
    tenant_id: str, requests: Iterable[tuple[int | None, int]], grants: Sequence[Grant], burn: Burn, *, noticed: Noticed, now_us: int
) -> tuple[list[Threshold], Noticed]:
    """Return what requests (period, start) may have reached beyond what was noticed, given the tenant's grants and what they were burnt down to.

    Each is looked at by its period, at the start of the period's latest request. What is returned may be written already for a period other than the
    noticed one: the books keep the first.
    """
    latest: dict[int, int] = {}
    for period_us, started_us in requests:
        period = period_us or 0
        if started_us > latest.get(period, -1):
            latest[period] = started_us
    found: list[Threshold] = []
    for period, at_us in sorted(latest.items()):
        own = [grant for grant in grants if usable(grant, at_us) and purse_of(grant) == GENERAL]
        limit_ncr = sum(grant.amount_ncr for grant in own)
        used_ncr = limit_ncr - sum(burn.left[grant.id] for grant in own) + burn.debt_ncr
        percents = reached(limit_ncr, used_ncr)
        if not percents or (noticed.period_us == period and percents[-1] <= noticed.percent):
            continue
        written = noticed.percent if noticed.period_us == period else 0
        found += [
            Threshold(tenant_id=tenant_id, period_us=period, percent=percent, at_us=now_us, used_ncr=used_ncr, limit_ncr=limit_ncr)
            for percent in percents
            if percent > written
        ]
        if period >= noticed.period_us:
            noticed = Noticed(period, percents[-1])
    return found, noticed
