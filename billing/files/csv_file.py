"""CSV as RFC 4180 has it: CRLF, a header always, UTF-8. Text that a spreadsheet would run as a formula is disarmed."""

import csv
import io
from typing import BinaryIO

from billing.files.grid import Cell, Column, Grid, disarm, plain
from billing.files.manifest import Tally

_AT_ONCE = 64 * 1024


def write(out: BinaryIO, grid: Grid, tally: Tally) -> None:
    """Write the rows as CSV, a piece at a time."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([column.name for column in grid.columns])
    for row in tally.counted():
        writer.writerow([_cell(column, cell) for column, cell in zip(grid.columns, row, strict=True)])
        if text.tell() >= _AT_ONCE:
            out.write(text.getvalue().encode())
            text.seek(0)
            text.truncate()
    out.write(text.getvalue().encode())


def _cell(column: Column, cell: Cell) -> str | int | None:
    return disarm(cell) if column.kind == "text" and isinstance(cell, str) else plain(column, cell)
