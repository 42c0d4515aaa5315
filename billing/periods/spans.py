"""Which billing period an instant falls into. Pure.

A tenant's periods are the months of its subscription, counted from its anchor. They partition time: the first reaches back to the beginning (a first request
begins a moment before the months that it starts), each later one begins where the one before it ends, also while no subscription is in force, and
where a subscription with another anchor begins, the month that runs ends there. A tenant that never had a subscription is billed by calendar
months of its zone; one whose first request is still to come has no period yet.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, time, timedelta

import msgspec

from billing.grants.periods import day_of, period_at, zone
from billing.plans.terms import Subscription

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Run(msgspec.Struct, frozen=True):
    """From `from_us` on months are counted from `anchor_us`."""

    from_us: int
    anchor_us: int


class Span(msgspec.Struct, frozen=True):
    """One period: [start_us, end_us). `first`: requests that began before its start are its own too."""

    start_us: int
    end_us: int
    first: bool = False

    @property
    def since_us(self) -> int:
        """From when on requests are of this period."""
        return 0 if self.first else self.start_us


def runs_of(subscriptions: Iterable[Subscription], timezone: str, created_us: int) -> tuple[Run, ...]:
    """Return from when on which anchor counts for a tenant; empty as long as its months have not begun."""
    held = sorted(subscriptions, key=lambda one: (one.started_us, one.id))
    if not held:
        return (Run(created_us, _month_of(created_us, timezone)),)
    runs: list[Run] = []
    for one in held:
        if one.anchor_us is None or one.ended_us == one.started_us or (runs and runs[-1].anchor_us == one.anchor_us):
            continue
        runs.append(Run(max(one.started_us, one.anchor_us), one.anchor_us))
    return tuple(runs)


def span_at(runs: Sequence[Run], timezone: str, at_us: int) -> Span | None:
    """Return the period that an instant falls into; None where the tenant has none yet."""
    if not runs:
        return None
    number = max((number for number, run in enumerate(runs) if run.from_us <= at_us), default=0)
    run = runs[number]
    month = period_at(run.anchor_us, timezone, max(at_us, run.from_us))
    first = number == 0 and month.start_us <= run.from_us
    start_us = max(month.start_us, run.from_us) if number else month.start_us
    end_us = month.end_us if number + 1 == len(runs) else min(month.end_us, runs[number + 1].from_us)
    return Span(start_us, end_us, first)


def spans(runs: Sequence[Run], timezone: str, until_us: int, *, after_us: int | None = None) -> Iterator[Span]:
    """Yield the periods that have begun by `until_us`, in order: all, or those from `after_us` (an end of one) on."""
    at_us = 0 if after_us is None else after_us
    while (span := span_at(runs, timezone, at_us)) is not None and span.start_us <= until_us:
        yield span
        at_us = span.end_us


def _month_of(at_us: int, timezone: str) -> int:
    first = day_of(at_us, timezone).replace(day=1)
    return (datetime.combine(first, time(), zone(timezone)).astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)
