"""`weir rate`: what a model's tokens cost, in credits per 1,000,000. A model without a rate is refused: a missing price is never zero."""

from pathlib import Path
from typing import Annotated, Any

import typer

from billing.errors import Conflict, Invalid
from billing.operations import rates
from billing.operations.versions import Change
from billing.rating import Rate, when
from gateway.cli.books import Books, ConfigOption, open_books
from gateway.cli.render import DryRunOption, Format, FormatOption, YesOption, confirm, write_rows
from gateway.cli.versions import FILES, FromOption, NoteOption, add_commands, price_cells, price_words, propose, read_changes
from gateway.config.prices import EACH, RateForm, rate_figures
from gateway.wire.instants import parse
from gateway.wire.instants import show as instant

app = typer.Typer(no_args_is_help=True, help="Rates: what a model's tokens cost in credits.")
BRIEF = ("model", "when", "state", "input", "output", "cache_read", "other", "effective")
COLUMNS = ("model", "when", "state", "input", "output", "cache_read", "free", "other", "effective", "id")
PROPOSAL_COLUMNS = ("model", "when", "source", "input", "output", "cache_read", "other", "notes")
UNIT = "in credits per 1,000,000 tokens; images, seconds, requests, searches: each"
_Price = Annotated[str | None, typer.Option(help="credits per 1,000,000 tokens")]
_Each = Annotated[str | None, typer.Option(help="credits each")]


@app.command("set")
def put(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="its public name")],
    *,
    input: _Price = None,
    output: _Price = None,
    cache_read: _Price = None,
    cache_write_5m: Annotated[str | None, typer.Option("--cache-write-5m", help="credits per 1,000,000 tokens")] = None,
    cache_write_1h: Annotated[str | None, typer.Option("--cache-write-1h", help="credits per 1,000,000 tokens")] = None,
    audio_in: _Price = None,
    image_in: _Price = None,
    audio_out: _Price = None,
    reasoning: _Price = None,
    images: _Each = None,
    seconds: _Each = None,
    requests: _Each = None,
    searches: _Each = None,
    free: Annotated[bool, typer.Option("--free", help="the model costs nothing, on purpose")] = False,
    effective: Annotated[str | None, typer.Option("--from", help="2027-01-01 (midnight UTC), or an instant with its zone; left out: now")] = None,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
) -> None:
    """Set a model's rate from now, or from a later instant, on."""
    given = {name: value for name, value in locals().items() if name in RateForm.model_fields}
    form = RateForm(**given)
    with open_books(config, dry_run=dry_run) as books:
        effective_us = None if effective is None else parse(effective, "--from")
        (made,) = rates.set_rates(books.database, [form.change(model)], effective_us=effective_us, now_us=books.now_us)
        books.warn_unrouted([model], "its rate")
    typer.echo(f"{model}: {_said(form.prices()) or 'free'}, from {instant(made.effective_us)}")


@app.command("propose")
def put_forward(
    target: Annotated[str, typer.Argument(metavar="FILE|MODEL", help="a YAML file of rates by model (null: no rate any more), or one model")],
    prices: Annotated[list[str] | None, typer.Argument(metavar="[KIND=CREDITS]...", help="for one model: input=0.5 output=1.5")] = None,
    *,
    free: Annotated[bool, typer.Option("--free", help="the model is to cost nothing, on purpose")] = False,
    end: Annotated[bool, typer.Option("--end", help="the model is to have no rate any more")] = False,
    effective: FromOption = None,
    note: NoteOption = "",
    config: ConfigOption = None,
) -> None:
    """Propose rates, to be looked at (`diff`) and published or withdrawn. Tiers and lanes are said in a file, as in weir.yaml's `seed`."""
    given = price_words(prices or [])
    if target.endswith(FILES):
        if given or free or end:
            raise Invalid("file", f"{target} is a file, and says all prices; leave out what follows it")
        changes = read_changes("rates", Path(target))
    elif end:
        if given or free:
            raise Invalid("end", "--end: the model is to have no rate any more; leave out its prices")
        changes = [Change(model=target, ended=True)]
    else:
        changes = [RateForm.model_validate({**given, "free": free}).change(target)]
    propose("rates", changes, note=note, effective=effective, config=config)


