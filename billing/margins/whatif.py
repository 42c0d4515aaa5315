"""A period as it would have been billed on another plan or at other rates, from what was really used. Pure.

Requests are taken in their order, and each is asked again how much of it credits pay. Where the books say that it went past the credits, they had just what
they paid; where they paid all of it, there was at least what they paid for it and for everything after, and what nobody used. To that comes the difference:
what the other plan gives more, and what requests so far took less. So nothing changed is nothing different, to the last ncr.
"""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from billing.errors import RateMissing
from billing.margins.amounts import of_credits
from billing.meter import Meter
from billing.plans.terms import PlanTerms
from billing.rates.version import Change
from billing.rating import Rate, rate
from billing.usage.event import UsageEvent

Rerate = Callable[[UsageEvent], int]


class Bill(msgspec.Struct, kw_only=True):
    """What a period costs: `fee` and `overage` as amounts (see `amounts`), the rest in ncr.

    charge = from_credits + overage + excess + refused; `refused` is what a plan that blocks would not have served.
    """

    fee: int = 0
    overage: int = 0
    requests: int = 0
    charge_ncr: int = 0
    from_credits_ncr: int = 0
    overage_ncr: int = 0
    excess_ncr: int = 0
    refused_ncr: int = 0

    @property
    def total(self) -> int:
        """What is invoiced, before a line is rounded."""
        return self.fee + self.overage

    def add(self, event: UsageEvent, charge_ncr: int, cover_ncr: int, kind: str, price: str | None) -> None:
        """Add a request, of which credits pay `cover_ncr`; the rest is of a `kind`: overage, excess or refused."""
        self.requests += 1
        self.charge_ncr += charge_ncr
        self.from_credits_ncr += cover_ncr
        past = charge_ncr - cover_ncr
        if kind == "overage":
            self.overage_ncr += past
            self.overage += of_credits(past, price)
        elif kind == "refused":
            self.refused_ncr += past
        else:
            self.excess_ncr += past


class Credits(msgspec.Struct, frozen=True, kw_only=True):
    """A period's credits (ncr): what the books took from them in all, what nobody used, and what the other plan would give more (or less)."""

    taken_ncr: int
    unused_ncr: int
    more_ncr: int = 0


def replay(events: Iterable[tuple[UsageEvent, PlanTerms | None]], credits: Credits, *, plan: PlanTerms | None, rerate: Rerate) -> tuple[Bill, Bill]:
    """Return (as the books have it, as it would have been), both without a fee, for a period's requests in order, each with the plan that it was served on.

    `plan` None: the plan that it was. `rerate` says what a request would have been charged.
    """
    books, other = Bill(), Bill()
    left_ncr = credits.taken_ncr + credits.unused_ncr
    more_ncr = credits.more_ncr
    for event, terms in events:
        past = event.charge_ncr > event.cover_ncr
        lane_kind = "overage" if event.lane == "fast" else "excess"
        books.add(event, event.charge_ncr, event.cover_ncr, lane_kind, None if terms is None else terms.credit_price)
        charge_ncr = rerate(event)
        cover_ncr = min(charge_ncr, max(0, (event.cover_ncr if past else left_ncr) + more_ncr))
        now = plan or terms
        served = now is not None and terms is not None and now.on_exhausted == terms.on_exhausted and past  # as it really was
        other.add(event, charge_ncr, cover_ncr, lane_kind if served else _kind(now), None if now is None else now.credit_price)
        left_ncr -= event.cover_ncr
        more_ncr += event.cover_ncr - cover_ncr
    return books, other


class Rerating:
    """Charges at the prices of a version of rates; what it does not change stays as it was charged. `unpriced` counts units that it has no price for."""

    def __init__(self, changes: Mapping[str, Change]) -> None:
        self._cards = {
            model: Rate(id=0, model=model, effective_us=0, free=change.free, prices=change.prices, variants=change.variants)
            for model, change in changes.items()
        }
        self.unpriced: dict[tuple[str, str], int] = {}

    def __call__(self, event: UsageEvent) -> int:
        """Return what a request would have been charged (ncr), in the lane and the tier that it had."""
        card = self._cards.get(event.model)
        if card is None:
            return event.charge_ncr
        meter = event.meter
        while True:
            try:
                return rate(meter, card, lane=event.lane, service_tier=event.service_tier)
            except RateMissing as missing:  # as when it is settled: charged nothing, and told
                bucket = missing.bucket or ""
                self.unpriced[event.model, bucket] = self.unpriced.get((event.model, bucket), 0) + (getattr(meter, bucket) or 0)
                meter = Meter(**{name: getattr(meter, name) for name in Meter.__struct_fields__ if name != bucket})


def _kind(plan: PlanTerms | None) -> str:
    return {"overage": "overage", "block": "refused"}.get("" if plan is None else plan.on_exhausted, "excess")
