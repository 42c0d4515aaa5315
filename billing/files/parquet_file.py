"""Parquet, by row groups, for warehouses; with the extra `parquet`. Counts are 64-bit integers, credits decimal128 of 9 places, amounts of 12: never floats."""

from decimal import Decimal
from importlib.util import find_spec
from itertools import islice
from typing import Any, BinaryIO

from billing.errors import Invalid
from billing.files.grid import Cell, Column, Grid, plain
from billing.files.manifest import Tally

_AT_ONCE = 20_000
# An exact amount is credits (9 decimals) at a price (12): 21 places hold it whole.
_PLACES = {"credits": 9, "amount": 21}


def write(out: BinaryIO, grid: Grid, tally: Tally) -> None:
    """Write the rows as Parquet. Raises `Invalid` where the extra is not installed."""
    if find_spec("pyarrow") is None:
        raise Invalid("format", "format: parquet needs pyarrow, which is not installed; `pip install 'weir-gateway[parquet]'`")
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"text": pa.string(), "count": pa.int64(), **{kind: pa.decimal128(38, places) for kind, places in _PLACES.items()}}
    schema = pa.schema([(column.name, kinds[column.kind]) for column in grid.columns])
    rows = tally.counted()
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        while taken := list(islice(rows, _AT_ONCE)):
            for_each = zip(grid.columns, zip(*taken, strict=True), strict=True)
            arrays = [pa.array([_value(column, cell) for cell in cells], kinds[column.kind]) for column, cells in for_each]
            writer.write_table(pa.table(arrays, schema=schema))


def _value(column: Column, cell: Cell) -> Any:
    return Decimal(str(plain(column, cell))) if column.kind in _PLACES and cell is not None else cell
