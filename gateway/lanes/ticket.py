"""What a request is in a queue, by its tenant's plan and credits. Pure; the gateway and `weir simulate` ask here alike."""

from billing.credits.purse import Claims
from billing.plans.terms import Terms
from gateway.lanes.line import Ticket
from gateway.lanes.standing import SLOW, Lane, seats_of, weight_of

# Output costs a server about twice what input does (Sheng et al., OSDI '24); the fair queue counts in these.
INPUT_WEIGHT, OUTPUT_WEIGHT = 1, 2


def weigh(tokens_in: int, tokens_out: int) -> int:
    """Return what a usage counts in the queue, in weighted tokens."""
    return INPUT_WEIGHT * tokens_in + OUTPUT_WEIGHT * tokens_out


def ticket_of(tenant: str, lane: Lane, terms: Terms, claims: Claims, *, cost: int) -> Ticket:
    """Make a request's ticket at the weight that its credits have now; `cost` is its estimate (`weigh`). Paced plans borrow nothing."""
    return Ticket(
        tenant=tenant,
        lane=lane,
        cost=cost,
        weight=weight_of(lane, claims.unheld_ncr, claims.limit_ncr, terms),
        limit=seats_of(lane, terms),
        borrows=lane is SLOW and not terms.slow_delay_ms,
    )
