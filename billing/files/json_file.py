"""JSON: one object with the rows and their totals, or one object a line (JSON lines), for files that no program should have to hold in memory."""

from typing import BinaryIO

import msgspec

from billing.files.grid import Grid, Row, plain
from billing.files.manifest import Tally


def write(out: BinaryIO, grid: Grid, tally: Tally) -> None:
    """Write one object: what the export is about, `lines`, and `totals`; credits and amounts as text, counts as numbers."""
    head = msgspec.json.encode(grid.about)[:-1]
    out.write(head + (b"," if grid.about else b"") + b'"lines":[')
    for number, row in enumerate(tally.counted()):
        out.write((b",\n" if number else b"\n") + _encode(grid, row))
    out.write(b'\n],"totals":' + msgspec.json.encode({"lines": tally.rows, **tally.totals()}) + b"}\n")


def write_lines(out: BinaryIO, grid: Grid, tally: Tally) -> None:
    """Write one object a line, nothing around them."""
    for row in tally.counted():
        out.write(_encode(grid, row) + b"\n")


def _encode(grid: Grid, row: Row) -> bytes:
    return msgspec.json.encode({column.name: plain(column, cell) for column, cell in zip(grid.columns, row, strict=True)})
