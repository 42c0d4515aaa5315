"""An invoice as a value: everything that is printed on it, and nothing that is looked up later. Pure.

What is issued is kept as this, so that it says for ever what it said; every export of an invoice (JSON, CSV, XLSX, PDF, FOCUS) reads nothing else.
Amounts follow EN 16931: a line is rounded to the minor unit, lines of one tax category and rate are summed, that sum is taxed and rounded once, and the
total is the sum of the sums. A credit note has the same shape, with negative amounts.
"""

from typing import Literal

import msgspec

from billing.tenants.profile import Party

INVOICE, CREDIT_NOTE = "invoice", "credit_note"
DRAFT, ISSUED, PAID, VOID = "draft", "issued", "paid", "void"
LineKind = Literal["fee", "top_up", "usage", "overage", "correction", "credit"]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line. Days are ISO dates of the tenant's calendar, [first_day, end_day); credits in ncr, `amount_minor` in the currency's minor unit.

    charge = covered (paid by grants) + debt (owed to the next grants) + excess (given away) + overage (invoiced). A `usage` line costs 0: credits paid
    it; the money for what they did not is an `overage` line of the same model and project. `exact` is the amount before it was rounded, decimal text in
    major units; `unit_price` what one credit costs, where that made it. `rate_ids` are the rates that applied.
    """

    seq: int
    kind: LineKind
    description: str
    first_day: str
    end_day: str
    amount_minor: int
    exact: str
    tax_category: str
    tax_percent: str
    model: str | None = None
    project: str | None = None
    requests: int = 0
    charge_ncr: int = 0
    covered_ncr: int = 0
    debt_ncr: int = 0
    excess_ncr: int = 0
    overage_ncr: int = 0
    unit_price: str | None = None
    plan: str | None = None
    plan_version: int | None = None
    rate_ids: tuple[int, ...] = ()


class Tax(msgspec.Struct, frozen=True, kw_only=True):
    """The tax on all lines of one category and rate; `note` is why none is charged, where that has to be said."""

    category: str
    percent: str
    taxable_minor: int
    tax_minor: int
    note: str | None = None


class Credits(msgspec.Struct, frozen=True, kw_only=True):
    """The tenant's credits over the period, in ncr: opening + granted - used - expired - voided = closing. `debt` is owed at its end."""

    opening_ncr: int
    granted_ncr: int
    used_ncr: int
    expired_ncr: int
    voided_ncr: int
    closing_ncr: int
    debt_ncr: int


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice or a credit note. `number`, `issued_day` and `due_day` are None until it is issued; instants in UTC epoch microseconds.

    `period_*` is the billing period in the tenant's zone, half-open. `corrects` is the number of the invoice that a credit note is about.
    """

    kind: str
    id: str
    number: str | None
    series: str
    tenant_id: str
    currency: str
    language: str
    timezone: str
    period_start_us: int
    period_end_us: int
    first_day: str
    end_day: str
    seller: Party
    buyer: Party
    lines: tuple[Line, ...]
    taxes: tuple[Tax, ...]
    net_minor: int
    tax_minor: int
    total_minor: int
    credits: Credits | None = None
    po_number: str | None = None
    cost_centre: str | None = None
    payment_terms: str | None = None
    bank: tuple[str, ...] = ()
    footer: str | None = None
    issued_us: int | None = None
    issued_day: str | None = None
    due_day: str | None = None
    corrects: str | None = None
    reason: str | None = None


def encode(document: Document) -> bytes:
    """Write a document as JSON with sorted keys: what is stored and hashed. The same document is the same bytes."""
    return msgspec.json.encode(document, order="sorted")


def decode(data: bytes | str) -> Document:
    """Read a stored document back. Raises `msgspec.ValidationError` for bytes that are none."""
    return msgspec.json.decode(data, type=Document)
