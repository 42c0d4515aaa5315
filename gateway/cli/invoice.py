"""`weir invoice`: the month's invoice lines."""

import typer

from billing.operations import usage
from gateway.cli.books import ConfigOption, open_books
from gateway.cli.render import write_file
from gateway.cli.usage import MonthOption, OutOption, TenantOption

app = typer.Typer(no_args_is_help=True, help="Invoices: the month's lines as a file.")


@app.callback()
def _invoice() -> None:
    """Keep `export` a name of its own, also while it is the only one."""


@app.command()
def export(month: MonthOption, tenant: TenantOption = None, output: OutOption = None, config: ConfigOption = None) -> None:
    """Export a month's invoice lines as CSV: fees, and use by day and model, each line rounded by itself."""
    with open_books(config) as books:
        data = usage.export_invoices(books.database, month, tenant_id=tenant)
    write_file(data, output)
