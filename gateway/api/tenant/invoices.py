"""/tenant/invoices: what the tenant was invoiced, each as it was issued, and on paper."""

from typing import Annotated, Any, Literal

from fastapi import Query, Response
from pydantic import BaseModel

from billing.operations import own
from gateway.auth.tenant_side import OwnDesk
from gateway.wire.documents import document_figures, invoice_figures
from gateway.wire.download import download
from gateway.wire.problems import problem_router

router = problem_router("/invoices")


class OwnInvoice(BaseModel):
    """An invoice or a credit note. Amounts are decimal text in its currency."""

    id: str
    number: str
    kind: Literal["invoice", "credit_note"]
    state: Literal["issued", "paid", "void"]
    currency: str
    net: str
    tax: str
    total: str
    period_start: str
    period_end: str
    issued_at: str


class OwnInvoiceShown(OwnInvoice):
    """An invoice with what it says."""

    document: dict[str, Any]


@router.get("", summary="List my tenant's invoices")
def index(desk: OwnDesk, after: str = "", limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[OwnInvoice]:
    """List invoices and credit notes that were issued, by id; the next page begins `after` the last id of this one."""
    return [OwnInvoice.model_validate(invoice_figures(one)) for one in own.list_invoices(desk.scope, after=after, limit=limit)]


@router.get("/{invoice_id}", summary="Show one of my tenant's invoices")
def show(invoice_id: str, desk: OwnDesk) -> OwnInvoiceShown:
    """Show an invoice or a credit note, by its id or number, with what it says."""
    found = own.invoice(desk.scope, invoice_id)
    return OwnInvoiceShown.model_validate({**invoice_figures(found.invoice), "document": document_figures(found.document)})


@router.get("/{invoice_id}/file", summary="Download one of my tenant's invoices", response_class=Response)
def export(invoice_id: str, desk: OwnDesk) -> Response:
    """Download an invoice or a credit note as a PDF."""
    return download(own.invoice_paper(desk.scope, invoice_id))
