"""Every export of an invoice says the same, to the cent, in every currency; the PDF is what a company would send."""

import csv
import io
import json
from decimal import ROUND_HALF_UP, Decimal
from itertools import groupby

import msgspec
import openpyxl
import pypdfium2
import pytest

from billing.errors import Invalid
from billing.exports import invoice_pdf
from billing.invoices.document import Document
from billing.money import exponent, format_money
from billing.operations.exports import invoice_file
from billing.tenants.profile import Party
from tests.paper import BUYER, credits, document, draft, full, line, logo, usage
from tests.taken import take

CURRENCIES = ("USD", "EUR", "CNY", "JPY")


def text_of(pdf: bytes) -> list[str]:
    return [" ".join(page.get_textpage().get_text_range().split()) for page in pypdfium2.PdfDocument(pdf)]


def rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def credit_note(**more: object) -> Document:
    fields = {"kind": "credit_note", "number": "CN-00003", "corrects": "INV-00042", "reason": "Outage on 12 November 2026", "due_day": None} | more
    return document(line(1, "credit", "Credit for the outage", "-25.00"), **fields)


@pytest.mark.parametrize("currency", CURRENCIES)
def test_all_formats_add_up_to_what_is_payable(currency: str) -> None:
    paper = full(currency=currency)
    payable = Decimal(format_money(paper.total_minor, currency))
    listed = [(paper, "issued")]
    data, made = take(invoice_file(listed, "invoices"))
    assert sum(Decimal(row["amount"]) for row in rows(data)) == payable
    total = made.totals["amount"]
    assert isinstance(total, dict)
    assert Decimal(total[currency]) == payable
    book = openpyxl.load_workbook(io.BytesIO(take(invoice_file(listed, "invoices", form="xlsx"))[0]))
    head, *lines = book.worksheets[0].iter_rows(values_only=True)
    assert sum(Decimal(str(one[head.index("amount")])) for one in lines) == payable
    (whole,) = json.loads(take(invoice_file(listed, "invoices", form="json"))[0])
    assert Decimal(whole["total"]) == payable == sum(Decimal(one["amount"]) for one in whole["lines"]) + sum(Decimal(tax["tax"]) for tax in whole["taxes"])
    pages = "".join(text_of(take(invoice_file(listed, "INV-00042", form="pdf"))[0]))
    assert f"{currency} {payable:,}" in pages


@pytest.mark.parametrize("currency", CURRENCIES)
def test_the_taxes_in_the_file_are_those_of_en_16931(currency: str) -> None:
    listed = rows(take(invoice_file([(full(currency=currency), "issued")], "invoices"))[0])
    cent = Decimal(1).scaleb(-exponent(currency))
    lines = sorted((row for row in listed if row["line_kind"] != "tax"), key=lambda row: (row["tax_category"], row["tax_percent"]))
    for row in lines:
        assert Decimal(row["amount"]) == Decimal(row["exact_amount"]).quantize(cent, ROUND_HALF_UP)
    groups = {key: sum(Decimal(row["amount"]) for row in of) for key, of in groupby(lines, lambda row: (row["tax_category"], row["tax_percent"]))}
    taxes = {(row["tax_category"], row["tax_percent"]): row for row in listed if row["line_kind"] == "tax"}
    assert taxes.keys() == groups.keys()
    for key, taxable in groups.items():
        assert Decimal(taxes[key]["taxable"]) == taxable
        assert Decimal(taxes[key]["amount"]) == (taxable * Decimal(key[1]) / 100).quantize(cent, ROUND_HALF_UP)


def test_credits_are_counted_once_though_a_model_has_two_lines() -> None:
    paper = full()
    made = take(invoice_file([(paper, "issued")], "invoices"))[1]
    assert made.totals["overage_credits"] == "410.345456789"
    assert made.totals["credits"] == "5422.845456789"


def test_a_credit_note_takes_away() -> None:
    (row, tax) = rows(take(invoice_file([(credit_note(), "issued")], "x"))[0])
    assert (row["invoice"], row["document"], row["corrects"], row["amount"], tax["amount"]) == ("CN-00003", "credit_note", "INV-00042", "-25.00", "-4.75")
    pages = "".join(text_of(invoice_pdf.to_pdf(credit_note(), "issued")))
    assert "Credit note" in pages and "Outage on 12 November 2026" in pages and "EUR −29.75" in pages


