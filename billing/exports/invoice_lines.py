"""Invoices and credit notes as a table: one row per line, then one per tax, and no total rows. An invoice's amounts add up to what is payable."""

from collections.abc import Iterable, Iterator

from billing.files.days import day_before
from billing.files.grid import Cell, Column, Grid, Row, columns
from billing.invoices.document import Document, Line, Tax
from billing.money import format_money

_HEAD = ("invoice", "document", "state", "tenant", "buyer", "first_day", "last_day", "issued_day", "due_day", "corrects", "po_number", "cost_centre")
COLUMNS = (
    *columns(_HEAD),
    Column("line", "count"),
    *columns(("line_kind", "description", "line_first_day", "line_last_day", "model", "project")),
    Column("requests", "count", total=True),
    *columns(("credits", "covered_credits", "debt_credits", "excess_credits", "overage_credits"), "credits", total=True),
    Column("credit_price", "amount"),
    *columns(("tax_category", "tax_percent", "tax_note", "currency")),
    Column("taxable", "amount"),
    Column("exact_amount", "amount"),
    Column("amount", "amount", total=True),
)
_USED = ("charge_ncr", "covered_ncr", "debt_ncr", "excess_ncr", "overage_ncr")


def grid(documents: Iterable[tuple[Document, str]], about: dict[str, str], made_us: int) -> Grid:
    """Lay out (document, state) as rows. Where a line has both `usage` and `overage`, its credits stand on the former alone."""
    rows = (row for document, state in documents for row in _rows(document, state))
    return Grid(name="invoices", columns=COLUMNS, rows=rows, about=about, made_us=made_us, currency="currency")


def _rows(document: Document, state: str) -> Iterator[Row]:
    head: Row = (
        document.number, document.kind, state, document.tenant_id, document.buyer.name, document.first_day, day_before(document.end_day),
        document.issued_day, document.due_day, document.corrects, document.po_number, document.cost_centre,
    )  # fmt: skip
    for line in document.lines:
        yield head + _line(line, document.currency)
    for tax in document.taxes:
        yield head + _tax(tax, document)


def _line(line: Line, currency: str) -> Row:
    # An overage line prices credits that its usage line has counted: counted again, the file's totals would say them twice.
    used: tuple[Cell, ...] = (None,) * 6 if line.kind == "overage" else (line.requests, *(getattr(line, field) for field in _USED))
    return (
        line.seq, line.kind, line.description, line.first_day, day_before(line.end_day), line.model, line.project, *used, line.unit_price,
        line.tax_category, line.tax_percent, None, currency, None, line.exact, format_money(line.amount_minor, currency),
    )  # fmt: skip


def _tax(tax: Tax, document: Document) -> Row:
    taxable, amount = (format_money(minor, document.currency) for minor in (tax.taxable_minor, tax.tax_minor))
    return (
        None, "tax", f"Tax {tax.percent} % on {taxable}", document.first_day, day_before(document.end_day), None, None, *(None,) * 6, None,
        tax.category, tax.percent, tax.note, document.currency, taxable, None, amount,
    )  # fmt: skip
