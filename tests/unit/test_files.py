"""Rows in every format are the same rows: whole, summed, the same bytes each time, and safe to open."""

import csv
import hashlib
import io
import json
from decimal import Decimal

import openpyxl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import Invalid
from billing.files import formats, xlsx_file
from billing.files.grid import Cell, Column, Grid, Row, disarm
from billing.files.manifest import Manifest, Tally, encode
from billing.money import format_credits

COLUMNS = (Column("name"), Column("many", "count", True), Column("credits", "credits", True), Column("currency"), Column("amount", "amount", True))
ROWS: list[Row] = [
    ("acme", 3, 1_234_567_890, "EUR", "12.34"),
    ('多, "quoted"\r\nline', 0, -5, "JPY", "1200"),
    ("beta", None, 0, "EUR", "0.000000000001"),
    ("", 10**15, 10**18 + 1, "EUR", "-7.5"),
]
# What spreadsheets run, fetch or link: each would do something if it were taken for more than text.
DANGEROUS = [
    '=HYPERLINK("http://x.example","y")', "=1+1", "+1+1", "-2+3+cmd|' /C calc'!A0", "@SUM(1)", "\t=1", "\r=1", "\n=1", "＝1+1", "＋1", "－1", "＠SUM(1)",
    " =1", "\u00a0=1", "\u3000＝1", "\ufeff=1", "\u200b@x", "\x00=1",
]  # fmt: skip


def grid(rows: list[Row]) -> Grid:
    return Grid(name="things", columns=COLUMNS, rows=iter(rows), about={"month": "2026-11"}, made_us=1_796_079_600_000_000, currency="currency")


def written(rows: list[Row], form: str) -> tuple[bytes, Manifest]:
    out = io.BytesIO()
    made = formats.write(out, grid(rows), form)
    return out.getvalue(), made


def sheet(data: bytes) -> list[tuple[Cell, ...]]:
    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True)
    return [row for one in book.worksheets for row in list(one.iter_rows(values_only=True))[1:]]


@pytest.mark.parametrize("form", list(formats.WRITERS))
def test_the_manifest_says_what_is_in_the_file(form: str) -> None:
    data, made = written(ROWS, form)
    assert (made.rows, made.bytes, made.sha256, made.format) == (4, len(data), hashlib.sha256(data).hexdigest(), form)
    credits = format_credits(1_234_567_890 - 5 + 10**18 + 1)
    assert made.totals == {"many": 3 + 10**15, "credits": credits, "amount": {"EUR": "4.840000000001", "JPY": "1200"}}
    assert json.loads(encode(made))["totals"] == made.totals
    assert written(ROWS, form) == (data, made)


def test_csv_and_json_say_every_digit() -> None:
    lines = list(csv.DictReader(io.StringIO(written(ROWS, "csv")[0].decode(), newline="")))
    assert [line["credits"] for line in lines] == ["1.23456789", "-0.000000005", "0", "1000000000.000000001"]
    assert [line["name"] for line in lines] == [row[0] for row in ROWS]
    document = json.loads(written(ROWS, "json")[0])
    assert document["month"] == "2026-11"
    assert document["lines"][2] == {"name": "beta", "many": None, "credits": "0", "currency": "EUR", "amount": "0.000000000001"}
    assert document["lines"] == [json.loads(line) for line in written(ROWS, "jsonl")[0].splitlines()]


def test_no_rows_are_a_header_alone() -> None:
    assert written([], "csv")[0] == b"name,many,credits,currency,amount\r\n"
    assert json.loads(written([], "json")[0])["totals"] == {"lines": 0, "many": 0, "credits": "0", "amount": {}}
    assert written([], "jsonl")[0] == b""
    assert sheet(written([], "xlsx")[0]) == []
    assert pq.read_table(io.BytesIO(written([], "parquet")[0])).column_names == [column.name for column in COLUMNS]


