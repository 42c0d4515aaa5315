"""XLSX, a row at a time. Text is written as text whatever it looks like: never a formula, never a link.

Credits and amounts are numbers, so that they can be summed. A spreadsheet holds 15 digits of a number; a figure with more is written as text, whole,
rather than as a number that is nearly right. A sheet has at most 1,048,576 rows: what is longer goes on in another sheet.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, BinaryIO

import xlsxwriter

from billing.files.grid import Cell, Column, Grid, plain
from billing.files.manifest import Tally

ROWS_MAX = 1_048_576
DIGITS_MAX = 15
CHARS_MAX = 32_767
_WIDTHS = {"text": 24, "count": 12, "credits": 18, "amount": 16}


def write(out: BinaryIO, grid: Grid, tally: Tally, rows_max: int = ROWS_MAX) -> None:
    """Write the rows as a workbook, with the header in every sheet."""
    book = xlsxwriter.Workbook(out, {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False})
    book.set_properties({"title": grid.name, "created": datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None) + timedelta(microseconds=grid.made_us)})
    bold = book.add_format({"bold": True, "bottom": 1})
    figures = {"count": book.add_format({"num_format": "#,##0"}), "credits": book.add_format({"num_format": "#,##0.0########"})}
    figures["amount"] = book.add_format({"num_format": "#,##0.00##########"})
    sheet, place = _sheet(book, grid, bold), 1
    for row in tally.counted():
        if place == rows_max:
            sheet, place = _sheet(book, grid, bold), 1
        for index, (column, cell) in enumerate(zip(grid.columns, row, strict=True)):
            _write(sheet, (place, index), column, cell, figures)
        place += 1
    book.close()


def _sheet(book: Any, grid: Grid, bold: Any) -> Any:
    number = len(book.worksheets()) + 1
    sheet = book.add_worksheet(grid.name[:25] if number == 1 else f"{grid.name[:25]} {number}")
    sheet.freeze_panes(1, 0)
    for index, column in enumerate(grid.columns):
        sheet.set_column(index, index, max(_WIDTHS[column.kind], len(column.name) + 2))
    for index, column in enumerate(grid.columns):
        sheet.write_string(0, index, column.name, bold)
    return sheet


def _write(sheet: Any, at: tuple[int, int], column: Column, cell: Cell, figures: dict[str, Any]) -> None:
    if cell is None:
        return
    text = str(plain(column, cell))
    if column.kind == "text" or len(text.lstrip("-").replace(".", "").lstrip("0")) > DIGITS_MAX:
        sheet.write_string(*at, text[:CHARS_MAX])
    else:
        sheet.write_number(*at, Decimal(text), figures[column.kind])
