"""Events added up by tenant, calendar day and model: the lines that exports, invoices and finance read. Pure.

Nothing is rounded: credits are integers, and what overage costs is an exact decimal. So the lines sum to the events, always.
"""

from collections.abc import Callable, Iterable
from decimal import Decimal

import msgspec

from billing.meter import BUCKETS, COUNTING_BUCKETS
from billing.money import add_exact
from billing.usage.event import UsageEvent, excess_ncr, overage_ncr

# Columns named by what they count; the bucket `requests` counts what is priced per request, and is not the number of requests.
UNIT_COLUMNS = {bucket: bucket if bucket in COUNTING_BUCKETS else f"{bucket}_tokens" for bucket in BUCKETS} | {"requests": "request_units"}


class DailyUsage(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant's use of one model on one day of its own calendar.

    charge = covered (paid by grants) + debt (owed to the next grants) + excess (given away) + overage (invoiced), in ncr. `units` has every
    bucket; what nobody reported adds nothing, and `unreported` counts the answered requests whose usage was estimated or partial.
    """

    tenant_id: str
    day: str
    model: str
    requests: int
    unreported: int
    units: dict[str, int]
    charge_ncr: int
    covered_ncr: int
    debt_ncr: int
    excess_ncr: int
    overage_ncr: int
    currency: str
    overage_exact: Decimal


def unit_columns(line: DailyUsage) -> dict[str, str | int]:
    """Return a line's units under the names that exports give them."""
    return {UNIT_COLUMNS[bucket]: count for bucket, count in line.units.items()}


class _Sum:
    """A line while it grows."""

    __slots__ = ("charge", "covered", "debt", "excess", "money", "overage", "requests", "units", "unreported")

    def __init__(self) -> None:
        self.requests = self.unreported = self.charge = self.covered = self.debt = self.excess = self.overage = 0
        self.units = dict.fromkeys(BUCKETS, 0)
        self.money = Decimal(0)

    def add(self, event: UsageEvent, covered_ncr: int, money: Decimal) -> None:
        self.requests += 1
        self.unreported += event.source != "reported" and event.outcome != "failed"
        for bucket in BUCKETS:
            self.units[bucket] += getattr(event.meter, bucket) or 0
        self.charge += event.charge_ncr
        self.covered += covered_ncr
        self.debt += event.cover_ncr - covered_ncr
        self.excess += excess_ncr(event)
        self.overage += overage_ncr(event)
        self.money = add_exact(self.money, money)


def add_up(
    tenant_id: str, currency: str, events: Iterable[tuple[UsageEvent, int]], day_of: Callable[[int], str], price: Callable[[UsageEvent], Decimal]
) -> list[DailyUsage]:
    """Add one tenant's (event, covered_ncr) up by day and model, in that order. `price` says what an event's overage costs, in major units, exact."""
    sums: dict[tuple[str, str], _Sum] = {}
    for event, covered_ncr in events:
        line = sums.setdefault((day_of(event.started_us), event.model), _Sum())
        line.add(event, covered_ncr, price(event) if overage_ncr(event) else Decimal(0))
    return [
        DailyUsage(
            tenant_id=tenant_id,
            day=day,
            model=model,
            requests=line.requests,
            unreported=line.unreported,
            units=line.units,
            charge_ncr=line.charge,
            covered_ncr=line.covered,
            debt_ncr=line.debt,
            excess_ncr=line.excess,
            overage_ncr=line.overage,
            currency=currency,
            overage_exact=line.money,
        )
        for (day, model), line in sorted(sums.items())
    ]
