"""`weir fx`: what a currency is worth in another, as somebody states it; nothing is looked up."""

from datetime import datetime
from typing import Annotated

import typer

from billing.operations import exchange
from gateway.cli.books import ConfigOption, open_books
from gateway.cli.render import Format, FormatOption, write_rows

app = typer.Typer(no_args_is_help=True, help="Rates of exchange, as stated for a day.")


@app.command("set")
def put(
    base: Annotated[str, typer.Argument(metavar="BASE", help="one of this, like USD")],
    quote: Annotated[str, typer.Argument(metavar="QUOTE", help="is worth so much of this, like EUR")],
    rate: Annotated[str, typer.Argument(metavar="RATE", help="like 0.9231")],
    *,
    day: Annotated[datetime, typer.Option("--day", formats=["%Y-%m-%d"], help="from this day on")],
    config: ConfigOption = None,
) -> None:
    """State what one BASE is worth in QUOTE from a day on. The other direction is stated by itself."""
    with open_books(config) as books:
        made = exchange.state_rate(books.database, base=base, quote=quote, day=day.date(), rate=rate, now_us=books.now_us)
    typer.echo(f"1 {made.base} = {made.rate} {made.quote} from {made.day} on")


@app.command("list")
def index(form: FormatOption = Format.table, config: ConfigOption = None) -> None:
    """List every stated rate."""
    with open_books(config) as books:
        found = exchange.list_rates(books.database)
    rows = [{"base": one.base, "quote": one.quote, "day": one.day, "rate": one.rate} for one in found]
    write_rows(rows, form, ("base", "quote", "day", "rate"), "none; state one: weir fx set USD EUR 0.92 --day 2026-11-30")
