"""The commands that rates and costs share: propose prices, look at what would change, publish or withdraw, list what became of it."""

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from billing.errors import Invalid
from billing.operations import versions
from billing.operations.versions import Change, Version
from billing.rates.version import Book, Difference
from billing.rating import PARENTS
from gateway.cli.books import ConfigOption, open_books
from gateway.cli.render import DryRunOption, Format, FormatOption, YesOption, confirm, write_rows
from gateway.config.prices import ProposalForm, price_text
from gateway.config.source import read_file
from gateway.config.words import UNKNOWN, meant, names_at, plain
from gateway.wire.instants import parse
from gateway.wire.instants import show as instant

FILES = (".yaml", ".yml", ".json")
SHOWN = ("input", "output", "cache_read")
VERSION_COLUMNS = ("version", "state", "models", "effective", "created", "published", "withdrawn", "note")
DIFF_COLUMNS = {
    "rates": ("model", "when", "bucket", "old", "new", "percent"),
    "costs": ("backend", "model", "when", "bucket", "old", "new", "percent", "currency"),
}
UNITS = {
    "rates": "credits per 1,000,000 tokens; images, seconds, requests, searches: each",
    "costs": "money per 1,000,000 tokens; images, seconds, requests, searches: each",
}
VersionArgument = Annotated[int, typer.Argument(metavar="VERSION", help="as `versions` lists it", min=1)]
FromOption = Annotated[str | None, typer.Option("--from", help="2027-01-01 (midnight UTC), or an instant with its zone")]
NoteOption = Annotated[str, typer.Option(help="why, for whoever looks later")]


def read_changes(book: Book, path: Path) -> list[Change]:
    """Read a file of prices: for rates by model, for costs by backend and model; null instead of prices ends them. Raises `ConfigError`, `Invalid`."""
    file = read_file(path, {})
    try:
        return ProposalForm.model_validate({book: file.values}).changes()
    except ValidationError as error:
        faults = [(file.where(fault["loc"][1:]) or str(path), fault) for fault in error.errors()]
        raise Invalid("file", "\n".join(_fault(where, fault) for where, fault in faults)) from None


def propose(book: Book, changes: list[Change], *, note: str, effective: str | None, config: Path | None) -> None:
    """Write a proposal down, and say what to do with it."""
    with open_books(config) as books:
        effective_us = None if effective is None else parse(effective, "--from")
        made = versions.propose_version(books.database, book, changes, note=note, effective_us=effective_us, now_us=books.now_us)
    noun = "rate" if book == "rates" else "cost"
    typer.echo(f"proposed version {made.id} ({len(made.changes)} model{'s' if len(made.changes) > 1 else ''}); nothing applies yet")
    typer.echo(f"look: weir {noun} diff {made.id}; let it apply: weir {noun} publish {made.id}", err=True)


def price_words(words: list[str]) -> dict[str, str]:
    """Read `input=0.5 output=1.5`. Raises `Invalid` for a word of another shape, or a kind twice."""
    given: dict[str, str] = {}
    for word in words:
        bucket, equals, price = word.partition("=")
        if not equals or not price or bucket in given:
            raise Invalid("prices", f"`{word}` is no price{' (the kind is there twice)' if bucket in given else ''}; write them like input=0.5 output=1.5")
        given[bucket] = price
    return given


def price_cells(figures: dict[str, str]) -> dict[str, Any]:
    """Write prices into the columns `SHOWN`, and those that do not only follow another into `other`."""
    follows = {bucket: figures.get(parent) for bucket, parent in PARENTS.items()} | {"requests": "0"}
    other = [f"{bucket}={price}" for bucket, price in figures.items() if bucket not in SHOWN and price != follows.get(bucket)]
    return {bucket: figures.get(bucket) for bucket in SHOWN} | {"other": " ".join(other)}


