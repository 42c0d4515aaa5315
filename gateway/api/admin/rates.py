"""/admin/rates: what a model's tokens cost. A rate is never changed; a later one takes its place from its instant on."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import AwareDatetime, BaseModel

from billing.operations import rates
from billing.rating import Rate
from gateway.auth.admin import AdminDesk
from gateway.auth.rehearsal import ChangingDesk
from gateway.config.forms import PublicName, Text
from gateway.config.prices import RateForm, rate_figures, variant_figures
from gateway.wire.instants import from_us, to_us
from gateway.wire.problems import problem_router

router = problem_router("/rates")


class RateNew(RateForm):
    """A rate to set, from now or from `effective_at` on."""

    model: PublicName
    effective_at: AwareDatetime | None = None


class RateOut(BaseModel):
    """A rate. `prices`: credits per 1,000,000 tokens of a kind; credits each for images, seconds, requests, searches.

    `variants`: other prices, and when. `ended`: from then on the model has no rate. `version_id`: the version it was published in.
    """

    id: int
    model: str
    free: bool
    ended: bool
    prices: dict[str, str]
    variants: list[dict[str, Any]]
    version_id: int | None
    effective_at: datetime
    state: Literal["past", "current", "future"]


class ProposalOut(BaseModel):
    """What a model could cost by public prices. Nothing is set by asking."""

    model: str
    source: str | None
    prices: dict[str, str]
    variants: list[dict[str, Any]]
    usd: dict[str, str]
    notes: list[str]


@router.post("", summary="Set a model's rate", status_code=201)
def create(body: RateNew, desk: ChangingDesk) -> RateOut:
    """Set a model's rate from an instant on, in one step. To look before it applies, POST /admin/price-versions."""
    now_us = desk.now_us()
    effective_us = None if body.effective_at is None else to_us(body.effective_at)
    (made,) = rates.set_rates(desk.database, [body.change(body.model)], effective_us=effective_us, now_us=now_us)
    desk.changed()
    return _out(made, "future" if made.effective_us > now_us else "current")


@router.get("", summary="List rates")
def index(desk: AdminDesk, model: str | None = None, all_versions: bool = False) -> list[RateOut]:
    """List the rates that apply now or will; past ones too with `all_versions`."""
    now_us, listed = desk.now_us(), []
    found = rates.list_rates(desk.database, model)
    current = {rate.model: rate.id for rate in found if rate.effective_us <= now_us}  # by (effective_us, id): the last one stays
    for rate in found:
        state: Literal["past", "current", "future"] = "future" if rate.effective_us > now_us else "current" if current[rate.model] == rate.id else "past"
        if all_versions or state != "past":
            listed.append(_out(rate, state))
    return listed


@router.get("/proposals", summary="Propose rates from public prices")
def propose(desk: AdminDesk, model: Annotated[list[str], Query(min_length=1, max_length=100)], credits_per_usd: Text) -> list[ProposalOut]:
    """Propose rates from public prices; set the ones you accept with POST /admin/rates."""
    proposals = rates.propose(model, credits_per_usd=credits_per_usd, now_us=desk.now_us())
    return [
        ProposalOut(
            model=item.model,
            source=item.source,
            prices=rate_figures(item.prices),
            variants=variant_figures("rates", item.variants),
            usd=item.usd,
            notes=list(item.notes),
        )
        for item in proposals
    ]


def _out(rate: Rate, state: Literal["past", "current", "future"]) -> RateOut:
    return RateOut(
        id=rate.id,
        model=rate.model,
        free=rate.free,
        ended=rate.ended,
        prices=rate_figures(rate.prices),
        variants=variant_figures("rates", rate.variants),
        version_id=rate.version_id,
        effective_at=from_us(rate.effective_us),
        state=state,
    )
