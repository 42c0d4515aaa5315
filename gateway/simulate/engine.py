"""The virtual clock, and a request's way along it: refused, held back, queued, in a slot, settled. Pure.

Decisions are the gateway's own: the fair queue, the standing, the account, the rate. What is a model here is the engine (a pool of slots, each
with its own speed) and the clients (who come again when they are told to).
"""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any

import msgspec

from billing.rates.card import RateCard
from gateway.lanes.queue import FairQueue, Full, Ticket
from gateway.lanes.retry import Pace
from gateway.lanes.standing import SET_ASIDE, Lane, standing_of
from gateway.simulate.lane import SET_ASIDE_US, Fluid, LaneRules
from gateway.simulate.request import NO_MODEL, Request, reserve, settle, ticket_of, used_weight
from gateway.simulate.tally import Tally
from gateway.simulate.tenant import Tenant
from gateway.simulate.traffic import HOUR_US, Arrival

STEPS = 200  # how often the progress is told
MILLION = 1_000_000


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """The model's servers: slots, how many of them the slow lane may have (None: as the gateway has it), and tokens a second in one slot."""

    slots: int
    slow_slots: int | None = None
    prefill_tps: int
    decode_tps: int

    def service_us(self, arrival: Arrival) -> int:
        """Return how long a request takes in its slot."""
        return arrival.input * MILLION // self.prefill_tps + arrival.output * MILLION // self.decode_tps


