"""`weir usage`: what was used, and what a tenant has left."""

from pathlib import Path
from typing import Annotated

import typer

from billing.money import format_credits
from billing.operations import usage
from gateway.cli.books import ConfigOption, open_books
from gateway.cli.render import Format, FormatOption, write_file, write_one, write_rows
from gateway.wire.instants import show as instant

app = typer.Typer(no_args_is_help=True, help="Usage: balances, and the month's use as a file.")
MonthOption = Annotated[str, typer.Option("--month", help="like 2026-11")]
OutOption = Annotated[Path | None, typer.Option("--output", "-o", help="write to this file instead of standard output")]
TenantOption = Annotated[str | None, typer.Option("--tenant", help="this tenant only")]
GRANT_COLUMNS = ("grant", "kind", "credits", "remaining", "expires")


@app.command()
def show(tenant: Annotated[str, typer.Argument(metavar="TENANT")], form: FormatOption = Format.table, config: ConfigOption = None) -> None:
    """Show a tenant's balance: what its grants gave, what is left of them, and what was used past them."""
    with open_books(config) as books:
        found = usage.balance(books.database, tenant, books.now_us)
    figures = {
        "tenant": found.tenant_id,
        "plan": None if found.plan is None else f"{found.plan} v{found.plan_version}",
        "past_credits": found.on_exhausted,
        "credits_granted": format_credits(found.limit_ncr),
        "credits_used": format_credits(found.used_ncr),
        "credits_left": format_credits(found.remaining_ncr),
        "debt": format_credits(found.debt_ncr),
        "served_past_credits": format_credits(found.excess_ncr),
        "to_be_invoiced": format_credits(found.overage_ncr),
        "month_began": instant(found.period_start_us) or None,
        "resets": instant(found.reset_us) or None,
    }
    grants = [
        {
            "grant": grant.id,
            "kind": grant.kind,
            "credits": format_credits(grant.amount_ncr),
            "remaining": format_credits(grant.remaining_ncr),
            "expires": instant(grant.expires_us) or None,
        }
        for grant in found.grants
    ]
    if form is Format.table:
        write_one(figures)
        if grants:
            typer.echo()
            write_rows(grants, form, GRANT_COLUMNS)
    elif form is Format.json:
        write_rows([figures | {"grants": grants}], form, (*figures, "grants"))
    else:
        write_rows([figures], form, tuple(figures))


@app.command()
def export(
    month: MonthOption,
    form: Annotated[str, typer.Option("--format", "-f", help="csv or json")] = "csv",
    tenant: TenantOption = None,
    output: OutOption = None,
    config: ConfigOption = None,
) -> None:
    """Export a month's use by tenant, day and model; the sum is the events' to the last nano-credit, and the same month gives the same bytes."""
    with open_books(config) as books:
        data = usage.export_usage(books.database, month, format=form, tenant_id=tenant)
    write_file(data, output)
