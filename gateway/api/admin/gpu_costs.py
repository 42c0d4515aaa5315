"""/admin/gpu-costs: what GPUs of our own cost by the hour. Only margins read it."""

from datetime import datetime

from pydantic import AwareDatetime, BaseModel, Field

from billing.margins.gpu import WEIGHTS, parse_weights
from billing.money import format_pico, parse_pico
from billing.operations import gpus
from billing.operations.gpus import GpuCost
from gateway.auth.admin import AdminDesk
from gateway.wire.instants import from_us, to_us
from gateway.wire.problems import problem_router

router = problem_router("/gpu-costs")
WEIGHTS_TEXT = ":".join(map(str, WEIGHTS))


class GpuCostNew(BaseModel):
    """GPUs behind a backend from an instant (now) until another (further notice). Instants may have passed: a bill comes later than what it is for."""

    backend: str
    gpus: int
    price: str = Field(description="for one GPU and hour, decimal text")
    currency: str
    start_at: AwareDatetime | None = None
    end_at: AwareDatetime | None = None
    weights: str = Field(WEIGHTS_TEXT, description="how much work a token is: input:cached:output")


class GpuCostOut(BaseModel):
    """An entry."""

    id: int
    backend: str
    gpus: int
    price: str
    currency: str
    start_at: datetime
    end_at: datetime | None
    weights: str


@router.get("", summary="List what own GPUs cost")
def index(desk: AdminDesk) -> list[GpuCostOut]:
    """List every entry, by backend and start."""
    return [_out(cost) for cost in gpus.list_gpus(desk.database)]


@router.post("", summary="Say what own GPUs cost", status_code=201)
def create(body: GpuCostNew, desk: AdminDesk) -> GpuCostOut:
    """Add an entry. One without an end ends the backend's entry without one that began before it."""
    made = gpus.add_gpu(
        desk.database,
        backend=body.backend,
        gpus=body.gpus,
        hour_pico=parse_pico(body.price, field="price"),
        currency=body.currency,
        start_us=None if body.start_at is None else to_us(body.start_at),
        end_us=None if body.end_at is None else to_us(body.end_at),
        weights=parse_weights(body.weights),
        now_us=desk.now_us(),
    )
    return _out(made)


@router.delete("/{gpu_cost_id}", summary="Take an entry away")
def remove(gpu_cost_id: int, desk: AdminDesk) -> GpuCostOut:
    """Take an entry away that was a mistake; reports do without it from now on."""
    return _out(gpus.remove_gpu(desk.database, gpu_cost_id, desk.now_us()))


def _out(cost: GpuCost) -> GpuCostOut:
    return GpuCostOut(
        id=cost.id,
        backend=cost.backend,
        gpus=cost.gpus,
        price=format_pico(cost.hour_pico),
        currency=cost.currency,
        start_at=from_us(cost.start_us),
        end_at=None if cost.end_us is None else from_us(cost.end_us),
        weights=":".join(map(str, cost.weights)),
    )
