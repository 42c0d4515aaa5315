"""Invoices on paper for the tests of their exports: documents whose sums are right, in any currency and language."""

import struct
import zlib
from decimal import Decimal
from typing import Any

import msgspec

from billing.invoices.document import Credits, Document, Line, Tax
from billing.money import format_exact, price_of, round_money
from billing.tenants.profile import Party

CREDIT = 10**9
START_US, END_US = 1_793_487_600_000_000, 1_796_079_600_000_000  # November 2026 in Berlin
ISSUED_US = 1_796_342_400_000_000  # 4 December 2026
SELLER = Party(
    name="Northgate Compute GmbH", address=("Hafenstraße 12", "20457 Hamburg"), country="DE", tax_id="DE 312 456 789", email="billing@northgate.example"
)
BUYER = Party(
    name="ACME Research GmbH", address=("Einkauf", "Leopoldstraße 8", "80802 München"), country="DE", tax_id="DE 298 765 432", email="invoices@acme.example"
)


def line(seq: int, kind: Any, description: str, exact: str, currency: str = "EUR", **more: Any) -> Line:
    """A line whose amount is the exact one, rounded."""
    fields = {"first_day": "2026-11-01", "end_day": "2026-12-01", "tax_category": "S", "tax_percent": "19", "model": None, "project": None} | more
    return Line(seq=seq, kind=kind, description=description, exact=exact, amount_minor=round_money(Decimal(exact), currency), **fields)


def usage(
    seq: int, model: str, project: str | None, charge: int, *, currency: str = "EUR", overage: int = 0, price: str | None = None, **more: Any
) -> list[Line]:
    """What a model and project used: a line that credits paid, and one for what they did not."""
    of = {"model": model, "project": project} | more
    parts = {"requests": charge // CREDIT + 3, "charge_ncr": charge, "covered_ncr": charge - overage, "overage_ncr": overage}
    lines = [line(seq, "usage", f"Use of {model}", "0", currency, **of, **parts)]
    if price is not None:
        exact = format_exact(price_of(overage, Decimal(price)))
        lines.append(line(seq + 1, "overage", f"Use of {model} past the credits", exact, currency, **of, overage_ncr=overage, unit_price=price))
    return lines


def document(*lines: Line, **more: Any) -> Document:
    """An issued invoice of these lines, taxed and summed as EN 16931 has it."""
    currency = more.get("currency", "EUR")
    taxes = []
    for category, percent in sorted({(one.tax_category, one.tax_percent) for one in lines}):
        taxable = sum(one.amount_minor for one in lines if (one.tax_category, one.tax_percent) == (category, percent))
        exact = Decimal(taxable).scaleb(-(0 if currency == "JPY" else 2)) * Decimal(percent) / 100
        note = None if category == "S" else "Reverse charge: VAT to be accounted for by the recipient"
        taxes.append(Tax(category=category, percent=percent, taxable_minor=taxable, tax_minor=round_money(exact, currency), note=note))
    net, tax = sum(one.amount_minor for one in lines), sum(one.tax_minor for one in taxes)
    fields: dict[str, Any] = {
        "kind": "invoice", "id": "inv_1", "number": "INV-00042", "series": "INV", "tenant_id": "acme", "currency": currency, "language": "en",
        "timezone": "Europe/Berlin", "period_start_us": START_US, "period_end_us": END_US, "first_day": "2026-11-01", "end_day": "2026-12-01",
        "seller": SELLER, "buyer": BUYER, "issued_us": ISSUED_US, "issued_day": "2026-12-04", "due_day": "2027-01-03",
    }  # fmt: skip
    return Document(**(fields | more), lines=lines, taxes=tuple(taxes), net_minor=net, tax_minor=tax, total_minor=net + tax)


def draft(of: Document) -> Document:
    """The same before it was issued."""
    return msgspec.structs.replace(of, number=None, issued_us=None, issued_day=None, due_day=None)


def credits() -> Credits:
    """An account over a month that adds up."""
    return Credits(
        opening_ncr=120 * CREDIT, granted_ncr=5500 * CREDIT, used_ncr=5012_345_678_901, expired_ncr=87 * CREDIT,
        voided_ncr=0, closing_ncr=120 * CREDIT + 5500 * CREDIT - 5012_345_678_901 - 87 * CREDIT, debt_ncr=0,
    )  # fmt: skip


def full(**more: Any) -> Document:
    """A month with everything on it: fee, top-up, overage, a correction, two rates of tax."""
    currency = more.get("currency", "EUR")
    listed = [
        line(1, "fee", "Plan Max, version 3", "199", currency, plan="max", plan_version=3),
        line(2, "top_up", "Top-up of 500 credits", "45", currency),
        *usage(3, "llama-70b", "search", 3210_123_456_789, currency=currency, overage=410_123_456_789, price="0.0123"),
        *usage(5, "llama-70b", None, 812_500_000_000, currency=currency, overage=0),
        *usage(6, "deepseek-chat", "support-bot", 1400_222_000_000, currency=currency, overage=222_000_000, price="0.0123"),
        line(
            8,
            "correction",
            "Late use of October 2026",
            "3.07",
            currency,
            model="llama-70b",
            first_day="2026-10-31",
            end_day="2026-11-01",
            tax_category="AE",
            tax_percent="0",
        ),
    ]
    defaults: dict[str, Any] = {
        "credits": credits(), "po_number": "PO-2026-1187", "cost_centre": "R&D 4410", "payment_terms": "Payable within 30 days, without deduction.",
        "bank": ("Hanseatische Bank", "IBAN DE02 1203 0000 0000 2020 51", "BIC BYLADEM1001"),
        "footer": "Northgate Compute GmbH · Amtsgericht Hamburg HRB 123456 · Managing director: J. Petersen",
    }  # fmt: skip
    return document(*listed, **(defaults | more))


def logo() -> bytes:
    """A PNG of 240 x 80: a dark bar and a blue one."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(
        b"\0" + b"".join(b"\x10\x3a\x5c" if x < 70 or y > 60 else b"\xff\xff\xff" if x < 80 else b"\x2f\x8f\xd0" for x in range(240)) for y in range(80)
    )
    head = struct.pack(">IIBBBBB", 240, 80, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