class Simulation:
    """One trial from `start_us` to `end_us`. `run` it once; then `tally` and the tenants' sums have what happened."""

    def __init__(
        self,
        tenants: Sequence[Tenant],
        card: RateCard,
        pool: Pool,
        rules: Mapping[Lane, LaneRules],
        *,
        start_us: int,
        end_us: int,
        retries: int = 2,
        seed: int = 0,
        plans: int = 1,
    ) -> None:
        self.tenants = tenants
        self.card = card
        self.pool = pool
        self.rules = rules
        self.start_us, self.end_us = start_us, end_us
        self.retries = retries
        self.now_us = start_us
        depths = {lane: rule.depth_max for lane, rule in rules.items()}
        ages_us = {lane: rule.age_us for lane, rule in rules.items()}
        self.queue = FairQueue(pool.slots, depths=depths, ages_us=ages_us, slow_slots=pool.slow_slots)
        self.tally = Tally(plans, start_us)
        self._jitter = Random(f"{seed}:clients")
        self._paces = {lane: Pace() for lane in Lane}
        self._fluids = {lane: Fluid() for lane in Lane}
        self._events: list[tuple[int, int, Callable[[Any], None], Any]] = []
        self._order = 0
        self._waiting: dict[int, Request] = {}  # by the ticket's id
        self._held_back = self._asleep = self._running = 0

    @property
    def under_way(self) -> int:
        """How many requests have come and not ended: they wait, are held back, run, or their client will come again."""
        return len(self._waiting) + self._held_back + self._running + self._asleep

    def run(self, arrivals: Iterable[Arrival], progress: Callable[[int], None] = lambda done_us: None) -> None:
        """Let everything happen that arrives. `progress` hears how much of the time has passed (microseconds)."""
        for tenant in self.tenants:
            self._at(tenant.tick_us, self._tick, tenant)
        self._at(self.start_us + HOUR_US, self._turn, None)
        step_us = max(1, (self.end_us - self.start_us) // STEPS)
        self._at(self.start_us + step_us, self._step, (step_us, progress))
        for arrival in arrivals:
            if arrival.at_us >= self.end_us:
                break
            self._advance(arrival.at_us)
            self._arrive(arrival)
        self._advance(self.end_us - 1)
        self.now_us = self.end_us
        self._close()

    def _at(self, at_us: int, action: Callable[[Any], None], subject: Any) -> None:
        self._order += 1
        heapq.heappush(self._events, (at_us, self._order, action, subject))

    def _advance(self, to_us: int) -> None:
        """Let everything happen that is due by an instant."""
        events = self._events
        while events and events[0][0] <= to_us:
            self.now_us, _order, action, subject = heapq.heappop(events)
            action(subject)
        self.now_us = to_us

    def _step(self, told: tuple[int, Callable[[int], None]]) -> None:
        step_us, progress = told
        progress(self.now_us - self.start_us)
        self._at(self.now_us + step_us, self._step, told)

    # ---- tenants ----

    def _tick(self, tenant: Tenant) -> None:
        """A tenant's midnight, or the renewal of its month: then those of its requests that wait in the slow lane are reserved anew."""
        renewed = tenant.tick(self.now_us)
        self._stand(tenant)
        self._at(tenant.tick_us, self._tick, tenant)
        if renewed:
            for request in list(tenant.slow_waiting.values()):
                self._recall(request)

    def _recall(self, request: Request) -> None:
        ticket = request.ticket
        if ticket.granted or ticket.left:  # one recalled before it woke others
            return
        request.tenant.slow_waiting.pop(id(ticket))
        if ticket.queued:
            self._unqueue(request)
            self.queue.leave(ticket, self.now_us)
            self._wake()
        else:
            ticket.left = True
            self._held_back -= 1
        request.tenant.account.release(request.hold)
        self._reserve(request)

    def _stand(self, tenant: Tenant) -> None:
        stands = standing_of(tenant.account, tenant.claims, tenant.terms, self.now_us)
        if stands is not tenant.stands:
            self._stood(tenant)
            tenant.stands = stands

    def _stood(self, tenant: Tenant) -> None:
        self.tally.stood(tenant.plan, tenant.sums, tenant.stands, self.now_us - tenant.stood_us)
        tenant.stood_us = self.now_us

    def _turn(self, _: None) -> None:
        self.tally.ran(self.queue.running, self.now_us)
        for tenant in self.tenants:
            self._stood(tenant)
        self.tally.turn()
        self._at(self.now_us + HOUR_US, self._turn, None)

    def _close(self) -> None:
        self.tally.ran(self.queue.running, self.now_us)
        for tenant in self.tenants:
            self._stood(tenant)
            for lane, backlog in tenant.backlogs.items():
                if backlog.waiting:
                    self._spell_ended(tenant, lane)

    # ---- a request, until it is in the queue ----

    def _arrive(self, arrival: Arrival) -> None:
        tenant = self.tenants[arrival.tenant]
        priced = self.card.at(arrival.model, arrival.at_us)
        assert priced is not None, f"the model {arrival.model} has no rate"  # looked up by whoever made the traffic
        tenant.sums.arrived += 1
        self._try(Request(tenant, arrival, priced))

    def _come_again(self, request: Request) -> None:
        self._asleep -= 1
        request.try_us = self.now_us
        self._try(request)

    def _try(self, request: Request) -> None:
        limits = request.tenant.limits
        if limits:
            request.lane = request.tenant.lane
            for _kind, bucket in limits:
                if not bucket.ready(self.now_us):
                    self._count_first(request)
                    self._later(request, bucket.wait_us(self.now_us))
                    return
            for kind, bucket in limits:
                if kind == "requests":
                    bucket.spend(1, self.now_us)
        self._reserve(request)

    def _reserve(self, request: Request) -> None:
        tenant = request.tenant
        refused = reserve(request, self.card, self.now_us)
        self._stand(tenant)
        if refused is not None:
            request.lane = tenant.lane
            self._count_first(request)
            if refused == SET_ASIDE:
                self._later(request, SET_ASIDE_US)
            elif refused == NO_MODEL:
                self._give_up(request)
            else:
                self.tally.cell(tenant.plan, request.lane).capped += 1
                tenant.sums.capped += 1
            return
        self._count_first(request)
        ticket = request.ticket = ticket_of(request)
        delay_us = tenant.terms.slow_delay_ms * 1000 - (self.now_us - request.try_us) if request.lane is Lane.SLOW else 0
        if delay_us <= 0:
            self._enter(request)
        elif self.queue.waiting(Lane.SLOW) + self._held_back >= self.queue.depth_max(Lane.SLOW):
            self._refuse(request)
        else:
            self._held_back += 1
            tenant.slow_waiting[id(ticket)] = request
            self._at(self.now_us + delay_us, self._let_in, (request, ticket))

    def _count_first(self, request: Request) -> None:
        if request.first:
            request.first = False
            self.tally.cell(request.tenant.plan, request.lane).arrived += 1

    def _let_in(self, held: tuple[Request, Ticket]) -> None:
        request, ticket = held
        if not ticket.left:  # else its tenant's credits came back meanwhile
            self._held_back -= 1
            del request.tenant.slow_waiting[id(ticket)]
            self._enter(request)

    # ---- the queue ----

    def _enter(self, request: Request) -> None:
        ticket, now_us = request.ticket, self.now_us
        spill_ms = request.tenant.terms.spill_after_ms if request.lane is Lane.FAST else None
        try:
            if self.queue.offer(ticket, now_us):
                self._run(request, now_us - request.try_us, self._end)
                return
        except Full:
            if spill_ms is None:
                self._refuse(request)
            else:
                self._spill((request, ticket))
            return
        self._waiting[id(ticket)] = request
        fluid = self._fluids[request.lane]
        if request.tenant.backlogs[request.lane].enter(ticket.weight, fluid.virtual):
            fluid.weight += ticket.weight
        if request.lane is Lane.SLOW:
            request.tenant.slow_waiting[id(ticket)] = request
        self._at(now_us + self.rules[request.lane].wait_us, self._wait_over, (request, ticket))
        if spill_ms is not None:
            self._at(now_us + spill_ms * 1000, self._spill, (request, ticket))
        self._wake()

    def _wake(self) -> None:
        for ticket in self.queue.next(self.now_us):
            request = self._waiting[id(ticket)]
            self._paces[request.lane].note(self.now_us)
            self._fluids[request.lane].granted(used_weight(request))
            request.tenant.backlogs[request.lane].granted(used_weight(request))
            self._unqueue(request)
            request.tenant.slow_waiting.pop(id(ticket), None)
            age_us = self.rules[request.lane].age_us
            if age_us is not None and self.now_us - ticket.since_us > age_us:
                self.tally.cell(request.tenant.plan, request.lane).starved += 1
            self._run(request, self.now_us - request.try_us, self._end)

    def _unqueue(self, request: Request) -> None:
        del self._waiting[id(request.ticket)]
        backlog = request.tenant.backlogs[request.lane]
        backlog.waiting -= 1
        if not backlog.waiting:
            self._spell_ended(request.tenant, request.lane)

    def _spell_ended(self, tenant: Tenant, lane: Lane) -> None:
        backlog, fluid, cell = tenant.backlogs[lane], self._fluids[lane], self.tally.cell(tenant.plan, lane)
        fair, tokens = backlog.ended(fluid.virtual)
        fluid.weight -= backlog.weight
        cell.backlog_fair_tokens += fair
        cell.backlog_tokens += tokens

    def _wait_over(self, waited: tuple[Request, Ticket]) -> None:
        request, ticket = waited
        if not ticket.granted and not ticket.left:
            self._leave(request)
            self._refuse(request)

    def _leave(self, request: Request) -> None:
        self._unqueue(request)
        request.tenant.slow_waiting.pop(id(request.ticket), None)
        self.queue.leave(request.ticket, self.now_us)
        self._wake()

    def _spill(self, waited: tuple[Request, Ticket]) -> None:
        """Have the model's next backend serve it, which always has room here."""
        request, ticket = waited
        if ticket.granted or ticket.left:
            return
        if ticket.queued:
            self._leave(request)
        ticket.left = True
        self.tally.cell(request.tenant.plan, request.lane).spilled += 1
        self._run(request, self.now_us - request.try_us, self._end_elsewhere)

    # ---- the slot, and the end ----

    def _run(self, request: Request, wait_us: int, end: Callable[[Request], None]) -> None:
        self.tally.ran(self.queue.running, self.now_us)
        self.tally.cell(request.tenant.plan, request.lane).waits.add(wait_us)
        sums = request.tenant.sums
        sums.wait_us += wait_us
        if wait_us > sums.longest_us:
            sums.longest_us = wait_us
        self._running += 1
        self._at(self.now_us + self.pool.service_us(request.arrival), end, request)

    def _end(self, request: Request) -> None:
        self.tally.cell(request.tenant.plan, request.lane).slot_us += self.pool.service_us(request.arrival)
        self._end_elsewhere(request)
        self.queue.done(request.ticket, used_weight(request), self.now_us)
        self.tally.ran(self.queue.running, self.now_us)
        self._wake()

    def _end_elsewhere(self, request: Request) -> None:
        tenant, arrival, lane = request.tenant, request.arrival, request.lane
        charge_ncr, cover = settle(request)
        for kind, bucket in tenant.limits:
            if kind == "tokens":
                bucket.spend(arrival.input + arrival.output, self.now_us)
        past_ncr = charge_ncr - cover.ncr
        self._running -= 1
        cell, sums = self.tally.cell(tenant.plan, lane), tenant.sums
        cell.served += 1
        cell.input_tokens += arrival.input
        cell.output_tokens += arrival.output
        cell.weighted_tokens += used_weight(request)
        cell.charge_ncr += charge_ncr
        cell.cover_ncr += cover.ncr
        sums.served[lane] += 1
        sums.input_tokens += arrival.input
        sums.output_tokens += arrival.output
        sums.charge_ncr += charge_ncr
        sums.cover_ncr += cover.ncr
        if past_ncr and lane is Lane.FAST:
            cell.overage_ncr += past_ncr
            line = (tenant.account.day_at(request.try_us), request.model)
            sums.overage_ncr[line] = sums.overage_ncr.get(line, 0) + past_ncr
        elif past_ncr:
            cell.excess_ncr += past_ncr
            sums.excess_ncr += past_ncr
        self._stand(tenant)

    # ---- refusals ----

    def _refuse(self, request: Request) -> None:
        """Tell a client to come later, in the gate's words."""
        request.tenant.account.release(request.hold)
        self._stand(request.tenant)
        self._later(request, self._paces[request.lane].retry_us(request.lane, self.queue.waiting(request.lane), self._jitter))

    def _later(self, request: Request, retry_us: int) -> None:
        cell = self.tally.cell(request.tenant.plan, request.lane)
        cell.turned_away += 1
        if request.again >= self.retries:
            self._give_up(request)
            return
        request.again += 1
        cell.retried += 1
        self._asleep += 1
        self._at(self.now_us + retry_us, self._come_again, request)

    def _give_up(self, request: Request) -> None:
        cell = self.tally.cell(request.tenant.plan, request.lane)
        cell.refused += 1
        request.tenant.sums.refused += 1
        if request.lane is Lane.SLOW:
            cell.starved += 1
