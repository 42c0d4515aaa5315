"""Writes what a command found: a table for people, as wide as a terminal, JSON or CSV with every column for programs.

Text cells of CSV that a spreadsheet would take for a formula get a leading apostrophe.
"""

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from billing.errors import Invalid

Row = Mapping[str, Any]


class Format(StrEnum):
    """How to write a list."""

    table = "table"
    json = "json"
    csv = "csv"


FormatOption = Annotated[Format, typer.Option("--format", "-f", help="table for people; json or csv for programs")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="say what would happen, and do nothing")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]


def write_rows(rows: Sequence[Row], form: Format, columns: Sequence[str], empty: str = "none", *, brief: Sequence[str] = ()) -> None:
    """Write rows to standard output; `columns` names their keys in order, `empty` is what a table says when there are none.

    `brief`: the columns of a table, where all of them would be wider than a terminal.
    """
    if form is Format.json:
        typer.echo(json.dumps([{column: row[column] for column in columns} for row in rows], ensure_ascii=False, indent=2))
    elif form is Format.csv:
        typer.echo(as_csv(rows, columns), nl=False)
    elif rows:
        _print(as_table(rows, brief or columns))
    else:
        typer.echo(empty)


def write_one(row: Row) -> None:
    """Write one thing's figures, a line each."""
    width = max(len(key) for key in row)
    for key, value in row.items():
        typer.echo(f"{key.replace('_', ' '):<{width}}  {printable(cell(value))}")


def as_csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Write rows as RFC 4180 has it (CRLF); the header is there also when there are no rows."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([_safe(row[column]) for column in columns] for row in rows)
    return out.getvalue()


def confirm(question: str, yes: bool) -> None:
    """Ask before something that cannot be taken back; without a terminal to ask on, `--yes` is needed. Exits with 2 on no."""
    if yes:
        return
    if not sys.stdin.isatty():
        typer.echo(f"weir: {question} Say --yes to do it.", err=True)
        raise typer.Exit(2)
    if not typer.confirm(question):
        raise typer.Exit(2)


def printable(text: str) -> str:
    """Replace what would move a terminal's cursor; line breaks too."""
    return "".join(character if character.isprintable() else "�" for character in text)


def as_table(rows: Sequence[Row], columns: Sequence[str]) -> Table:
    """Lay rows out for people."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        numeric = all(isinstance(row[column], int | float) or row[column] is None for row in rows)
        table.add_column(column.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell(row[column]))) for column in columns))
    return table


def _print(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)  # a pipe has no width: nothing is folded
    console.print(table, soft_wrap=not console.is_terminal)


def cell(value: Any) -> str:
    """Write one value for a person; an absent one as a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple | set | frozenset):
        return ",".join(sorted(str(item) for item in value))
    return str(value)


def _safe(value: Any) -> Any:
    if value is None:
        return ""
    text = cell(value)
    if isinstance(value, str) and text[:1] in ("=", "+", "-", "@", "\t", "\r") and not text.lstrip("-").replace(".", "", 1).isdigit():
        return "'" + text
    return text


def write_file(data: bytes, path: Path | None) -> None:
    """Write an export to a file, whole or not at all, or to standard output. Raises `Invalid` when the file cannot be written."""
    if path is None:
        typer.echo(data, nl=False)
        return
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        raise Invalid("output", f"{path}: cannot be written: {error.strerror or error}") from None
    typer.echo(f"wrote {path}: {len(data)} bytes", err=True)
