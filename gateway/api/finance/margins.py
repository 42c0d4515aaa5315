"""/finance/margins: what was earned and what it cost, in lines that sum to the totals, and the totals to the invoices."""

from datetime import date
from typing import Annotated, Literal

from fastapi import Query
from pydantic import BaseModel, Field

from billing.money import format_credits, format_exact, format_pico
from billing.operations import margins
from billing.operations.margins import Line
from gateway.auth.admin import AdminDesk
from gateway.wire.problems import problem_router

router = problem_router("/margins")
Dimension = Literal["tenant", "project", "model", "backend", "day"]


class FiguresOut(BaseModel):
    """Amounts in major units of `currency`, decimal text, exact. revenue = fees + overage; cost = calls + gpus; margin = revenue - cost."""

    currency: str
    requests: int
    credits: str
    fees: str = Field(description="the part of plans' fees that was earned")
    overage: str
    revenue: str
    calls: str = Field(description="what third parties charge, by the cost book")
    gpus: str = Field(description="what own GPUs cost")
    cost: str
    margin: str
    uncosted_requests: int = Field(description="of them: used something that no cost is set for")
    uncosted_units: int


class MarginOut(FiguresOut):
    """One line. `keys`: the dimensions asked for; `line`: use, unused (fees that no use earned), sold (top-ups), credited (credit notes) or idle (own GPUs)."""

    line: Literal["use", "unused", "sold", "credited", "idle"]
    keys: dict[str, str]


class MarginTotalOut(FiguresOut):
    """Everything in one currency. revenue = invoiced - deferred."""

    invoiced: str
    deferred: str
    idle: str


class GapOut(BaseModel):
    """Use that no cost is set for. `since`: from this day on it can still be set; "": only for what is to come."""

    backend: str
    model: str
    bucket: str
    since: str
    requests: int
    units: int
    set_with: str


class StatedOut(BaseModel):
    """A rate at which amounts were converted: one `base` was worth `rate` of `quote`, as stated for `day`."""

    base: str
    quote: str
    rate: str
    day: str


class MarginsOut(BaseModel):
    """A report of the days [first_day, end_day), each tenant's own."""

    first_day: str
    end_day: str
    lines: list[MarginOut]
    totals: list[MarginTotalOut]
    gaps: list[GapOut]
    exchange: list[StatedOut]


class LoserOut(FiguresOut):
    """A tenant that cost more than it brought."""

    tenant_id: str


@router.get("", summary="Report revenue, cost and margin")
def index(
    desk: AdminDesk,
    *,
    month: str | None = None,
    first_day: date | None = None,
    end_day: date | None = None,
    by: Annotated[list[Dimension], Query()] = ["tenant"],  # noqa: B006 - FastAPI copies it
    tenant_id: str | None = None,
    currency: str | None = None,
) -> MarginsOut:
    """Report a month (2026-11), or the days from `first_day` until `end_day` (the day after the last), by any dimensions, in one currency or in each."""
    span = margins.span_of(month, first_day, end_day)
    found = margins.margins(desk.database, span, by=by, tenant_id=tenant_id, currency=currency, now_us=desk.now_us())
    rates = {} if found.rates is None else found.rates.rates
    return MarginsOut(
        first_day=found.first_day,
        end_day=found.end_day,
        lines=[MarginOut.model_validate({"line": line.line, "keys": line.keys, **_figures(line)}) for line in found.lines],
        totals=[
            MarginTotalOut.model_validate({**_figures(total.line), **{name: format_exact(getattr(total, name)) for name in ("invoiced", "deferred", "idle")}})
            for total in found.totals
        ],
        gaps=[GapOut(**{name: getattr(gap, name) for name in GapOut.model_fields}) for gap in found.gaps],
        exchange=[StatedOut(base=base, quote=currency or "", rate=format_pico(pico), day=day) for base, (pico, day) in sorted(rates.items())],
    )


@router.get("/losers", summary="List the tenants that lose money")
def losers(
    desk: AdminDesk, *, month: str | None = None, first_day: date | None = None, end_day: date | None = None, currency: str | None = None
) -> list[LoserOut]:
    """List the tenants whose cost is more than their revenue, the greatest loss first."""
    span = margins.span_of(month, first_day, end_day)
    found = margins.losers(desk.database, span, currency=currency, now_us=desk.now_us())
    return [LoserOut.model_validate({"tenant_id": line.keys["tenant"], **_figures(line)}) for line in found]


def _figures(line: Line) -> dict[str, str | int]:
    amounts = {name: format_exact(getattr(line, name)) for name in ("fees", "overage", "revenue", "calls", "gpus", "cost", "margin")}
    counts = {name: getattr(line, name) for name in ("requests", "uncosted_requests", "uncosted_units")}
    return {"currency": line.currency, "credits": format_credits(line.charge_ncr), **amounts, **counts}