@app.command("list")
def index(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="left out: all")] = None,
    every: Annotated[bool, typer.Option("--all", help="past rates too")] = False,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """List the rates that apply now or will."""
    with open_books(config) as books:
        now_us, found = books.now_us, rates.list_rates(books.database, model)
    current = {rate.model: rate.id for rate in found if rate.effective_us <= now_us}  # by (effective_us, id): the last one stays
    rows = []
    for rate in found:
        state = "future" if rate.effective_us > now_us else "current" if current[rate.model] == rate.id else "past"
        if every or (state != "past" and not (rate.ended and state == "current")):
            rows += _rows(rate, state)
    write_rows(rows, form, COLUMNS, "no rates; set one: weir rate set MODEL --input 0.5 --output 1.5", brief=_narrow(BRIEF, rows))
    if form is Format.table and rows:
        typer.echo(UNIT)


@app.command("import")
def from_public_prices(
    models: Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="left out: the configured models that have no rate")] = None,
    *,
    credits_per_usd: Annotated[str, typer.Option("--credits-per-usd", help="how many credits one USD of public price is")] = "",
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """Propose rates from public prices (genai-prices, packaged, nothing is downloaded), and set them if you agree."""
    if not credits_per_usd:
        raise Invalid("credits_per_usd", "--credits-per-usd is missing: how many credits one USD of public price is, like 100")
    with open_books(config, dry_run=dry_run) as books:
        proposals = rates.propose(models or _unrated(books), credits_per_usd=credits_per_usd, now_us=books.now_us)
        rows = [row for proposal in proposals for row in _proposal_rows(proposal)]
        write_rows(rows, form, PROPOSAL_COLUMNS, "every configured model has a rate", brief=_narrow(PROPOSAL_COLUMNS, rows))
        changes = [Change(model=proposal.model, prices=proposal.prices, variants=proposal.variants) for proposal in proposals if proposal.prices]
        if not changes:
            if proposals:
                raise Conflict("none of these models is in the public price list; set their rates by hand: weir rate set MODEL --input X --output Y")
            return
        confirm(f"Set {len(changes)} rate{'s' if len(changes) > 1 else ''}?", yes or dry_run)
        rates.set_rates(books.database, changes, now_us=books.now_us)
    typer.echo(f"set {len(changes)}", err=True)


add_commands(app, "rates")


def _said(prices: dict[str, int]) -> str:
    figures = rate_figures(prices)
    units = (("credits per 1,000,000 tokens", [name for name in figures if name not in EACH]), ("credits each", [name for name in figures if name in EACH]))
    return "; ".join(", ".join(f"{name} {figures[name]}" for name in names) + f" {unit}" for unit, names in units if names)


def _unrated(books: Books) -> list[str]:
    rated = rates.rated_models(books.database, books.now_us)
    return [model for model in books.settings.models if model not in rated]


def _rows(rate: Rate, state: str) -> list[dict[str, Any]]:
    about = {"id": rate.id, "model": rate.model, "state": state, "free": rate.free, "effective": instant(rate.effective_us)}
    base = _prices(rate.prices) | ({"other": "free"} if rate.free else {"other": "no rate any more"} if rate.ended else {})
    return [about | {"when": ""} | base, *(about | {"when": when(variant)} | _prices(variant.prices) for variant in rate.variants)]


def _proposal_rows(proposal: rates.Proposal) -> list[dict[str, Any]]:
    about = {"model": proposal.model, "source": proposal.source}
    first = about | {"when": "", "notes": "; ".join(proposal.notes)} | _prices(proposal.prices)
    return [first, *(about | {"when": when(variant), "notes": ""} | _prices(variant.prices) for variant in proposal.variants)]


def _narrow(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """Leave out the conditions where no rate has any."""
    return columns if any(row["when"] for row in rows) else tuple(column for column in columns if column != "when")


def _prices(prices: dict[str, int]) -> dict[str, Any]:
    return price_cells(rate_figures(prices))