def test_parquet_holds_decimals_and_no_floats() -> None:
    table = pq.read_table(io.BytesIO(written(ROWS, "parquet")[0]))
    assert [str(field.type) for field in table.schema] == ["string", "int64", "decimal128(38, 9)", "string", "decimal128(38, 21)"]
    assert sum(table["credits"].to_pylist()) == Decimal(1_234_567_890 - 5 + 10**18 + 1).scaleb(-9)
    assert sum(table["amount"].to_pylist()) == Decimal("1204.840000000001")


def test_another_program_sums_the_spreadsheet() -> None:
    rows = sheet(written(ROWS[:3], "xlsx")[0])
    assert sum(Decimal(str(row[2])) for row in rows) == Decimal("1.234567885")
    assert [Decimal(str(row[4])) for row in rows] == [Decimal("12.34"), Decimal(1200), Decimal("1E-12")]


def test_a_figure_with_more_digits_than_a_spreadsheet_holds_is_written_whole_as_text() -> None:
    assert sheet(written(ROWS, "xlsx")[0])[3][2] == "1000000000.000000001"


def test_what_is_longer_than_a_sheet_goes_on_in_another() -> None:
    out = io.BytesIO()
    laid = grid(ROWS)
    xlsx_file.write(out, laid, Tally(laid), rows_max=3)
    assert [len(list(one.iter_rows())) for one in openpyxl.load_workbook(out).worksheets] == [3, 3]
    assert [row[0] or "" for row in sheet(out.getvalue())] == [str(row[0]).replace("\r", "_x000D_") for row in ROWS]


@pytest.mark.parametrize("text", DANGEROUS)
def test_a_text_that_a_spreadsheet_would_run_is_disarmed_in_csv_and_stays_text_in_xlsx(text: str) -> None:
    row: Row = (text, 1, 1, "EUR", "1")
    (line,) = csv.DictReader(io.StringIO(written([row], "csv")[0].decode(), newline=""))
    assert line["name"] == f"'{text}"
    data, _made = written([row], "xlsx")
    (cell,) = [cells[0] for one in openpyxl.load_workbook(io.BytesIO(data)).worksheets for cells in list(one.iter_rows())[1:]]
    assert cell.data_type == "s"
    assert cell.hyperlink is None
    assert json.loads(written([row], "jsonl")[0])["name"] == text


@pytest.mark.parametrize("text", ["acme", "a=b", "1-2", "模型", "user@example.com", "", " x"])
def test_other_text_is_left_alone(text: str) -> None:
    assert disarm(text) == text


@pytest.mark.parametrize("text", ["http://x.example", "internal:Sheet1!A1", "mailto:a@b.example", "0123"])
def test_a_text_never_becomes_a_link_or_a_number(text: str) -> None:
    book = openpyxl.load_workbook(io.BytesIO(written([(text, 1, 1, "EUR", "1")], "xlsx")[0]))
    cell = book.worksheets[0]["A2"]
    assert (cell.value, cell.data_type, cell.hyperlink) == (text, "s", None)


cells = st.tuples(
    st.text(max_size=20), st.none() | st.integers(0, 10**12), st.none() | st.integers(-(10**18), 10**18), st.sampled_from(["EUR", "JPY"]),
    st.decimals(-(10**9), 10**9, places=12).map(lambda amount: f"{amount:f}"),
)  # fmt: skip


@given(st.lists(cells, max_size=8))
def test_the_same_rows_are_the_same_bytes_and_read_back_to_the_same_sums(rows: list[Row]) -> None:
    for form in ("csv", "json", "jsonl"):
        assert written(rows, form) == written(rows, form)
    document, made = json.loads(written(rows, "json")[0]), written(rows, "json")[1]
    assert document["totals"] == {"lines": len(rows), **made.totals}
    assert [line["name"] for line in document["lines"]] == [row[0] for row in rows]
    read = list(csv.DictReader(io.StringIO(written(rows, "csv")[0].decode(), newline="")))
    assert sum((Decimal(line["credits"] or 0) for line in read), Decimal(0)) == Decimal(sum(int(row[2] or 0) for row in rows)).scaleb(-9)


def test_a_format_that_is_none_is_refused() -> None:
    with pytest.raises(Invalid, match="one of csv, json, jsonl, xlsx, parquet"):
        written(ROWS, "doc")
