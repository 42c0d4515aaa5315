"""Reserved -> Settled: the actual charge is journalled, the rest of the hold goes back. On every path, once.

A `Settler` is made with the hold and ends in exactly one of three ways: `settle` (an event), or `close` before anything was sent
upstream (the hold goes back, there is no event), or `close` after (an event that says the request failed). All three are plain
functions without an await, so that neither cancellation nor a dying event loop can come between a charge and its record.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from backends.provider import Usage
from billing.credits.purse import Cover
from billing.errors import Invalid, RateMissing
from billing.meter import BUCKETS, Meter, check, input_total
from billing.money import format_credits
from billing.rating import Rate, rate, tier_charged
from billing.usage.event import UsageEvent
from billing.usage.records import Dispatched, Progress
from gateway.flow.states import Place, Relayed, Reserved, Settled
from gateway.lanes.limits import spend
from gateway.lanes.standing import SLOW
from gateway.lanes.ticket import weigh

if TYPE_CHECKING:
    from backends.planner import Attempt
    from gateway.services import Services

log = logging.getLogger("weir.settle")


def meter_of(usage: Usage | None) -> Meter:
    """Translate what a backend says it used into the meter that money is counted by; a request that ran counts as one."""
    if usage is None:
        return Meter()
    return Meter(
        input=usage.input,
        cache_read=usage.cache_read,
        cache_write_5m=usage.cache_write_5m,
        cache_write_1h=usage.cache_write_1h,
        audio_in=usage.audio_in,
        image_in=usage.image_in,
        output=usage.output,
        audio_out=usage.audio_out,
        reasoning=usage.reasoning,
        images=usage.images,
        seconds=usage.seconds,
        requests=1,
        searches=usage.searches,
    )


def charge(meter: Meter, card: Rate, failed: Callable[[], None], *, lane: str = "fast", service_tier: str | None = None) -> int:
    """Rate a meter. A bucket without a price cannot be refused any more: it is charged nothing, loudly and counted by `failed`, and kept in the event."""
    while True:
        try:
            return rate(meter, card, lane=lane, service_tier=service_tier)
        except RateMissing as error:
            log.error("usage of `%s` by model %s has no price and was not charged: %s", error.bucket, card.model, error)
            failed()
            meter = Meter(**{bucket: getattr(meter, bucket) for bucket in BUCKETS if bucket != error.bucket})


class Settler:
    """Ends one reservation. `attempts` counts upstream attempts, `queue_us` the wait for slots, `first_us` is when the first byte went to the client,
    `out` says that a backend has the request now, `used_weight` is what the fair queue is told, `upstream_s` the time spent waiting for backends.
    `tier` is the service tier that is bought upstream, `flex` says that the vendor's cheap one may be. `place` is the slot it has, `begun` says that a
    stream's answer was begun while it waited. `deferred` counts the tasks that have this to end.
    """

    __slots__ = (  # not msgspec's: it is written to at every step, which costs a Struct twenty times as much
        "attempt", "attempts", "begun", "deferred", "dispatched", "ended", "first_us", "flex", "out", "place", "queue_us", "reserved", "sent_s",
        "services", "tier", "upstream_s", "used_weight",
    )  # fmt: skip

    def __init__(self, services: "Services", reserved: Reserved) -> None:
        self.services, self.reserved = services, reserved
        self.attempt: Attempt | None = None
        self.place: Place | None = None
        self.first_us: int | None = None
        self.tier: str | None = None
        self.attempts = self.queue_us = self.deferred = self.used_weight = 0
        self.sent_s = self.upstream_s = 0.0
        self.dispatched = self.ended = self.out = self.begun = False
        self.flex = True

    def tier_at(self, attempt: "Attempt") -> str | None:
        """Return the service tier that is bought upstream: the client's, or the cheap one for a slow request; None for a backend that has none."""
        provider, asked = attempt.pool.provider, self.reserved.admitted.received.call.service_tier
        if asked is not None:
            return asked if provider.sells_tiers else None
        flex = provider.flex_tier
        return flex if flex is not None and self.buys_flex else None

    @property
    def buys_flex(self) -> bool:
        """Whether the vendor's cheap tier is wanted for it: in the slow lane, where the plan says so, and until it was refused."""
        return self.flex and self.reserved.lane is SLOW and self.reserved.admitted.terms.slow_flex

    def dispatch(self, attempt: "Attempt") -> None:
        """Journal, before anything is sent, that this request goes upstream. Raises `BooksUnavailable`: then it must not be sent."""
        self.attempt, self.tier = attempt, self.tier_at(attempt)
        self.attempts += 1
        if self.dispatched:
            return
        reserved = self.reserved
        admitted = reserved.admitted
        received, principal = admitted.received, admitted.principal
        call = received.call
        record = Dispatched(  # by position, for the interpreter writes more than 15 names into a dictionary first: 5 us with `_event`'s
            call.request_id, admitted.tenant_id, principal.key_id, call.model, attempt.backend, attempt.model, call.endpoint,
            received.at_us, reserved.lane.text, reserved.prompt_tokens_max // 4,
            principal.project, call.stream, admitted.priced.rate.id, reserved.covered, reserved.day_us, reserved.period_us, reserved.hold.named(), self.tier,
        )  # fmt: skip
        self.services.recorder.dispatched(record)
        self.dispatched = True

    def progress(self, usage: Usage) -> None:
        """Journal what a stream has used so far: what it is charged should this process die now."""
        self.services.recorder.progress(Progress(id=self.reserved.admitted.received.call.request_id, meter=meter_of(usage)))

    def settle(self, relayed: Relayed) -> Settled:
        """Charge what was used, journal it, and give the rest of the hold back. Called once: a second settlement is an error of ours, and raised."""
        if self.ended:
            raise RuntimeError(f"request {self.reserved.admitted.received.call.request_id} was settled already")
        self.ended = True
        services, admitted = self.services, self.reserved.admitted
        usage = relayed.usage
        try:
            meter = check(meter_of(usage))
        except Invalid as error:
            log.error("request %s: %s; charged nothing, kept as failed usage", admitted.received.call.request_id, error)
            meter = Meter()
            services.metrics.settle_failed()
        lane = self.reserved.lane
        tier = tier_charged(self.tier, None if usage is None else usage.service_tier)
        charge_ncr = charge(meter, admitted.priced.rate, services.metrics.settle_failed, lane=lane.text, service_tier=tier)
        now_us = services.clock.now_us()
        cover = admitted.account.settle(self.reserved.hold, charge_ncr, full_cover=self.reserved.covered)
        tokens_in, tokens_out = input_total(meter), meter.output or 0
        self.used_weight = weigh(tokens_in, tokens_out)
        services.recorder.settled(self._event(relayed, meter, charge_ncr, cover, now_us=now_us, tier=tier))
        if admitted.limits:
            spend(admitted.limits, tokens_in + tokens_out, now_us)
        services.metrics.settled(admitted.received.call.model, self.attempt.backend if self.attempt else "", meter, relayed.source)
        cost = format_credits(charge_ncr)
        return Settled(charge_ncr=charge_ncr, cost=cost, cover_ncr=cover.ncr, lane=lane, source=relayed.source, input=tokens_in, output=tokens_out)

    def defer(self, ending: Coroutine[Any, Any, None]) -> None:
        """Let a task of the gateway's own end this, because nobody can wait for it; shutdown waits for that task."""
        self.deferred += 1
        self.services.spawn(self._deferred(ending))

    async def _deferred(self, ending: Coroutine[Any, Any, None]) -> None:
        try:
            await ending
        except asyncio.CancelledError:  # a stop that waited long enough: the journal's evidence says more than a close would, the next start books it
            self.ended = True
            raise
        finally:
            self.deferred -= 1
            self.close()

    def close(self, *, status: int = 499) -> None:
        """End what nobody settled: nothing was used. Harmless after `settle`."""
        if self.ended or self.deferred:
            return
        if self.dispatched:
            self.settle(Relayed(usage=None, source="none", outcome="failed", status=status))
        else:
            self.ended = True
            self.reserved.admitted.account.release(self.reserved.hold)

    def _event(self, relayed: Relayed, meter: Meter, charge_ncr: int, cover: Cover, *, now_us: int, tier: str | None) -> UsageEvent:
        reserved, attempt = self.reserved, self.attempt
        assert attempt is not None  # only what was dispatched is settled
        admitted = reserved.admitted
        received, principal = admitted.received, admitted.principal
        call, began_us, first_us = received.call, received.at_us, self.first_us
        return UsageEvent(  # by position: see `dispatch`
            call.request_id, admitted.tenant_id, principal.key_id, call.model, attempt.backend, attempt.model, call.endpoint,
            began_us, now_us if now_us > began_us else began_us, relayed.status, relayed.outcome, reserved.lane.text, relayed.source,
            meter, charge_ncr, cover.ncr,
            principal.project, call.stream, admitted.priced.rate.id, self.attempts, self.queue_us // 1000,
            None if first_us is None else max(0, first_us - began_us), reserved.day_us, reserved.period_us, cover.purses, tier,
        )  # fmt: skip
