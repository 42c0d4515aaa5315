"""`weir margin`: what was earned and what it cost, and the tenants that lose money."""

import json
from datetime import date, datetime
from typing import Annotated, Any

import typer

from billing.money import format_credits, format_exact, format_pico
from billing.operations import margins
from billing.operations.margins import Line, Margins
from gateway.cli.books import ConfigOption, open_books
from gateway.cli.render import Format, FormatOption, write_rows
from gateway.cli.usage import TenantOption

app = typer.Typer(no_args_is_help=True, help="Margins: what was earned and what it cost.")
AMOUNTS = ("fees", "overage", "revenue", "calls", "gpus", "cost", "margin")
FIGURES = ("requests", "credits", *AMOUNTS, "uncosted_requests", "uncosted_units", "currency")
BRIEF = ("requests", "fees", "overage", "calls", "gpus", "margin", "currency")
MonthOption = Annotated[str | None, typer.Option("--month", help="like 2026-11, of each tenant's own calendar")]
FirstOption = Annotated[datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="instead of a month: the first day")]
UntilOption = Annotated[datetime | None, typer.Option("--until", formats=["%Y-%m-%d"], help="and the day after the last")]
CurrencyOption = Annotated[str | None, typer.Option("--currency", help="convert into this one, at the rates of weir fx; left out: each by itself")]


@app.command()
def show(
    *,
    month: MonthOption = None,
    first: FirstOption = None,
    until: UntilOption = None,
    by: Annotated[str, typer.Option("--by", help="any of tenant,project,model,backend,day")] = "tenant",
    tenant: TenantOption = None,
    currency: CurrencyOption = None,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """Show revenue, cost and margin of a month or of some days. Lines sum to the totals, and the totals to the invoices and the GPUs' bill."""
    span = margins.span_of(month, _day(first), _day(until))
    with open_books(config) as books:
        names = [name.strip() for name in by.split(",") if name.strip()]
        found = margins.margins(books.database, span, by=names, tenant_id=tenant, currency=currency, now_us=books.now_us)
    rows = [{"line": line.line, **line.keys, **_figures(line)} for line in found.lines]
    columns = ("line", *found.by, *FIGURES)
    if form is Format.json:
        typer.echo(json.dumps({"lines": rows, "totals": _totals(found), "gaps": _gaps(found), "exchange": _exchange(found)}, ensure_ascii=False, indent=2))
        return
    write_rows(rows, form, columns, "nothing was used or earned", brief=("line", *found.by, *BRIEF))
    if form is Format.table:
        for total in _totals(found):
            typer.echo(
                f"total {total['currency']}: revenue {total['revenue']} (invoiced {total['invoiced']}, less {total['deferred']} deferred), "
                f"cost {total['cost']} (idle {total['idle']}), margin {total['margin']}"
            )
    for said in _exchange(found):
        typer.echo(f"1 {said['base']} = {said['rate']} {said['quote']}, as stated for {said['day']}", err=True)
    for gap in _gaps(found):
        when = "" if gap["since"] else ", from now on"
        typer.echo(f"no cost: {gap['backend']} {gap['model']}: {gap['units']} of `{gap['bucket']}`{when}; set it: {gap['set_with']}", err=True)


@app.command()
def losers(
    *,
    month: MonthOption = None,
    first: FirstOption = None,
    until: UntilOption = None,
    currency: CurrencyOption = None,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """List the tenants that cost more than they brought, the greatest loss first."""
    span = margins.span_of(month, _day(first), _day(until))
    with open_books(config) as books:
        found = margins.losers(books.database, span, currency=currency, now_us=books.now_us)
    write_rows([{**line.keys, **_figures(line)} for line in found], form, ("tenant", *FIGURES), "no tenant loses money", brief=("tenant", *BRIEF))


def _day(given: datetime | None) -> date | None:
    return None if given is None else given.date()


def _figures(line: Line) -> dict[str, Any]:
    counts = {"requests": line.requests, "credits": format_credits(line.charge_ncr), "currency": line.currency}
    amounts = {name: format_exact(getattr(line, name)) for name in AMOUNTS}
    return {**counts, **amounts, "uncosted_requests": line.uncosted_requests, "uncosted_units": line.uncosted_units}


def _totals(found: Margins) -> list[dict[str, Any]]:
    return [{**_figures(total.line), **{name: format_exact(getattr(total, name)) for name in ("invoiced", "deferred", "idle")}} for total in found.totals]


def _gaps(found: Margins) -> list[dict[str, Any]]:
    return [
        {
            "backend": gap.backend,
            "model": gap.model,
            "bucket": gap.bucket,
            "since": gap.since,
            "requests": gap.requests,
            "units": gap.units,
            "set_with": gap.set_with,
        }
        for gap in found.gaps
    ]


def _exchange(found: Margins) -> list[dict[str, str]]:
    if found.rates is None:
        return []
    return [{"base": base, "quote": found.rates.currency, "rate": format_pico(pico), "day": day} for base, (pico, day) in sorted(found.rates.rates.items())]
