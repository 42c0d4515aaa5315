"""/admin/costs: what backends charge us, in money. A cost is never changed; a later one takes its place from its instant on."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, Field

from billing.operations import costs
from billing.rates.cost import Cost
from gateway.auth.admin import AdminDesk
from gateway.auth.rehearsal import ChangingDesk
from gateway.config.prices import CostForm, cost_figures, variant_figures
from gateway.wire.instants import from_us, to_us
from gateway.wire.problems import problem_router

router = problem_router("/costs")

Name = Annotated[str, Field(min_length=1, max_length=256)]


class CostNew(CostForm):
    """A cost to set, from now or from `effective_at` on. `model` is the name at the backend."""

    backend: Name
    model: Name
    effective_at: AwareDatetime | None = None


class CostOut(BaseModel):
    """A cost. `prices`: in major units of `currency` per 1,000,000 tokens of a kind; each for images, seconds, requests, searches.

    `ended`: from then on nobody has said what it costs. `version_id`: the version it was published in.
    """

    id: int
    backend: str
    model: str
    currency: str
    free: bool
    ended: bool
    prices: dict[str, str]
    variants: list[dict[str, Any]]
    version_id: int | None
    effective_at: datetime
    state: Literal["past", "current", "future"]


@router.post("", summary="Set what a backend charges for a model", status_code=201)
def create(body: CostNew, desk: ChangingDesk) -> CostOut:
    """Set a cost from an instant on, in one step. To look before it applies, POST /admin/price-versions."""
    now_us = desk.now_us()
    change = body.change(body.backend, body.model)
    made = costs.set_cost(
        desk.database,
        backend=change.backend,
        model=change.model,
        currency=change.currency,
        prices=change.prices,
        variants=change.variants,
        free=change.free,
        effective_us=None if body.effective_at is None else to_us(body.effective_at),
        now_us=now_us,
    )
    return _out(made, "future" if made.effective_us > now_us else "current")


@router.get("", summary="List costs")
def index(desk: AdminDesk, backend: str | None = None, model: str | None = None, all_versions: bool = False) -> list[CostOut]:
    """List the costs that apply now or will; past ones too with `all_versions`."""
    now_us, listed = desk.now_us(), []
    found = costs.list_costs(desk.database, backend, model)
    current = {(cost.backend, cost.model): cost.id for cost in found if cost.effective_us <= now_us}  # by (effective_us, id): the last one stays
    for cost in found:
        now = current.get((cost.backend, cost.model))
        state: Literal["past", "current", "future"] = "future" if cost.effective_us > now_us else "current" if now == cost.id else "past"
        if all_versions or state != "past":
            listed.append(_out(cost, state))
    return listed


def _out(cost: Cost, state: Literal["past", "current", "future"]) -> CostOut:
    return CostOut(
        id=cost.id,
        backend=cost.backend,
        model=cost.model,
        currency=cost.currency,
        free=cost.free,
        ended=cost.ended,
        prices=cost_figures(cost.prices),
        variants=variant_figures("costs", cost.variants),
        version_id=cost.version_id,
        effective_at=from_us(cost.effective_us),
        state=state,
    )