def add_commands(app: typer.Typer, book: Book) -> None:
    """Add to a noun what its book shares with the other."""

    @app.command()
    def diff(version: VersionArgument, form: FormatOption = Format.table, config: ConfigOption = None) -> None:
        """Compare a version with what applies at its instant: each price that changes, and the models that would lose theirs."""
        with open_books(config) as books:
            found = versions.diff_version(books.database, book, version, books.now_us)
        losing = set(found.losing)
        rows = [_difference(book, line, (line.backend, line.model) in losing) for line in found.lines]
        write_rows(rows, form, (*DIFF_COLUMNS[book], "loses"), "no price changes", brief=DIFF_COLUMNS[book])
        if form is Format.table:
            typer.echo(f"version {version}, {found.version.state}, against what applies at {instant(found.at_us)}; {UNITS[book]}")
            for backend, model in found.losing:
                typer.echo(f"loses its {'rate, so its requests are refused' if book == 'rates' else 'cost'}: {f'{backend} ' if backend else ''}{model}")

    @app.command()
    def publish(
        version: VersionArgument, effective: FromOption = None, yes: YesOption = False, dry_run: DryRunOption = False, config: ConfigOption = None
    ) -> None:
        """Let a proposal apply, from now, the instant it was proposed for, or another one to come. It is never changed after."""
        with open_books(config, dry_run=dry_run) as books:
            found = versions.diff_version(books.database, book, version, books.now_us)
            if found.losing and found.version.state == "proposed":
                confirm(f"{', '.join(model for _, model in found.losing)} would have no price any more. Publish version {version}?", yes or dry_run)
            effective_us = None if effective is None else parse(effective, "--from")
            made = versions.publish_version(books.database, book, version, effective_us=effective_us, now_us=books.now_us)
        typer.echo(f"published version {version}; it applies from {instant(made.effective_us)}")

    @app.command()
    def withdraw(version: VersionArgument, config: ConfigOption = None) -> None:
        """Give a proposal up. It stays in the list, and cannot be published any more."""
        with open_books(config) as books:
            versions.withdraw_version(books.database, book, version, books.now_us)
        typer.echo(f"withdrew version {version}")

    @app.command("versions")
    def listed(form: FormatOption = Format.table, config: ConfigOption = None) -> None:
        """List the versions: proposed, published, withdrawn."""
        with open_books(config) as books:
            found = versions.list_versions(books.database, book)
        write_rows([_row(version) for version in found], form, VERSION_COLUMNS, "no versions", brief=VERSION_COLUMNS[:4])


def _row(version: Version) -> dict[str, Any]:
    models = [f"{change.backend} {change.model}".strip() for change in version.changes]
    return {
        "version": version.id,
        "state": version.state,
        "models": ", ".join(models[:5]) + (f" and {len(models) - 5} more" if len(models) > 5 else ""),
        "effective": instant(version.effective_us),
        "created": instant(version.created_us),
        "published": instant(version.published_us),
        "withdrawn": instant(version.withdrawn_us),
        "note": version.note,
    }


def _difference(book: Book, line: Difference, loses: bool) -> dict[str, Any]:
    def text(price: int | None) -> str | None:
        return None if price is None else price_text(book, line.bucket, price)

    moved = f"{line.old_currency} -> {line.currency}" if line.old_currency and line.currency and line.old_currency != line.currency else ""
    return {
        "backend": line.backend,
        "model": line.model,
        "when": line.when,
        "bucket": line.bucket,
        "old": text(line.old),
        "new": text(line.new),
        "percent": line.percent,
        "currency": moved or line.currency or line.old_currency,
        "loses": loses,
    }


def _fault(where: str, fault: Any) -> str:
    name = ".".join(str(part) for part in fault["loc"][1:])
    allowed = meant(str(fault["loc"][-1]), names_at(ProposalForm, fault["loc"][:-1])) if fault["type"] == UNKNOWN else ""
    return f"{where}: {f'`{name}` ' if name else ''}{plain(fault)}{allowed}"