def test_a_pdf_says_all_that_an_invoice_has_to() -> None:
    pages = "".join(text_of(invoice_pdf.to_pdf(full(), "issued", logo())))
    said = (
        "Invoice", "INV-00042", "ACME Research GmbH", "80802 München", "DE 298 765 432", "Northgate Compute GmbH", "DE 312 456 789",
        "2026-12-04", "2027-01-03",
        "PO-2026-1187", "R&D 4410", "Plan Max, version 3", "199.00", "Tax 19 % on 249.04", "47.32",
        "Reverse charge", "EUR 299.43", "IBAN DE02", "Payable within",
        "Closing balance", "520.654", "support-bot", "1,400.222", "Page 1 of 2", "HRB 123456",
    )  # fmt: skip
    assert [words for words in said if words not in pages] == []
    assert "DRAFT" not in pages


def test_a_long_invoice_repeats_its_header_and_numbers_its_pages() -> None:
    lines = [one for number in range(60) for one in usage(2 * number + 1, f"model-{number}", "p", 10**12, overage=10**12, price="0.01")]
    pages = text_of(invoice_pdf.to_pdf(document(*lines, credits=credits()), "issued"))
    assert len(pages) > 3
    assert all(f"Page {number} of {len(pages)}" in page for number, page in enumerate(pages, 1))
    assert all("Price per credit" in page or "Paid by credits" in page for page in pages)
    assert all("Invoice INV-00042" in page for page in pages[1:])


@pytest.mark.parametrize(("state", "mark"), [("draft", "DRAFT"), ("void", "VOID")])
def test_what_is_no_valid_invoice_is_marked_on_every_page(state: str, mark: str) -> None:
    paper = draft(full()) if state == "draft" else full()
    assert all(mark in page for page in text_of(invoice_pdf.to_pdf(paper, state)))


def test_a_chinese_invoice_is_chinese() -> None:
    buyer = Party(name="上海远景智能科技有限公司", address=("浦东新区世纪大道 100 号",), country="CN")
    pages = "".join(text_of(invoice_pdf.to_pdf(full(language="zh", currency="CNY", buyer=buyer), "issued")))
    assert [words for words in ("账单", "上海远景智能科技有限公司", "应付金额", "合计", "第 1 页") if words not in pages] == []
    assert "Amount due" not in pages


def test_markup_in_a_name_is_printed_and_not_run() -> None:
    evil = '*a* #panic("x") $x$ @b <c> \\ // #include "/etc/passwd" `r`'
    assert evil in "".join(text_of(invoice_pdf.to_pdf(full(buyer=msgspec.structs.replace(BUYER, name=evil)), "issued")))


@pytest.mark.parametrize("name", ["Fox 🦊 GmbH", "ﷺ"])
def test_a_character_that_no_typeface_has_is_an_error_and_no_box(name: str) -> None:
    with pytest.raises(Invalid, match=f"INV-00042 cannot be set as PDF.*{name.split()[-2] if ' ' in name else name}"):
        invoice_pdf.to_pdf(full(buyer=Party(name=name)), "issued")


@pytest.mark.parametrize("form", ["csv", "json", "jsonl", "xlsx", "pdf", "parquet"])
def test_the_same_invoice_is_the_same_bytes(form: str) -> None:
    first, second = (take(invoice_file([(full(), "issued")], "i", form=form, logo=logo())) for _ in range(2))
    assert first == second


def test_a_pdf_is_of_one_invoice() -> None:
    with pytest.raises(Invalid, match="a PDF is of one invoice, and these are 2"):
        invoice_file([(full(), "issued"), (credit_note(), "issued")], "x", form="pdf")
    with pytest.raises(Invalid, match="`doc` is not one"):
        invoice_file([], "x", form="doc")


def test_no_invoices_are_a_header_alone() -> None:
    assert take(invoice_file([], "x"))[0].count(b"\r\n") == 1
    assert json.loads(take(invoice_file([], "x", form="json"))[0]) == []
