"""Reserved -> Queued: a slot at a backend's gate, in the lane that the credits bought.

A request waits at its model's first backend. While it does, a stream is told so by comments, so that nothing on its way takes it for dead; a
fast one may spill over to the next backend, where its plan pays for that; a slow one is called back when its tenant has credits again. Where the backend
goes out meanwhile and another of its model is up, any goes there. In a paced plan a slow one is held back first. Whoever has entered leaves, on every path.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.errors import SlowDown
from gateway.flow import disclose
from gateway.flow.settle import Settler
from gateway.flow.states import Place, Reserved
from gateway.lanes.queue import Ticket
from gateway.lanes.standing import FAST, SLOW, Lane
from gateway.lanes.ticket import ticket_of, weigh
from gateway.wire.caller import Client

if TYPE_CHECKING:
    from backends.planner import Attempt
    from gateway.services import Services

LOOK_S = 0.25  # how often a request that may spill over looks whether another backend has a slot


def enter_if_free(services: "Services", settler: Settler, attempt: "Attempt") -> Place | None:
    """Take a slot at an attempt's gate where one is free and nobody need wait for it; None: `enter` waits. It must come back through `leave`."""
    reserved = settler.reserved
    gate, ticket = services.gates[attempt.backend], _ticket(reserved)
    delayed = reserved.lane is SLOW and reserved.admitted.terms.slow_delay_ms and not settler.attempts
    if delayed or not gate.enter_if_free(ticket):
        return None
    services.metrics.waited(reserved.lane.text, 0)
    services.board.waited(reserved.lane, 0, reserved.admitted.received.at_us)
    settler.place = Place(attempt, gate, ticket)
    return settler.place


async def enter(services: "Services", settler: Settler, attempts: Sequence["Attempt"], client: Client) -> Place | None:
    """Wait for a slot at the first of the attempts, or, for one that may spill over, at whichever has one first. It must come back through `leave`.

    None: the tenant has credits again, so the request is to be reserved anew. Raises `SlowDown`.
    """
    while True:
        attempt = attempts[0]
        turn = Turn(services, settler, Place(attempt, services.gates[attempt.backend], _ticket(settler.reserved)), attempts[1:])
        settler.place = await turn.wait(client)
        if not turn.deserted:
            return settler.place
        attempts = sorted(attempts, key=lambda one: not one.pool.up)


def leave(settler: Settler) -> None:
    """Give the slot back, trued up with what was used; an attempt that used nothing costs the tenant no turn, one that is still being counted its estimate."""
    place, settler.place = settler.place, None
    if place is not None:
        place.gate.leave(place.ticket, settler.used_weight if settler.ended or not settler.out else place.ticket.cost)


