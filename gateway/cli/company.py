"""`weir company`: who sends the invoices, and on what terms."""

from pathlib import Path
from typing import Annotated

import typer

from billing.errors import Invalid
from billing.invoices.company import Company, logo_type
from billing.operations import company
from gateway.cli.books import ConfigOption, open_books
from gateway.cli.render import write_one

app = typer.Typer(no_args_is_help=True, help="Company: who sends the invoices.")
_Text = Annotated[str | None, typer.Option(help='"" takes it away')]
AddressOption = Annotated[list[str] | None, typer.Option("--address", help="a line of it; say it once for each, from the street on")]


@app.command("set")
def write(
    *,
    legal_name: Annotated[str | None, typer.Option("--legal-name")] = None,
    address: AddressOption = None,
    country: Annotated[str | None, typer.Option("--country", help="its two letters, like DE")] = None,
    tax_id: _Text = None,
    email: _Text = None,
    series: Annotated[str | None, typer.Option("--series", help="begins every invoice's number, like INV")] = None,
    credit_series: Annotated[str | None, typer.Option("--credit-series", help="begins every credit note's number, like CN")] = None,
    grace_hours: Annotated[int | None, typer.Option("--grace-hours", help="how long after its end a period takes late usage")] = None,
    payment_days: Annotated[int | None, typer.Option("--payment-days", help="after its issue an invoice is due")] = None,
    bank: Annotated[list[str] | None, typer.Option("--bank", help="a line of the bank details; once for each")] = None,
    footer: _Text = None,
    logo: Annotated[str | None, typer.Option("--logo", metavar="FILE", help='a PNG or JPEG file of at most 512 KiB; "" takes it away')] = None,
    config: ConfigOption = None,
) -> None:
    """Say who sends the invoices; what is left out stays. Invoices that are issued keep what they say."""
    given = {field: value for field, value in locals().items() if field in company.FIELDS and value is not None}
    if not given:
        raise Invalid("company", "nothing to change; for example: weir company set --legal-name 'ACME Hosting GmbH' --country DE")
    if "logo" in given:
        given["logo"] = _picture(Path(logo)) if logo else None
    with open_books(config) as books:
        made = company.change_company(books.database, given, books.now_us)
    _show(made)


@app.command()
def show(config: ConfigOption = None) -> None:
    """Show who sends the invoices."""
    with open_books(config) as books:
        found = company.get_company(books.database)
    if found is None:
        typer.echo("nobody has said yet who sends the invoices: weir company set --legal-name NAME")
    else:
        _show(found)


def _show(found: Company) -> None:
    lines = {field: " / ".join(value) if isinstance(value, list) else value for field, value in company.figures(found).items()}
    write_one(lines | {"logo": None if found.logo is None else f"{logo_type(found.logo)}, {len(found.logo)} bytes"})


def _picture(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Invalid("logo", f"--logo: {path} cannot be read: {error.strerror or error}") from None
