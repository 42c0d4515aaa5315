"""One request on its way: what is held for it, the lane it is given, its ticket, and its settlement. Pure.

The steps are those of the gateway's own road (`gateway/flow`), over the same account, plan and rate, and the tests hold them against each other.
"""

from billing.credits.purse import Cover, Hold
from billing.meter import Meter
from billing.rates.card import Priced, RateCard
from billing.rating import rate
from gateway.lanes import ticket
from gateway.lanes.queue import Ticket
from gateway.lanes.standing import Lane, Standing, day_is_spent, past_credits, standing
from gateway.lanes.ticket import weigh
from gateway.simulate.tenant import OPEN_KEY, Tenant
from gateway.simulate.traffic import Arrival

BYTES_PER_TOKEN = 4  # a prompt is bounded by its bytes before it is served
NO_MODEL = "model_not_allowed"


class Request:
    """A request. `try_us` is when the try began that is under way, `again` how often the client has come again.

    `priced` is the rate of the model it asks for, `paid` that of the one which serves.
    """

    __slots__ = ("again", "arrival", "covered", "first", "hold", "lane", "model", "paid", "priced", "tenant", "ticket", "try_us")

    hold: Hold
    ticket: Ticket

    def __init__(self, tenant: Tenant, arrival: Arrival, priced: Priced) -> None:
        self.tenant = tenant
        self.arrival = arrival
        self.model = arrival.model
        self.priced = self.paid = priced
        self.try_us = arrival.at_us
        self.again = 0
        self.first = True
        self.lane = Lane.FAST
        self.covered = True

    @property
    def input_max(self) -> int:
        """The most tokens that its prompt may turn out to have."""
        return BYTES_PER_TOKEN * self.arrival.input


def reserve(request: Request, card: RateCard, now_us: int) -> str | None:
    """Hold credits and choose the lane; return why the request is refused where it is."""
    tenant, arrival = request.tenant, request.arrival
    terms, account = tenant.terms, tenant.account
    request.model, request.paid = arrival.model, request.priced
    if terms.allowed_models is not None and request.model not in terms.allowed_models:
        return NO_MODEL
    hold_ncr = request.priced.bound(request.input_max, arrival.output_max, lane=Lane.FAST.value, service_tier="default")
    claims = account.claims(OPEN_KEY, None, request.model)
    now = standing(claims.unheld_ncr, claims.limit_ncr, glide_percent=terms.glide_percent)
    hold = account.hold(claims, hold_ncr) if now is not Standing.SLOW else None
    if hold is not None:
        request.hold, request.lane, request.covered = hold, Lane.FAST, True
        return None
    past = past_credits(terms, unheld_ncr=claims.unheld_ncr, hold_ncr=hold_ncr, day_spent=day_is_spent(account, terms, now_us))
    if past.lane is None:
        return past.reason
    if terms.on_exhausted == "fallback":
        _fall_back(request, card, now_us)
    request.hold, request.lane, request.covered = account.open(account.claims(OPEN_KEY, None, request.model)), past.lane, False
    return None


def _fall_back(request: Request, card: RateCard, now_us: int) -> None:
    model = request.tenant.terms.fallback_model
    priced = None if model is None else card.at(model, now_us)
    if model is not None and priced is not None:
        request.model, request.paid = model, priced


def ticket_of(request: Request) -> Ticket:
    """Make its ticket for the queue, at the weight that its tenant's credits have now."""
    cost = weigh(request.input_max // BYTES_PER_TOKEN, request.arrival.output_max)
    return ticket.ticket_of(request.tenant.name, request.lane, request.tenant.terms, request.hold.claims, cost=cost)


def settle(request: Request) -> tuple[int, Cover]:
    """Charge what it used, and give the rest of its hold back; return the charge (ncr) and what credits pay of it."""
    arrival = request.arrival
    meter = arrival.meter or Meter(input=arrival.input, output=arrival.output, requests=1)
    charge_ncr = rate(meter, request.paid.rate, lane=request.lane.value)
    return charge_ncr, request.tenant.account.settle(request.hold, charge_ncr, full_cover=request.covered)


def used_weight(request: Request) -> int:
    """Return what it used, as the fair queue counts."""
    return weigh(request.arrival.input, request.arrival.output)
