"""`weir cost gpu`: what GPUs of our own cost, for margins. Instants may have passed: a bill comes later than what it is for."""

from typing import Annotated, Any

import typer

from billing.margins.gpu import WEIGHTS, parse_weights
from billing.money import format_pico, parse_pico
from billing.operations import gpus
from billing.operations.gpus import GpuCost
from gateway.cli.books import ConfigOption, open_books
from gateway.cli.render import Format, FormatOption, YesOption, confirm, write_rows
from gateway.wire.instants import parse
from gateway.wire.instants import show as instant

app = typer.Typer(no_args_is_help=True, help="What GPUs of our own cost by the hour.")
COLUMNS = ("id", "backend", "gpus", "price", "currency", "from", "until", "weights")
WEIGHTS_TEXT = ":".join(map(str, WEIGHTS))


@app.command("set")
def put(
    backend: Annotated[str, typer.Argument(metavar="BACKEND", help="as in weir.yaml")],
    *,
    gpus_: Annotated[int, typer.Option("--gpus", help="how many stand behind it")],
    price: Annotated[str, typer.Option(help="for one GPU and hour")],
    currency: Annotated[str, typer.Option(help="ISO 4217")] = "USD",
    start: Annotated[str | None, typer.Option("--from", help="like 2026-11-01 (midnight UTC); left out: now")] = None,
    until: Annotated[str | None, typer.Option("--until", help="the instant of the end; left out: until further notice")] = None,
    weights: Annotated[str, typer.Option(help="how much work a token is: input:cached:output")] = WEIGHTS_TEXT,
    config: ConfigOption = None,
) -> None:
    """Say what GPUs behind a backend cost. Their hours are split over who used them; the time they stood idle is shown by itself."""
    with open_books(config) as books:
        made = gpus.add_gpu(
            books.database,
            backend=backend,
            gpus=gpus_,
            hour_pico=parse_pico(price, field="price"),
            currency=currency,
            start_us=None if start is None else parse(start, "--from"),
            end_us=None if until is None else parse(until, "--until"),
            weights=parse_weights(weights),
            now_us=books.now_us,
        )
        configured = backend in books.settings.backends
    if not configured:
        typer.echo(f"warning: no backend `{backend}` is configured here", err=True)
    end = "" if made.end_us is None else f" until {instant(made.end_us)}"
    typer.echo(f"{backend}: {made.gpus} GPUs at {format_pico(made.hour_pico)} {currency} an hour each, from {instant(made.start_us)}{end} (entry {made.id})")


@app.command("list")
def index(form: FormatOption = Format.table, config: ConfigOption = None) -> None:
    """List what was said, by backend and start."""
    with open_books(config) as books:
        found = gpus.list_gpus(books.database)
    write_rows([_row(cost) for cost in found], form, COLUMNS, "none; say it: weir cost gpu set BACKEND --gpus 8 --price 2.10 --currency USD")


@app.command()
def remove(entry: Annotated[int, typer.Argument(metavar="ENTRY", help="its id")], yes: YesOption = False, config: ConfigOption = None) -> None:
    """Take an entry away that was a mistake; what stopped costing anything is given an end instead, by the next `set`."""
    with open_books(config) as books:
        confirm(f"Take entry {entry} away? Reports of past months will do without it.", yes)
        gone = gpus.remove_gpu(books.database, entry, books.now_us)
    typer.echo(f"took entry {entry} away: {gone.backend}, {gone.gpus} GPUs")


def _row(cost: GpuCost) -> dict[str, Any]:
    return {
        "id": cost.id,
        "backend": cost.backend,
        "gpus": cost.gpus,
        "price": format_pico(cost.hour_pico),
        "currency": cost.currency,
        "from": instant(cost.start_us),
        "until": instant(cost.end_us) or None,
        "weights": ":".join(map(str, cost.weights)),
    }
