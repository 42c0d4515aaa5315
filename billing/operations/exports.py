"""The files that finance takes away: a month's use, invoices, and FOCUS. Each is written into a file of the caller's, with a manifest of what it holds.

Everything comes from one snapshot of the books, a piece at a time: a file may be larger than memory. Invoices are given as (document, state) by whoever
has them; nothing here looks one up.
"""

from collections.abc import Callable, Iterable
from typing import BinaryIO, NamedTuple

import msgspec
from sqlmodel import Session

from billing.db import Database
from billing.errors import Invalid
from billing.exports import focus, invoice_json, invoice_lines, invoice_pdf, requests, usage
from billing.files import formats
from billing.files.manifest import Manifest
from billing.grants import periods
from billing.invoices import store as companies
from billing.invoices.document import CREDIT_NOTE, VOID, Document
from billing.operations import month as months
from billing.operations.month import Wanted
from billing.tenants.tenant import Tenant
from billing.usage.daily import DailyUsage, Span
from billing.usage.event import UsageEvent

PRODUCT = "Weir"
MEDIA_TYPES = {
    "csv": "text/csv; charset=utf-8; header=present",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "parquet": "application/vnd.apache.parquet",
    "pdf": "application/pdf",
}
Make = Callable[[BinaryIO], Manifest]
Documents = Iterable[tuple[Document, str]]


class Export(NamedTuple):
    """A file that can be made: its name, its media type, and what writes it."""

    filename: str
    media_type: str
    make: Make


def usage_file(
    db: Database, wanted: Wanted, *, by: str = "day", form: str = "csv", documents: Documents = (), touching: Iterable[Document] | None = None
) -> Export:
    """Prepare a month's use by day or by request, or as FOCUS (`form`), where `documents` are the month's invoices and credit notes.

    `touching` are the issued invoices that its use is on (None: those of `documents`): a period may begin or end within the month.

    Raises `Invalid` for a month, day, form or grouping that is none, and `NotFound` for the tenant, also while it is written.
    """
    _, end_us = periods.month_span(wanted.month, "UTC")
    if by not in ("day", "request"):
        raise Invalid("by", f"by: `{by[:20]}` is not one; write day or request")
    if form != "focus" and form not in formats.WRITERS:
        raise Invalid("format", f"format: `{form[:20]}` is not one; one of {', '.join(formats.WRITERS)}, focus")
    for name, day in (("from_day", wanted.from_day), ("to_day", wanted.to_day)):
        if day is not None and not day.startswith(wanted.month):
            raise Invalid(name, f"{name}: `{day[:20]}` is not a day of {wanted.month}; write it like {wanted.month}-03")
    narrow = (wanted.from_day, wanted.to_day, wanted.model, wanted.project)
    if (form == "focus" or by == "day") and any(one is not None for one in narrow):
        raise Invalid("by", "by: days, model and project choose among single requests; write --by request with them, in a format other than focus")
    if form == "focus" and by != "day":
        raise Invalid("by", "by: FOCUS is a row per day; write --by day, or another format")
    about = {name: value for name, value in msgspec.to_builtins(wanted).items() if value is not None}

    def make(out: BinaryIO) -> Manifest:
        with db.read(long=True, snapshot=True) as session:
            if form == "focus":
                return _focus(session, out, wanted, list(documents), None if touching is None else list(touching))
            if by == "request":
                found = (_request(*one) for one in months.requests(session, wanted))
                return formats.write(out, requests.grid(found, about, end_us), form)
            lines = months.daily_lines(session, months.tenants_of(session, wanted.month, wanted.tenant_id), wanted.month)
            return formats.write(out, usage.grid(lines, about, end_us), form)

    name, ending = ("focus", "csv") if form == "focus" else ("requests" if by == "request" else "usage", form)
    return Export(f"{name}-{wanted.month}.{ending}", MEDIA_TYPES[ending], make)


def invoice_file(documents: Documents, name: str, *, form: str = "csv", logo: bytes | None = None) -> Export:
    """Prepare invoices and credit notes as a file: their lines as a table (csv, jsonl, xlsx, parquet), or whole (json, and pdf for a single one).

    Raises `Invalid` for a form that is none, and for pdf unless there is exactly one.
    """
    listed = list(documents)
    if form not in ("json", "pdf", *formats.WRITERS):
        raise Invalid("format", f"format: `{form[:20]}` is not one; one of {', '.join([*formats.WRITERS, 'pdf'])}")
    if form == "pdf" and len(listed) != 1:
        raise Invalid("format", f"format: a PDF is of one invoice, and these are {len(listed)}; name one, or write another format")
    made_us = max((document.issued_us or document.period_end_us for document, _state in listed), default=0)

    def make(out: BinaryIO) -> Manifest:
        laid = invoice_lines.grid(listed, {}, made_us)
        if form not in ("json", "pdf"):
            return formats.write(out, laid, form)
        if form == "json":
            invoice_json.write(out, listed)
        else:
            out.write(invoice_pdf.to_pdf(*listed[0], logo))
        return formats.sealed(out, name=laid.name, form=form, tally=formats.counted(laid))

    return Export(f"{name}.{form}", MEDIA_TYPES[form], make)


def _focus(session: Session, out: BinaryIO, wanted: Wanted, documents: list[tuple[Document, str]], touching: list[Document] | None) -> Manifest:
    """Write the month as FOCUS. What is void was never owed and is left out; use on days that an invoice is for carries its number."""
    company = companies.get_company(session)
    issued = [document for document, state in documents if state != VOID]
    listed = {tenant.id: tenant for tenant in months.tenants_of(session, wanted.month, wanted.tenant_id)}
    numbers: dict[str, list[Document]] = {}
    for document in issued if touching is None else touching:
        if document.kind != CREDIT_NOTE and document.number is not None:
            numbers.setdefault(document.tenant_id, []).append(document)
    lines = months.daily_lines(session, listed.values(), wanted.month, by_project=True)
    uses = (_use(line, listed[line.tenant_id], wanted.month, numbers.get(line.tenant_id, [])) for line in lines)
    _, end_us = periods.month_span(wanted.month, "UTC")
    laid = focus.grid(issued, uses, provider=PRODUCT if company is None else company.party.name, about={}, made_us=end_us)
    return formats.write(out, laid, "csv")


def _use(line: DailyUsage, tenant: Tenant, month: str, invoices: list[Document]) -> focus.Use:
    mine = next((document for document in invoices if document.first_day <= line.day < document.end_day), None)
    return focus.Use(
        line=line,
        tenant_name=tenant.name,
        day_us=months.days_of(month, tenant.timezone)[line.day],
        period_us=periods.month_span(month, tenant.timezone) if mine is None else (mine.period_start_us, mine.period_end_us),
        invoice=None if mine is None else mine.number,
    )


def _request(event: UsageEvent, covered_ncr: int, tenant: Tenant, span: Span) -> requests.Request:
    return requests.Request(event=event, covered_ncr=covered_ncr, day=span.day, currency=tenant.currency, credit_price=span.credit_price)
