"""Invoices as people and programs read them: amounts in decimal text, credits too, instants ISO 8601. One shape for the API and the command line."""

from typing import Any

from billing.invoices.document import Document, Line
from billing.invoices.store import Invoice
from billing.money import format_credits, format_money
from gateway.wire.instants import from_us

_LINE_CREDITS = {"charge_ncr": "credits", "covered_ncr": "covered_credits", "debt_ncr": "debt_credits", "excess_ncr": "excess_credits"}


def invoice_figures(invoice: Invoice) -> dict[str, Any]:
    """Write how an invoice or credit note stands."""
    return {
        "id": invoice.id,
        "number": invoice.number,
        "kind": invoice.kind,
        "state": invoice.state,
        "tenant_id": invoice.tenant_id,
        "currency": invoice.currency,
        "net": format_money(invoice.net_minor, invoice.currency),
        "tax": format_money(invoice.tax_minor, invoice.currency),
        "total": format_money(invoice.total_minor, invoice.currency),
        "period_start": _instant(invoice.start_us),
        "period_end": _instant(invoice.end_us),
        "issued_at": _instant(invoice.issued_us),
        "paid_at": _instant(invoice.paid_us),
        "voided_at": _instant(invoice.voided_us),
        "note": invoice.note,
        "corrects_id": invoice.corrects_id,
    }


def document_figures(document: Document) -> dict[str, Any]:
    """Write what an invoice or credit note says."""
    currency = document.currency
    credits_ = document.credits
    return {
        "kind": document.kind,
        "id": document.id,
        "number": document.number,
        "tenant_id": document.tenant_id,
        "currency": currency,
        "language": document.language,
        "first_day": document.first_day,
        "end_day": document.end_day,
        "issued_day": document.issued_day,
        "due_day": document.due_day,
        "seller": _party(document.seller),
        "buyer": _party(document.buyer),
        "po_number": document.po_number,
        "cost_centre": document.cost_centre,
        "payment_terms": document.payment_terms,
        "bank": list(document.bank),
        "footer": document.footer,
        "corrects": document.corrects,
        "reason": document.reason,
        "lines": [line_figures(line, currency) for line in document.lines],
        "taxes": [
            {
                "category": tax.category,
                "percent": tax.percent,
                "taxable": format_money(tax.taxable_minor, currency),
                "tax": format_money(tax.tax_minor, currency),
                "note": tax.note,
            }
            for tax in document.taxes
        ],
        "net": format_money(document.net_minor, currency),
        "tax": format_money(document.tax_minor, currency),
        "total": format_money(document.total_minor, currency),
        "credits": None
        if credits_ is None
        else {name.removesuffix("_ncr"): format_credits(getattr(credits_, name)) for name in type(credits_).__struct_fields__},
    }


def line_figures(line: Line, currency: str) -> dict[str, Any]:
    """Write one line of an invoice."""
    return {
        "line": line.seq,
        "kind": line.kind,
        "description": line.description,
        "first_day": line.first_day,
        "end_day": line.end_day,
        "model": line.model,
        "project": line.project,
        "requests": line.requests,
        **{name: format_credits(getattr(line, field)) for field, name in _LINE_CREDITS.items()},
        "overage_credits": format_credits(line.overage_ncr),
        "credit_price": line.unit_price,
        "plan_id": line.plan,
        "plan_version": line.plan_version,
        "rate_ids": list(line.rate_ids),
        "exact": line.exact,
        "amount": format_money(line.amount_minor, currency),
        "tax_category": line.tax_category,
        "tax_percent": line.tax_percent,
    }


def _party(party: Any) -> dict[str, Any]:
    return {"name": party.name, "address": list(party.address), "country": party.country, "tax_id": party.tax_id, "email": party.email}


def _instant(us: int | None) -> str | None:
    return None if us is None else from_us(us).isoformat().replace("+00:00", "Z")
