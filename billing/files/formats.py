"""The formats a grid can be written in, and the one function that writes it: out comes the file and its manifest."""

import hashlib
from collections.abc import Callable
from typing import BinaryIO

from billing.errors import Invalid
from billing.files import csv_file, json_file, parquet_file, xlsx_file
from billing.files.grid import Grid
from billing.files.manifest import Manifest, Tally

Writer = Callable[[BinaryIO, Grid, Tally], None]
WRITERS: dict[str, Writer] = {
    "csv": csv_file.write,
    "json": json_file.write,
    "jsonl": json_file.write_lines,
    "xlsx": xlsx_file.write,
    "parquet": parquet_file.write,
}


def write(out: BinaryIO, grid: Grid, form: str) -> Manifest:
    """Write a grid into an empty file that can be read back, and return what it holds. Raises `Invalid` for a format that is not one."""
    if form not in WRITERS:
        raise Invalid("format", f"format: `{form[:20]}` is not one; one of {', '.join(WRITERS)}")
    tally = Tally(grid)
    WRITERS[form](out, grid, tally)
    return sealed(out, name=grid.name, form=form, tally=tally)


def counted(grid: Grid) -> Tally:
    """Run through a grid's rows for their totals alone: for a file that lays the same out in another way."""
    tally = Tally(grid)
    for _row in tally.counted():
        pass
    return tally


def sealed(out: BinaryIO, *, name: str, form: str, tally: Tally) -> Manifest:
    """Return the manifest of a file that was just written, and leave it at its end."""
    out.flush()
    size = out.tell()
    out.seek(0)
    digest = hashlib.file_digest(out, "sha256").hexdigest()  # type: ignore[arg-type]
    return Manifest(name=name, format=form, rows=tally.rows, totals=tally.totals(), bytes=size, sha256=digest)