class Turn:
    """One request's wait at one gate; `others` are its model's other backends. Times in seconds of the monotonic clock.

    `deserted`: it gave its place up, since the backend is out and another is up.
    """

    __slots__ = ("_delay_until_s", "_others", "_services", "_settler", "_since_s", "_spill_at_s", "_spills", "_tell_at_s", "deserted", "place")

    def __init__(self, services: "Services", settler: Settler, place: Place, others: Sequence["Attempt"]) -> None:
        self._services = services
        self._settler = settler
        self.place = place
        admitted = settler.reserved.admitted
        terms, fast = admitted.terms, settler.reserved.lane is FAST
        now_s = services.clock.monotonic_s()
        self._since_s = now_s
        self._others = others
        self.deserted = False
        self._spills = others if fast and terms.spill_after_ms is not None else ()
        self._spill_at_s = now_s + terms.spill_after_ms / 1000 if self._spills and terms.spill_after_ms is not None else math.inf
        self._tell_at_s = now_s + services.settings.lanes.comment_every_s if admitted.received.call.stream else math.inf
        self._delay_until_s = admitted.received.at_s + terms.slow_delay_ms / 1000 if not fast and terms.slow_delay_ms and not settler.attempts else now_s

    async def wait(self, client: Client) -> Place | None:
        """Wait for it; None: the tenant has credits again, or it is `deserted`."""
        clock, settler = self._services.clock, self._settler
        gate, ticket = self.place.gate, self.place.ticket
        try:
            await self._held_back(client)
            if not ticket.recalled and (found := self._entered()) is not None:
                return found
            while not ticket.recalled and not self._out():
                now_s = clock.monotonic_s()
                if await gate.wait(ticket, max(0.0, min(self._spill_at_s, self._tell_at_s) - now_s) if self._looks_around else None):
                    return self.place
                if (found := await self._look_around(client)) is not None:
                    return found
            gate.abandon(ticket)
            self.deserted = not ticket.recalled
            return None
        except SlowDown:
            self._services.metrics.lane_refused(ticket.lane.value, "wait_over" if ticket.left and not ticket.pushed else "queue_full")
            raise
        except BaseException:  # cancelled, as the client left, or a bug of ours: a place or slot that nobody gives up would be lost for good
            gate.abandon(ticket)
            raise
        finally:
            waited_us = max(0, round((clock.monotonic_s() - self._since_s) * 1e6))
            settler.queue_us += waited_us
            _note_wait(self._services, ticket.lane, waited_us)

    def _entered(self) -> Place | None:
        """Take a slot that is free now, or enter the queue (None). Raises `SlowDown` where it is full and no other backend has a slot for this one."""
        gate, ticket = self.place.gate, self.place.ticket
        try:
            if gate.enter_now(ticket):
                return self.place
        except SlowDown:
            if (found := self._elsewhere()) is None:
                raise
            return found
        if self._spill_at_s <= self._since_s and (found := self._elsewhere()) is not None:
            gate.abandon(ticket)
            return found
        return None

    def _out(self) -> bool:
        """Tell whether the backend is out and another of the model is up."""
        return not self.place.attempt.pool.up and any(other.pool.up for other in self._others)

    @property
    def _looks_around(self) -> bool:
        return min(self._spill_at_s, self._tell_at_s) < math.inf

    async def _held_back(self, client: Client) -> None:
        gate, ticket, clock = self.place.gate, self.place.ticket, self._services.clock
        while not ticket.recalled and (left_s := self._delay_until_s - (now_s := clock.monotonic_s())) > 0:
            await gate.pause(ticket, min(left_s, max(0.0, self._tell_at_s - now_s)))
            if clock.monotonic_s() >= self._tell_at_s:
                await self._tell(client)

    async def _look_around(self, client: Client) -> Place | None:
        now_s = self._services.clock.monotonic_s()
        if now_s >= self._spill_at_s:
            if (found := self._elsewhere()) is not None:
                self.place.gate.abandon(self.place.ticket)
                return found
            self._spill_at_s = now_s + LOOK_S
        if now_s >= self._tell_at_s:
            await self._tell(client)
        return None

    def _elsewhere(self) -> Place | None:
        """Take a slot that is free at another backend of the model. Only a fast request comes here."""
        for attempt in self._spills:
            gate = self._services.gates[attempt.backend]
            ticket = _ticket(self._settler.reserved)
            if attempt.pool.up and gate.enter_if_free(ticket):
                self._services.metrics.spilled(self.place.attempt.backend, attempt.backend)
                return Place(attempt, gate, ticket)
        return None

    async def _tell(self, client: Client) -> None:
        """Begin a stream's answer, if need be, and write a comment, which clients pass over."""
        services, settler = self._services, self._settler
        self._tell_at_s = services.clock.monotonic_s() + services.settings.lanes.comment_every_s
        if not settler.begun:
            settler.begun = True
            await client.head(200, disclose.waiting(services, settler))
        waited_s = services.clock.monotonic_s() - settler.reserved.admitted.received.at_s
        await client.write(b": waiting for a slot in the %b lane, %d s so far\n\n" % (settler.reserved.lane.encode(), waited_s))


def _note_wait(services: "Services", lane: Lane, waited_us: int) -> None:
    services.metrics.waited(lane.text, waited_us)
    services.board.waited(lane, waited_us, services.clock.now_us())


def _ticket(reserved: Reserved) -> Ticket:
    admitted = reserved.admitted
    cost = weigh(reserved.prompt_tokens_max // 4, reserved.output_tokens_max)
    return ticket_of(admitted.tenant_id, reserved.lane, admitted.terms, reserved.hold.claims, cost=cost)
