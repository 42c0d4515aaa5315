"""/finance/reconciliation: providers' bills against our own usage. Costs are decimal text in the bill's currency, quantities whole numbers in text."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request
from pydantic import BaseModel, Field

from billing.errors import Invalid
from billing.money import exact_of_pico, format_exact
from billing.operations import reconciliation
from billing.operations.reconciliation import Found
from billing.reconcile.bill import show_day
from billing.reconcile.matching import PERIOD_US, Item, State
from billing.reconcile.store import Imported
from gateway.auth.admin import AdminDesk
from gateway.config.forms import Form
from gateway.wire.instants import from_us
from gateway.wire.problems import problem_router

router = problem_router("/reconciliation")
FILE: dict[str, Any] = {"requestBody": {"required": True, "content": {"application/json": {}, "text/csv": {}}}}


class BillOut(BaseModel):
    """A bill of the days [first_day, last_day]. `aliases`: our name of a model by the billed one."""

    id: int
    backend: str
    vendor: str
    first_day: str
    last_day: str
    currency: str | None
    measures: list[str]
    aliases: dict[str, str]
    warnings: list[str]
    sha256: str
    imported_at: datetime
    superseded_by: int | None
    run_ids: list[int]


class RunNew(Form):
    """How far figures may differ and still match, in percent of the bill's."""

    token_tolerance: str = "0.5"
    cost_tolerance: str = "1"


class ItemOut(BaseModel):
    """One place of a run; `day` null: the whole period. `difference`: what the provider says over what we say."""

    day: str | None
    model: str
    bucket: str
    measure: Literal["quantity", "cost"]
    state: State
    provider: str
    gateway: str
    difference: str
    unreported: int = Field(description="requests there whose usage the upstream did not report")
    without_cost: int = Field(description="units that the cost book has no price for")


class RunOut(BaseModel):
    """A run with its items, by day and then of the whole period."""

    id: int
    bill_id: int
    run_at: datetime
    token_tolerance: str
    cost_tolerance: str
    currency: str | None
    items: list[ItemOut]


async def _file(request: Request) -> bytes:
    return await request.body()


@router.post("", summary="Import a provider's bill", status_code=201, openapi_extra=FILE)
def take(
    backend: str,
    vendor: Literal["openai", "anthropic", "csv"],
    desk: AdminDesk,
    file: Annotated[bytes, Depends(_file)],
    alias: Annotated[list[str] | None, Query(description="BILLED=OURS: a model's billed name, and the one we ask for")] = None,
) -> BillOut:
    """Import a bill: the body is the vendor's report, or a CSV. The same file again is the same bill."""
    aliases = dict(pair.split("=", 1) for pair in alias or [] if "=" in pair)
    if len(aliases) != len(alias or []) or not all(billed and ours for billed, ours in aliases.items()):
        raise Invalid("alias", "alias: write BILLED=OURS, each billed name once")
    made = reconciliation.import_bill(desk.database, file, backend=backend, vendor=vendor, aliases=aliases, now_us=desk.now_us())
    return _bill(made, [])


@router.get("", summary="List providers' bills")
def index(desk: AdminDesk) -> list[BillOut]:
    """List bills with their runs, oldest first."""
    bills, runs = reconciliation.list_bills(desk.database)
    return [_bill(bill, [run.id for run in runs if run.bill_id == bill.id]) for bill in bills]


@router.post("/{bill_id}/runs", summary="Compare a bill with the books", status_code=201)
def run(bill_id: int, body: RunNew, desk: AdminDesk) -> RunOut:
    """Compare a bill with the books and book the residue, which touches no tenant."""
    found = reconciliation.run(desk.database, bill_id, token_tolerance=body.token_tolerance, cost_tolerance=body.cost_tolerance, now_us=desk.now_us())
    return _run(found)


@router.get("/runs/{run_id}", summary="Show what a comparison found")
def show(run_id: int, desk: AdminDesk, only: State | None = None) -> RunOut:
    """Show a run's items, of one state or of all."""
    return _run(reconciliation.show_run(desk.database, run_id, only))


def _bill(bill: Imported, run_ids: list[int]) -> BillOut:
    same = {name: getattr(bill, name) for name in ("id", "backend", "vendor", "currency", "measures", "aliases", "warnings", "sha256", "superseded_by")}
    days = {"first_day": show_day(bill.start_us), "last_day": show_day(bill.end_us - 1)}
    return BillOut(**same, **days, imported_at=from_us(bill.imported_us), run_ids=run_ids)


def _run(found: Found) -> RunOut:
    run = found.run
    about: dict[str, Any] = {name: getattr(run, name) for name in ("id", "bill_id", "token_tolerance", "cost_tolerance")}
    return RunOut(**about, run_at=from_us(run.at_us), currency=found.bill.currency, items=[_item(item) for item in found.items])


def _item(item: Item) -> ItemOut:
    def written(amount: int) -> str:
        return format_exact(exact_of_pico(amount)) if item.measure == "cost" else str(amount)

    same = {name: getattr(item, name) for name in ("model", "bucket", "measure", "state", "unreported", "without_cost")}
    figures = {name: written(getattr(item, name)) for name in ("provider", "gateway", "difference")}
    return ItemOut(day=None if item.day_us == PERIOD_US else show_day(item.day_us), **same, **figures)
