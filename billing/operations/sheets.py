"""Files of rows that are imported, all of them or none: read from CSV, with every fault told by its line.

A file is UTF-8, with a byte order mark or without, its lines end as they like, and a cell in quotes may hold line breaks. A cell that begins with an
apostrophe before =, +, - or @ was written so for spreadsheets' sake, and is read without it.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from billing.errors import Invalid

ROWS_MAX = 20_000  # one transaction holds the admin lock for all of them
FAULTS_MAX = 1_000  # that are told one by one: past it a file is another one than was meant
_FORMULA = ("'=", "'+", "'-", "'@")


class Row(msgspec.Struct, frozen=True):
    """A record: the line it begins on, and its cells by column, without space at their ends."""

    line: int
    cells: dict[str, str]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a row, in which column (empty: the row itself), and what would be right."""

    line: int
    id: str
    field: str
    message: str


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a row: `create`, `update` or `none` (it says what is so already)."""

    line: int
    id: str
    action: Literal["create", "update", "none"]


class ImportRefused(Invalid):
    """Some rows are wrong, and nothing was imported. `faults` are all of them, by line."""

    def __init__(self, faults: Sequence[Fault], rows: int) -> None:
        wrong = len({fault.line for fault in faults})
        first = "; ".join(f"line {fault.line}: {fault.message}" for fault in faults[:3])
        super().__init__("file", f"file: {wrong} of {rows} rows cannot be imported, and nothing was: {first}{'; ...' if len(faults) > 3 else ''}")
        self.faults = tuple(faults)


def read_rows(data: bytes, known: Sequence[str], needed: Sequence[str]) -> tuple[list[Row], list[Fault]]:
    """Read a file of rows, and say which of them are no rows. Raises `Invalid` for a file that cannot be read at all, or whose header is wrong."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Invalid("file", f"file: is not UTF-8 (byte {error.start + 1}); save it as CSV UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    rows: list[Row] = []
    faults: list[Fault] = []
    for line, cells in _records(reader):
        if header is None:
            header = _header(cells, known, needed)
        elif len(cells) != len(header):
            faults.append(Fault(line=line, id=cells[0][:80], field="", message=f"it has {len(cells)} cells, and the header {len(header)}"))
        else:
            rows.append(Row(line, {column: cell[1:] if cell.startswith(_FORMULA) else cell for column, cell in zip(header, cells, strict=True)}))
        if len(rows) > ROWS_MAX:
            raise Invalid("file", f"file: more than {ROWS_MAX} rows; import it in parts")
        if len(faults) > FAULTS_MAX:
            raise Invalid("file", f"file: more than {FAULTS_MAX} rows have not the {len(header)} cells of the header, the first on line {faults[0].line}")
    if header is None:
        raise Invalid("file", f"file: is empty; its first line names the columns, of which {', '.join(needed)} are needed")
    return rows, faults


def _records(reader: Any) -> Iterator[tuple[int, list[str]]]:
    line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, [cell.strip() for cell in cells]
            line = reader.line_num + 1
    except csv.Error as error:
        raise Invalid("file", f"file: line {line} is no CSV: {error}") from None


def _header(cells: list[str], known: Sequence[str], needed: Sequence[str]) -> list[str]:
    names = [cell.lower() for cell in cells]
    if unknown := [name for name in names if name not in known]:
        raise Invalid("file", f"file: column `{unknown[0][:80]}` is not known; the columns there are: {', '.join(known)}")
    if twice := [name for name in names if names.count(name) > 1]:
        raise Invalid("file", f"file: column `{twice[0]}` is there twice")
    if missing := [name for name in needed if name not in names]:
        raise Invalid("file", f"file: column `{missing[0]}` is missing; {', '.join(needed)} are needed, and there may be {', '.join(known)}")
    return names
