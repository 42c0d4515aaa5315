"""One request's use as a fact: made once when the request ends, by our own id, and never changed after.

The id is the request's (a UUIDv7), so the same fact told twice (a replayed journal, a commit whose answer was lost) is seen to be
the same. What grants really paid of `cover_ncr` is not here: only the books know it, and they keep it beside the event.
"""

from typing import Literal

import msgspec

from billing.meter import Meter

Outcome = Literal["complete", "cut", "failed", "recovered"]
Source = Literal["reported", "estimated", "partial", "recovered", "none"]
Lane = Literal["fast", "slow"]


class UsageEvent(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What one request used and costs. Instants in UTC epoch microseconds, amounts in ncr. Made by position where requests end: add fields at the end.

    `cover_ncr` is the part of `charge_ncr` that credits pay. The rest was served past the credits: in the slow lane it is `excess`
    (not owed), in the fast lane `overage` (invoiced). `purses` says what was taken from where, the amounts of purses sum to `cover_ncr`;
    None: all of it from the tenant's own. `day_us` and `period_us` are when the tenant's day and its plan's month began in which the request did.
    """

    id: str
    tenant_id: str
    key_id: str
    model: str
    backend: str
    upstream_model: str
    endpoint: str
    started_us: int
    ended_us: int
    status: int
    outcome: Outcome
    lane: Lane
    source: Source
    meter: Meter
    charge_ncr: int
    cover_ncr: int
    project: str | None = None
    stream: bool = False
    rate_id: int | None = None
    attempts: int = 1
    queue_ms: int = 0
    ttft_us: int | None = None
    day_us: int | None = None
    period_us: int | None = None
    purses: dict[str, int] | None = None
    service_tier: str | None = None


def excess_ncr(event: UsageEvent) -> int:
    """Return what the slow lane served past the credits, in ncr."""
    return event.charge_ncr - event.cover_ncr if event.lane == "slow" else 0


def overage_ncr(event: UsageEvent) -> int:
    """Return what the fast lane served past the credits, to be invoiced, in ncr."""
    return event.charge_ncr - event.cover_ncr if event.lane == "fast" else 0


def taken(event: UsageEvent) -> dict[str, int]:
    """Return what an event took, in ncr, by purse and by ceiling ("cap:...", which lies beside the purses)."""
    if event.purses is not None:
        return event.purses
    return {"": event.cover_ncr} if event.cover_ncr else {}
