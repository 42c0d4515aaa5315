"""/finance/invoices: drafts of closed periods, what was issued, and its corrections; each as a file, and a month's as one."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Query, Request, Response
from pydantic import BaseModel, Field

from billing.errors import Invalid
from billing.invoices.store import Invoice
from billing.money import format_money, parse_money
from billing.operations import invoices
from billing.operations.company import get_company
from billing.operations.exports import invoice_file
from gateway.auth.admin import AdminDesk, Desk
from gateway.auth.rehearsal import ChangingDesk
from gateway.config.forms import Form, Slug
from gateway.wire.documents import document_figures, invoice_figures
from gateway.wire.download import download
from gateway.wire.pages import show_next
from gateway.wire.problems import problem_router

router = problem_router("/invoices")
State = Literal["draft", "issued", "paid", "void"]
FILE: dict[int | str, dict[str, Any]] = {200: {"description": "The file", "content": {"application/pdf": {}, "text/csv": {}, "application/json": {}}}}


class InvoiceOut(BaseModel):
    """An invoice or a credit note as it stands; `number` once it is issued. Amounts are decimal text in its currency."""

    id: str
    number: str | None
    kind: Literal["invoice", "credit_note"]
    state: State
    tenant_id: str
    currency: str
    net: str
    tax: str
    total: str
    period_start: datetime
    period_end: datetime
    issued_at: datetime | None
    paid_at: datetime | None
    voided_at: datetime | None
    note: str | None
    corrects_id: str | None


class InvoiceShown(InvoiceOut):
    """An invoice with what it says, its sha256 once it is issued, and what credit notes took off it (0 or less)."""

    document: dict[str, Any]
    sha256: str | None
    credited: str


class Reason(Form):
    """Why."""

    reason: str = Field(min_length=1, max_length=200)


class Paid(Form):
    """That it was paid."""

    note: str | None = Field(None, max_length=200)


class CreditedLine(Form):
    """A line of the invoice and how much of it is credited; without an amount all that is left of it."""

    line: int = Field(ge=1)
    amount: str | None = Field(None, examples=["12.50"])


class Credit(Reason):
    """What is credited: some lines, or (left out) all that is left of the invoice."""

    lines: list[CreditedLine] | None = Field(None, min_length=1)


@router.get("", summary="List invoices")
def index(
    desk: AdminDesk,
    *,
    tenant_id: Slug | None = None,
    state: State | None = None,
    month: Annotated[str | None, Query(description="in which the period ended, like 2026-11")] = None,
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    request: Request,
    response: Response,
) -> list[InvoiceOut]:
    """List invoices and credit notes by id. The next page begins `after` the last id of this one; a `Link` with `rel="next"` names it."""
    found = invoices.list_invoices(desk.database, tenant_id=tenant_id, state=state, month=month, after=after, limit=limit)
    show_next(request, response, found[-1].id if len(found) == limit else None)
    return [InvoiceOut(**invoice_figures(one)) for one in found]


@router.get("/file", summary="Download a month's invoices", response_class=Response, responses=FILE)
def export(month: str, desk: AdminDesk, tenant_id: str | None = None, format: Literal["csv", "json", "jsonl", "xlsx", "parquet"] = "csv") -> Response:
    """Download the invoices and credit notes of periods that ended in a month (2026-11): a row for each line and tax, or whole as JSON."""
    return download(invoice_file(invoices.documents(desk.database, month=month, tenant_id=tenant_id), f"invoices-{month}", form=format))


@router.get("/preview", summary="Preview a tenant's next invoice")
def preview(tenant_id: Slug, desk: AdminDesk) -> dict[str, Any]:
    """Show the invoice of the period that runs as it would be if it were closed now. Nothing is written."""
    return document_figures(invoices.preview(desk.database, tenant_id, desk.now_us()))


@router.get("/{invoice_id}", summary="Show an invoice")
def show(invoice_id: str, desk: AdminDesk) -> InvoiceShown:
    """Show an invoice or a credit note, by its id or number, with what it says."""
    return _shown(invoices.show_invoice(desk.database, invoice_id))


@router.get("/{invoice_id}/file", summary="Download an invoice", response_class=Response, responses=FILE)
def export_one(invoice_id: str, desk: AdminDesk, format: Literal["pdf", "csv", "json", "jsonl", "xlsx", "parquet"] = "pdf") -> Response:
    """Download an invoice or a credit note: on paper, as a table, or whole as JSON. Once it is issued the bytes are the same every time."""
    found, company = invoices.show_invoice(desk.database, invoice_id), get_company(desk.database)
    name = (found.invoice.number or found.invoice.id).replace(":", "-")
    return download(invoice_file([(found.document, found.invoice.state)], name, form=format, logo=None if company is None else company.logo))


@router.post("/{invoice_id}/issue", summary="Issue an invoice")
def issue(invoice_id: str, desk: ChangingDesk) -> InvoiceShown:
    """Give a draft its number and keep what it says, for ever."""
    return _shown(invoices.issue_invoice(desk.database, invoice_id, desk.now_us()))


@router.post("/{invoice_id}/pay", summary="Mark an invoice as paid")
def pay(invoice_id: str, body: Paid, desk: ChangingDesk) -> InvoiceOut:
    """Say that an issued invoice is paid."""
    return _out(invoices.pay_invoice(desk.database, invoice_id, desk.now_us(), note=body.note))


@router.post("/{invoice_id}/void", summary="Declare an invoice void")
def void(invoice_id: str, body: Reason, desk: ChangingDesk) -> InvoiceOut:
    """Declare an issued invoice void; its number stays its own, and its period has a draft again."""
    return _out(invoices.void_invoice(desk.database, invoice_id, desk.now_us(), reason=body.reason))


@router.post("/{invoice_id}/credit", summary="Credit an invoice", status_code=201)
def credit(invoice_id: str, body: Credit, desk: ChangingDesk) -> InvoiceShown:
    """Correct an issued invoice by a credit note, with a number of its own."""
    return _shown(invoices.credit_invoice(desk.database, invoice_id, desk.now_us(), reason=body.reason, parts=_parts(desk, invoice_id, body)))


def _parts(desk: Desk, invoice_id: str, body: Credit) -> dict[int, int | None] | None:
    if body.lines is None:
        return None
    currency = invoices.show_invoice(desk.database, invoice_id).invoice.currency
    parts: dict[int, int | None] = {}
    for one in body.lines:
        if one.line in parts:
            raise Invalid("lines", f"lines: line {one.line} is named twice")
        parts[one.line] = None if one.amount is None else parse_money(one.amount, currency, "amount")
    return parts


def _out(invoice: Invoice) -> InvoiceOut:
    return InvoiceOut(**invoice_figures(invoice))


def _shown(found: invoices.Shown) -> InvoiceShown:
    credited = invoice_figures(found.invoice) | {"document": document_figures(found.document), "sha256": found.sha256}
    return InvoiceShown(**credited, credited=format_money(found.credited_minor, found.invoice.currency))
