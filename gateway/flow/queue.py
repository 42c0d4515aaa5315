"""Reserved -> Queued: a slot at the backend's gate, in the lane that the credits bought."""

from typing import TYPE_CHECKING

from gateway.flow.settle import INPUT_WEIGHT, OUTPUT_WEIGHT, Settler
from gateway.lanes.gate import Gate
from gateway.lanes.queue import Ticket
from gateway.lanes.standing import Lane, weight_of

if TYPE_CHECKING:
    from gateway.services import Services


async def enter(services: "Services", settler: Settler, gate: Gate) -> Ticket:
    """Wait for a slot. Raises `SlowDown`. The ticket must come back through `leave`."""
    reserved = settler.reserved
    terms = reserved.admitted.terms
    fast = reserved.lane is Lane.FAST
    ticket = Ticket(
        tenant=reserved.admitted.tenant_id,
        lane=reserved.lane,
        cost=INPUT_WEIGHT * (reserved.prompt_tokens_max // 4) + OUTPUT_WEIGHT * reserved.output_tokens_max,
        weight=weight_of(reserved.lane, reserved.hold.claims.unheld_ncr, reserved.hold.claims.limit_ncr, terms),
        limit=terms.fast_concurrency if fast else terms.slow_concurrency,
    )
    waited_us = 0
    if not gate.enter_now(ticket):
        since_us = services.clock.now_us()
        try:
            await gate.wait(ticket)
        finally:
            waited_us = max(0, services.clock.now_us() - since_us)
            settler.queue_us += waited_us
    services.metrics.waited(reserved.lane.value, waited_us)
    return ticket


def leave(gate: Gate, ticket: Ticket, settler: Settler) -> None:
    """Give the slot back, trued up with what was used; an attempt that used nothing costs the tenant no turn, one that is still being counted its estimate."""
    gate.leave(ticket, settler.used_weight if settler.ended or not settler.out else ticket.cost)
