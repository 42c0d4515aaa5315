"""Rows and their columns, before anybody has chosen a format. Pure.

A cell is text, a count, credits (an integer, ncr) or an amount (decimal text, exact), by its column's kind; None is a cell that says nothing. No cell
is ever a float.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

from billing.money import format_credits

Cell = str | int | None
Row = tuple[Cell, ...]
Kind = Literal["text", "count", "credits", "amount"]

# What spreadsheets take for the beginning of a formula, the full-width forms included, which some of them read alike.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_PASSED_OVER = " \u00a0\u3000\ufeff\u200b\x00"


class Column(msgspec.Struct, frozen=True):
    """A column. `total`: its cells are added up for the file's control totals; amounts by the row's currency."""

    name: str
    kind: Kind = "text"
    total: bool = False


class Grid(msgspec.Struct, frozen=True, kw_only=True):
    """Rows to be written, once: `rows` may be a generator. `about` heads a JSON file; `currency` names the column that says what amounts are in.

    `made_us` is the instant that a format with a creation time writes there; it comes from what is exported, so that the same export is the same bytes.
    """

    name: str
    columns: tuple[Column, ...]
    rows: Iterable[Row]
    about: dict[str, str]
    made_us: int
    currency: str | None = None


def columns(names: Iterable[str], kind: Kind = "text", *, total: bool = False) -> tuple[Column, ...]:
    """Make columns of one kind."""
    return tuple(Column(name, kind, total) for name in names)


def plain(column: Column, cell: Cell) -> str | int | None:
    """Return a cell as JSON and CSV write it: credits in decimal."""
    return format_credits(cell) if column.kind == "credits" and isinstance(cell, int) else cell


def disarm(text: str) -> str:
    """Return the text with an apostrophe in front where a spreadsheet could run it as a formula."""
    return f"'{text}" if text.startswith(_FORMULA) or text.lstrip(_PASSED_OVER).startswith(_FORMULA) else text
