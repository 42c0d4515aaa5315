"""Our side of a reconciliation: sums of usage, as SQL adds them up, made into quantities and costs by the cost book; pure.

A group of events has one day, model, cost version and vector of prices, so the cost of its sum is the sum of its costs, exactly.
"""

from collections.abc import Iterable, Sequence

import msgspec

from billing.errors import Invalid
from billing.meter import BUCKETS
from billing.rates.cost import Cost, CostBook
from billing.rating import prices_at
from billing.reconcile.bill import Measure


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Events of a day and model that every price treats alike, added up. `at_us` and `tokens_in` stand for all of them in the cost book."""

    day_us: int
    model: str
    at_us: int
    tokens_in: int
    lane: str
    service_tier: str | None
    unreported: int
    units: dict[str, int]


class Ours(msgspec.Struct, frozen=True, kw_only=True):
    """What the books say of one place: units or pico-units, and how many units have no cost."""

    day_us: int
    model: str
    bucket: str
    measure: Measure
    amount: int
    without_cost: int = 0


class Cuts(msgspec.Struct, frozen=True):
    """Where prices change: instants at which a cost begins (ascending), and lengths of input over which another vector applies (ascending)."""

    instants: tuple[int, ...]
    lengths: tuple[int, ...]


def cuts_of(costs: Iterable[Cost], start_us: int, end_us: int) -> Cuts:
    """Return where the prices of a backend's costs change within a period; the first instant is its start."""
    listed = list(costs)
    instants = {start_us, *(cost.effective_us for cost in listed if start_us < cost.effective_us < end_us)}
    lengths = {variant.input_over for cost in listed for variant in cost.variants if variant.input_over is not None}
    return Cuts(tuple(sorted(instants)), tuple(sorted(lengths)))


def our_side(groups: Iterable[Group], costs: Sequence[Cost], *, backend: str, currency: str | None) -> list[Ours]:
    """Return the books' quantities, and where `currency` is given their costs, one or more of a place. Raises `Invalid` for a cost in another currency."""
    book, found = CostBook(costs), []
    for group in groups:
        for bucket, units in group.units.items():
            if bucket != "reasoning" and units:  # a part of `output`, in which vendors bill it
                found.append(Ours(day_us=group.day_us, model=group.model, bucket=bucket, measure="quantity", amount=units))
        if currency is None:
            continue
        cost = book.at(backend, group.model, group.at_us)
        if cost is not None and not cost.free and cost.currency != currency:
            raise Invalid("currency", f"currency: the bill is in {currency}, and the cost book has {backend} {group.model} in {cost.currency}")
        for bucket, (pico, without) in _costs(group, cost).items():
            if pico or without:
                found.append(Ours(day_us=group.day_us, model=group.model, bucket=bucket, measure="cost", amount=pico, without_cost=without))
    return found


def _costs(group: Group, cost: Cost | None) -> dict[str, tuple[int, int]]:
    if cost is not None and cost.free:
        return {}
    prices = {} if cost is None else prices_at(cost, group.tokens_in, group.lane, group.service_tier)
    units = dict(group.units)
    reasoning = units.pop("reasoning", 0)
    found = {}
    for bucket in BUCKETS:
        if not (count := units.get(bucket, 0)):
            continue
        if (price := prices.get(bucket)) is None:
            if not (bucket == "requests" and cost is None):  # its tokens are counted already
                found[bucket] = (0, count)
            continue
        apart = reasoning if bucket == "output" and "reasoning" in prices else 0
        found[bucket] = ((count - apart) * price + apart * prices.get("reasoning", 0), 0)
    return found
