"""One usage event by its id, the one that an answer carries as `x-weir-event`: what it used, at which prices, and how it was paid."""

import msgspec

from billing.db import Database
from billing.errors import NotFound
from billing.rates.store import all_rates
from billing.usage import store
from billing.usage.event import UsageEvent, overage_ncr


class FoundEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A booked event. `prices`: ncr per unit of the rate it was charged at, empty without one.

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
        prices = next((rate.prices for rate in all_rates(session, event.model) if rate.id == event.rate_id), {})
    return FoundEvent(event=event, covered_ncr=covered, past_ncr=event.charge_ncr - event.cover_ncr, invoiced_ncr=overage_ncr(event), prices=prices)
