"""One usage event by its id, the one that an answer carries as `x-weir-event`: what it used, at which prices, and how it was paid.

And the events that came again under a booked id with other content.
"""

import msgspec

from billing.db import Database
from billing.errors import NotFound
from billing.meter import input_total
from billing.operations.tenants import require_tenant
from billing.rates.store import all_rates
from billing.rating import prices_at
from billing.usage import store
from billing.usage.event import UsageEvent, overage_ncr


class FoundEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A booked event. `prices`: ncr per unit that it was charged at (its context tier, service tier and lane), empty without a rate.

    `event.cover_ncr` was paid from credits: `covered_ncr` of it by grants at once, the rest owed to the next. `past_ncr` was served past the
    credits, and `invoiced_ncr` of that is invoiced.
    """

    event: UsageEvent
    covered_ncr: int
    past_ncr: int
    invoiced_ncr: int
    prices: dict[str, int]


def find_event(db: Database, event_id: str) -> FoundEvent:
    """Return one usage event. Raises `NotFound`, also for a request that runs still or ended within the last moments."""
    with db.read() as session:
        event = store.known(session, [event_id]).get(event_id)
        if event is None:
            raise NotFound("usage event", event_id)
        beside = store.events_between(session, event.started_us, event.started_us + 1, event.tenant_id)
        covered = next(covered_ncr for found, covered_ncr in beside if found.id == event_id)
        card = next((rate for rate in all_rates(session, event.model) if rate.id == event.rate_id), None)
    prices = {} if card is None else prices_at(card, input_total(event.meter), event.lane, event.service_tier)
    return FoundEvent(event=event, covered_ncr=covered, past_ncr=event.charge_ncr - event.cover_ncr, invoiced_ncr=overage_ncr(event), prices=prices)


class EventConflict(msgspec.Struct, frozen=True, kw_only=True):
    """An event that came under a booked id with other content. `differences`: (field, as booked, as told later)."""

    id: str
    tenant_id: str
    seen_us: int
    differences: tuple[tuple[str, object, object], ...]


def list_conflicts(db: Database, tenant_id: str | None = None, *, limit: int = 1000) -> list[EventConflict]:
    """Return events that came again with other content, the newest first, of one tenant or of all. The first is booked, the others changed nothing."""
    with db.read() as session:
        if tenant_id is not None:
            require_tenant(session, tenant_id)
        found = store.conflicts(session, tenant_id, limit)
    return [EventConflict(id=one.told.id, tenant_id=one.told.tenant_id, seen_us=one.seen_us, differences=_differences(one.booked, one.told)) for one in found]


def _differences(booked: UsageEvent | None, told: UsageEvent) -> tuple[tuple[str, object, object], ...]:
    before, after = ({} if event is None else _flat(event) for event in (booked, told))
    return tuple((name, before.get(name), value) for name, value in after.items() if before.get(name) != value)


def _flat(event: UsageEvent) -> dict[str, object]:
    fields = msgspec.structs.asdict(event)
    return {**{name: value for name, value in fields.items() if name != "meter"}, **msgspec.structs.asdict(event.meter)}
