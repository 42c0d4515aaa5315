"""`weir reconcile`: providers' bills against our own usage."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from billing.errors import Invalid
from billing.money import exact_of_pico, format_exact
from billing.operations import reconciliation
from billing.operations.reconciliation import FILE_BYTES_MAX, Found
from billing.reconcile.bill import show_day
from billing.reconcile.matching import PERIOD_US, STATES, Item
from gateway.cli.books import ConfigOption, open_books
from gateway.cli.render import Format, FormatOption, printable, write_rows
from gateway.wire.instants import show as instant

app = typer.Typer(no_args_is_help=True, help="Reconciliation: providers' bills against our own usage.")
COLUMNS = ("day", "model", "bucket", "measure", "state", "provider", "gateway", "difference", "unreported", "without_cost")
BILL_COLUMNS = ("bill", "backend", "vendor", "from", "to", "measures", "currency", "imported", "superseded_by", "runs", "aliases", "sha256")
BILL_BRIEF = ("bill", "backend", "vendor", "from", "to", "measures", "currency", "superseded_by", "runs")


class State(StrEnum):
    """Which items to show."""

    matched = "matched"
    provider_only = "provider_only"
    gateway_only = "gateway_only"
    mismatch = "mismatch"


class Vendor(StrEnum):
    """Whose report a file is."""

    openai = "openai"
    anthropic = "anthropic"
    csv = "csv"


@app.command("import")
def take(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="the vendor's report as JSON, or a CSV: day,model,bucket,quantity,cost,currency")],
    *,
    backend: Annotated[str, typer.Option(help="as in weir.yaml")],
    vendor: Annotated[Vendor, typer.Option(help="whose report it is")],
    alias: Annotated[list[str] | None, typer.Option("--alias", metavar="BILLED=OURS", help="a model's billed name, and the one we ask for")] = None,
    config: ConfigOption = None,
) -> None:
    """Import a bill. It supersedes those of the backend that it covers; the same file again changes nothing."""
    aliases = {}
    for pair in alias or []:
        billed, _, ours = pair.partition("=")
        if not (billed and ours) or billed in aliases:
            raise Invalid("alias", f"alias: `{pair}` is none; write BILLED=OURS, each billed name once")
        aliases[billed] = ours
    try:
        with file.open("rb") as opened:
            data = opened.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise Invalid("file", f"{file}: cannot be read: {error.strerror or error}") from None
    with open_books(config) as books:
        made = reconciliation.import_bill(books.database, data, backend=backend, vendor=vendor.value, aliases=aliases, now_us=books.now_us)
    for warning in made.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"bill {made.id}: {printable(backend)}, {show_day(made.start_us)} to {show_day(made.end_us - 1)}; compare it: weir reconcile run {made.id}")


@app.command()
def run(
    bill: Annotated[int, typer.Argument(metavar="BILL")],
    *,
    token_tolerance: Annotated[str, typer.Option(help="percent by which a quantity may differ")] = "0.5",
    cost_tolerance: Annotated[str, typer.Option(help="percent by which a cost may differ")] = "1",
    strict: Annotated[bool, typer.Option("--strict", help="end with 1 where anything of the whole period does not match")] = False,
    config: ConfigOption = None,
) -> None:
    """Compare a bill with the books and book the residue, which is ours to carry."""
    with open_books(config) as books:
        found = reconciliation.run(books.database, bill, token_tolerance=token_tolerance, cost_tolerance=cost_tolerance, now_us=books.now_us)
    whole = [item for item in found.items if item.day_us == PERIOD_US]
    said = ", ".join(f"{sum(item.state == state for item in whole)} {state}" for state in STATES)
    typer.echo(f"run {found.run.id} of bill {bill}, the whole period: {said}; look: weir reconcile show {found.run.id}")
    if found.bill.currency is not None:
        over = sum(item.difference for item in whole if item.measure == "cost")
        typer.echo(f"residue: {format_exact(exact_of_pico(over))} {found.bill.currency} charged over the books")
    if strict and found.differs:
        raise typer.Exit(1)


@app.command("list")
def index(form: FormatOption = Format.table, config: ConfigOption = None) -> None:
    """List bills with their runs."""
    with open_books(config) as books:
        bills, runs = reconciliation.list_bills(books.database)
    rows = [
        {
            "bill": bill.id, "backend": bill.backend, "vendor": bill.vendor, "from": show_day(bill.start_us), "to": show_day(bill.end_us - 1),
            "measures": bill.measures, "currency": bill.currency, "imported": instant(bill.imported_us), "superseded_by": bill.superseded_by,
            "runs": [one.id for one in runs if one.bill_id == bill.id], "sha256": bill.sha256,
            "aliases": [f"{billed}={ours}" for billed, ours in bill.aliases.items()],
        }
        for bill in bills
    ]  # fmt: skip
    write_rows(rows, form, BILL_COLUMNS, "no bills; import one: weir reconcile import FILE --backend B --vendor openai", brief=BILL_BRIEF)


@app.command()
def show(
    run: Annotated[int, typer.Argument(metavar="RUN")],
    only: Annotated[State | None, typer.Option("--only", help="items of this state only")] = None,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """Show what a run found: by day, then over the whole period (day: all). Costs are in the bill's currency."""
    with open_books(config) as books:
        found = reconciliation.show_run(books.database, run, None if only is None else only.value)
    write_rows([_row(item) for item in found.items], form, COLUMNS, "nothing")
    _explain(found, form)


def _explain(found: Found, form: Format) -> None:
    if form is not Format.table:
        return
    if any(item.unreported for item in found.items if item.state != "matched"):
        typer.echo("unreported: requests whose usage the upstream did not tell; they were estimated, and may be why figures differ", err=True)
    if any(item.without_cost for item in found.items):
        typer.echo("without cost: units that the cost book has no price for; set it: weir cost set BACKEND MODEL, from before they were used", err=True)


def _row(item: Item) -> dict[str, Any]:
    figures = {"provider": item.provider, "gateway": item.gateway, "difference": item.difference}
    return {
        "day": "all" if item.day_us == PERIOD_US else show_day(item.day_us),
        "model": item.model,
        "bucket": item.bucket,
        "measure": item.measure,
        "state": item.state,
        **({name: format_exact(exact_of_pico(pico)) for name, pico in figures.items()} if item.measure == "cost" else figures),
        "unreported": item.unreported,
        "without_cost": item.without_cost,
    }
