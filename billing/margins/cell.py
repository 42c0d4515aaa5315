"""Requests that cost the same per unit, added up; and what such a sum costs by the cost book. Pure.

Costs are linear in what was used as long as one vector of prices applies. So requests are told apart by everything that decides the vector: the cost's
version, the service tier, the lane, and how many of the cliffs in any cost book their own input exceeds; then a million of them are a few sums.
"""

from collections.abc import Sequence

import msgspec

from billing.meter import Meter, used
from billing.rates.cost import Cost, cost
from billing.rating import prices_at


class Cell(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Requests of one tenant, project, model, backend and day (its number in the span) that have one vector of costs and one plan; `meter` is their sum.

    `cost_us` is when the newest entry of the cost book began that was in force, None before the first; `step` how many cliffs their input exceeds.
    `subscription` and `period_us` say under which promise they were served; `overage_ncr` is invoiced, `covered_ncr` was paid by grants.
    """

    tenant_id: str
    project: str | None
    model: str
    backend: str
    upstream_model: str
    service_tier: str | None
    lane: str
    day: int
    subscription: str | None
    period_us: int | None
    cost_us: int | None
    step: int
    requests: int
    charge_ncr: int
    covered_ncr: int
    overage_ncr: int
    meter: Meter


class Costed(msgspec.Struct, frozen=True):
    """What a cell costs in pico-units, and what nobody has set a cost for: units by bucket."""

    pico: int
    missing: dict[str, int]


def cliffs(costs: Sequence[Cost]) -> list[int]:
    """Return every threshold of input at which any cost changes, upwards."""
    return sorted({variant.input_over for one in costs for variant in one.variants if variant.input_over is not None})


def cost_of(cell: Cell, entry: Cost | None, overs: Sequence[int]) -> Costed:
    """Return what a cell costs by the entry that applied. What has no price is told, and is not 0."""
    if entry is None:
        return Costed(0, dict(used(cell.meter)))
    tokens_in = overs[cell.step - 1] + 1 if cell.step else 0
    flat = msgspec.structs.replace(entry, prices=prices_at(entry, tokens_in, cell.lane, cell.service_tier), variants=())
    if flat.free:
        return Costed(0, {})
    missing = {bucket: count for bucket, count in used(cell.meter) if bucket not in flat.prices and bucket != "reasoning"}  # priced as output, if not apart
    priced = msgspec.structs.replace(cell.meter, **dict.fromkeys(missing)) if missing else cell.meter
    return Costed(cost(priced, flat, lane=cell.lane, service_tier=cell.service_tier), missing)
