"""`weir cost`: what backends charge us, in money per 1,000,000. Nothing is refused for want of a cost, but a missing one is never taken for zero."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from backends.vendors import vendor_named
from billing.errors import Conflict, Invalid
from billing.operations import costs, versions
from billing.operations.versions import Change
from billing.rates.cost import Cost
from billing.rating import Variant, when
from gateway.cli import gpu
from gateway.cli.books import Books, ConfigOption, open_books
from gateway.cli.render import DryRunOption, Format, FormatOption, write_rows
from gateway.cli.versions import FILES, FromOption, NoteOption, add_commands, price_cells, propose, read_changes
from gateway.config.prices import CostForm, cost_figures
from gateway.wire.instants import parse
from gateway.wire.instants import show as instant

app = typer.Typer(no_args_is_help=True, help="Costs: what backends charge us, in money.")
COLUMNS = ("backend", "model", "when", "state", "currency", "input", "output", "cache_read", "free", "other", "effective", "id")
BRIEF = ("backend", "model", "when", "state", "currency", "input", "output", "cache_read", "other")
PROPOSAL_COLUMNS = ("backend", "model", "when", "source", "input", "output", "cache_read", "other", "notes")
UNIT = "per 1,000,000 tokens; images, seconds, requests, searches: each"
_Price = Annotated[str | None, typer.Option(help="per 1,000,000 tokens")]
_Each = Annotated[str | None, typer.Option(help="each")]


@app.command("set")
def put(
    backend: Annotated[str, typer.Argument(metavar="BACKEND", help="as in weir.yaml")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="its name at the backend")],
    *,
    currency: Annotated[str, typer.Option(help="ISO 4217")] = "USD",
    input: _Price = None,
    output: _Price = None,
    cache_read: _Price = None,
    cache_write_5m: Annotated[str | None, typer.Option("--cache-write-5m", help="per 1,000,000 tokens")] = None,
    cache_write_1h: Annotated[str | None, typer.Option("--cache-write-1h", help="per 1,000,000 tokens")] = None,
    audio_in: _Price = None,
    image_in: _Price = None,
    audio_out: _Price = None,
    reasoning: _Price = None,
    images: _Each = None,
    seconds: _Each = None,
    requests: _Each = None,
    searches: _Each = None,
    free: Annotated[bool, typer.Option("--free", help="it charges nothing by use, on purpose")] = False,
    effective: FromOption = None,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
) -> None:
    """Set what a backend charges for a model from now, or from a later instant, on."""
    given = {name: value for name, value in locals().items() if name in CostForm.model_fields}
    form = CostForm(**given)
    with open_books(config, dry_run=dry_run) as books:
        change, prices = form.change(backend, model), form.prices()
        effective_us = None if effective is None else parse(effective, "--from")
        made = costs.set_cost(
            books.database,
            backend=backend,
            model=model,
            currency=change.currency,
            prices=prices,
            free=form.free,
            effective_us=effective_us,
            now_us=books.now_us,
        )
        known = [(route.backend, route.model) for route in _routes(books)]
    if (backend, model) not in known:
        typer.echo(f"warning: no configured route goes to model `{model}` at backend `{backend}`; its cost waits until one does", err=True)
    said = ", ".join(f"{bucket} {price}" for bucket, price in cost_figures(prices).items())
    typer.echo(f"{backend} {model}: {f'{said} {change.currency}' if said else 'free'}, from {instant(made.effective_us)}")


@app.command("propose")
def put_forward(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a YAML file of costs by backend and model (null: no cost any more)")],
    effective: FromOption = None,
    note: NoteOption = "",
    config: ConfigOption = None,
) -> None:
    """Propose costs, to be looked at (`diff`) and published or withdrawn."""
    if not file.name.endswith(FILES):
        raise Invalid("file", f"{file}: name a file ({', '.join(FILES)}); for one model there is: weir cost set BACKEND MODEL")
    propose("costs", read_changes("costs", file), note=note, effective=effective, config=config)


@app.command("list")
def index(
    backend: Annotated[str | None, typer.Argument(metavar="BACKEND", help="left out: all")] = None,
    every: Annotated[bool, typer.Option("--all", help="past costs too")] = False,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """List the costs that apply now or will, and the configured routes that have none."""
    with open_books(config) as books:
        now_us, found = books.now_us, costs.list_costs(books.database, backend)
        routes = [(route.backend, route.model) for route in _routes(books) if backend in (None, route.backend)]
    current = {(cost.backend, cost.model): cost.id for cost in found if cost.effective_us <= now_us}  # by (effective_us, id): the last one stays
    rows = []
    for cost in found:
        state = "future" if cost.effective_us > now_us else "current" if current[cost.backend, cost.model] == cost.id else "past"
        if every or (state != "past" and not (cost.ended and state == "current")):
            rows += _rows(cost, state)
    write_rows(rows, form, COLUMNS, "no costs; set one: weir cost set BACKEND MODEL --input 0.27 --output 1.10 --currency USD", brief=BRIEF)
    if form is Format.table:
        if rows:
            typer.echo(UNIT)
        have = {(row["backend"], row["model"]) for row in rows}
        for name, model in routes:
            if (name, model) not in have:
                typer.echo(f"no cost: {name} {model}", err=True)


@app.command("import")
def from_public_prices(
    backends: Annotated[list[str] | None, typer.Argument(metavar="[BACKEND]...", help="left out: every backend that a model is routed to")] = None,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """Make a proposal from public prices (genai-prices, packaged, nothing is downloaded) for the configured routes. Publish it if you agree."""
    with open_books(config) as books:
        routes = [route for route in _routes(books) if not backends or route.backend in backends]
        proposals = costs.propose_costs(routes, now_us=books.now_us)
        write_rows([row for proposal in proposals for row in _proposal_rows(proposal)], form, PROPOSAL_COLUMNS, "no routes to third parties are configured")
        changes = [
            Change(backend=proposal.backend, model=proposal.model, currency="USD", prices=proposal.prices, variants=proposal.variants)
            for proposal in proposals
            if proposal.prices
        ]
        if not changes:
            raise Conflict("none of these routes is in the public price list; set their costs by hand: weir cost set BACKEND MODEL --input X --output Y")
        made = versions.propose_version(books.database, "costs", changes, note="public prices (genai-prices)", now_us=books.now_us)
    typer.echo(f"proposed version {made.id}; look: weir cost diff {made.id}; let it apply: weir cost publish {made.id}", err=True)


add_commands(app, "costs")
app.add_typer(gpu.app, name="gpu")


def _routes(books: Books) -> Iterator[costs.Route]:
    """Yield each backend and model that a public model is routed to, once, with the backend's address."""
    seen = set()
    for model in books.settings.models.values():
        for route in model.routes:
            if (route.backend, route.model) in seen or route.backend not in books.settings.backends:
                continue
            seen.add((route.backend, route.model))
            backend = books.settings.backends[route.backend]
            if backend.provider != "echo":
                yield costs.Route(route.backend, route.model, backend.urls[0].url if backend.urls else vendor_named(backend.vendor).base_url)


def _rows(cost: Cost, state: str) -> list[dict[str, Any]]:
    about = {
        "id": cost.id, "backend": cost.backend, "model": cost.model, "state": state, "currency": cost.currency, "free": cost.free,
        "effective": instant(cost.effective_us),
    }  # fmt: skip
    base = _prices(cost.prices) | ({"other": "free"} if cost.free else {"other": "no cost any more"} if cost.ended else {})
    return [about | {"when": ""} | base, *_variant_rows(about, cost.variants)]


def _proposal_rows(proposal: costs.Proposal) -> list[dict[str, Any]]:
    about = {"backend": proposal.backend, "model": proposal.model, "source": proposal.source}
    return [about | {"when": "", "notes": "; ".join(proposal.notes)} | _prices(proposal.prices), *_variant_rows(about | {"notes": ""}, proposal.variants)]


def _variant_rows(about: dict[str, Any], variants: tuple[Variant, ...]) -> list[dict[str, Any]]:
    return [about | {"when": when(variant)} | _prices(variant.prices) for variant in variants]


def _prices(prices: dict[str, int]) -> dict[str, Any]:
    return price_cells(cost_figures(prices))
