"""Invoices: look at one as it would be, issue, pay, void, credit; and who sends them. Each function is one transaction.

A draft is made anew whenever it is looked at, from the closed period's facts and from who tenant and company are on paper now. Issuing gives it a number
and keeps what it says, for ever; what was wrong then is corrected by a credit note, never by another issue.
"""

from datetime import timedelta

import msgspec
from sqlmodel import Session

from billing.audit.store import record
from billing.db import Database
from billing.errors import Conflict, Invalid, NotFound
from billing.feeds.tell import tell_invoice, tell_void
from billing.grants.periods import day_of, month_span
from billing.invoices import store, words
from billing.invoices.company import Company
from billing.invoices.credit import Parts, credit_note
from billing.invoices.document import CREDIT_NOTE, DRAFT, INVOICE, ISSUED, PAID, VOID, Document
from billing.invoices.store import Invoice
from billing.operations import periods as closing
from billing.operations.tenants import require_tenant
from billing.periods import store as periods
from billing.tenants.store import note_change

STATES = (DRAFT, ISSUED, PAID, VOID)
LIST_MAX = 1000
DAY_US = 86_400_000_000


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice as it stands, with what it says, and its sha256 once it is issued. `credited_minor` is the total of its credit notes (0 or less)."""

    invoice: Invoice
    document: Document
    sha256: str | None = None
    credited_minor: int = 0


def preview(db: Database, tenant_id: str, now_us: int, *, at_us: int | None = None) -> Document:
    """Return the invoice of the period around an instant (now by default) as it would be if it were closed now. Writes nothing.

    Raises `NotFound`, and `Conflict` where the tenant's months have not begun.
    """
    with db.read(long=True) as session:
        require_tenant(session, tenant_id)
        holder = closing.holders(session, [tenant_id])[tenant_id]
        span = holder.span(now_us if at_us is None else at_us)
        if span is None:
            raise Conflict(f"tenant `{tenant_id}` has no period yet: its months begin with its first request")
        closed = periods.get_closed(session, tenant_id, span.start_us)
        facts = closing.closing(session, [(holder, span)], now_us)[0] if closed is None else closed.facts
        document = closing.write_draft(session, holder, facts)
        last = periods.last_closed(session, [tenant_id]).get(tenant_id)
        follows = closed is not None or span.first or (last is not None and last.facts.end_us == span.start_us)
        return document if follows else msgspec.structs.replace(document, credits=None)  # its opening is not known yet


def list_invoices(
    db: Database, *, tenant_id: str | None = None, state: str | None = None, month: str | None = None, after: str = "", limit: int = 100
) -> list[Invoice]:
    """Return invoices and credit notes by id, the page after an id: of a tenant, in a state, of periods that ended within a month (YYYY-MM, UTC).

    A period that ends as a month does counts to that month, wherever the tenant lives. Raises `Invalid` and `NotFound`.
    """
    if state is not None and state not in STATES:
        raise Invalid("state", f"state: `{state}` is not one; one of {', '.join(STATES)}")
    if not 1 <= limit <= LIST_MAX:
        raise Invalid("limit", f"limit: {limit} is not between 1 and {LIST_MAX}")
    with db.read() as session:
        if tenant_id is not None:
            require_tenant(session, tenant_id)
        ended = None if month is None else _ended_in(month)
        return store.invoices(session, tenant_id=tenant_id, state=state, ended=ended, after=after, limit=limit)


def show_invoice(db: Database, name: str) -> Shown:
    """Return an invoice or a credit note by its id or number. Raises `NotFound`."""
    with db.read() as session:
        return _shown(session, _require(session, name))


def issue_invoice(db: Database, name: str, now_us: int) -> Shown:
    """Give a draft its number and keep what it says. Raises `NotFound`, and `Conflict` where it was issued before or nobody said who sends it."""
    with db.write() as session:
        found = _require(session, name, lock=True)
        if found.state != DRAFT:
            raise Conflict(
                f"invoice `{found.number}` is {found.state}; what was issued is not issued again, correct it with: weir invoice credit {found.number}"
            )
        company = _company(session)
        tenant = require_tenant(session, found.tenant_id)
        note_change(session, found.tenant_id, now_us)
        day = day_of(now_us, tenant.timezone)
        due_day = (day + timedelta(days=company.payment_days)).isoformat()
        drafted = _document(session, found)
        document = msgspec.structs.replace(
            drafted,
            series=company.series,
            number=store.next_number(session, company.series),
            issued_us=now_us,
            issued_day=day.isoformat(),
            due_day=due_day,
            payment_terms=words.terms(drafted.language, company.payment_days, due_day),
        )
        issued = _issue(session, found, document, now_us)
        record(session, now_us, action="invoice.issue", tenant_id=found.tenant_id, subject=found.id, before=found, after=issued.invoice)
        return issued


def credit_invoice(db: Database, name: str, now_us: int, *, reason: str, parts: Parts | None = None) -> Shown:
    """Correct an issued invoice by a credit note, with a number of its own: by `parts` (minor units by line; None: all left of it), or by all that is left.

    Raises `NotFound`, `Invalid` (a line or an amount that is not there, no reason) and `Conflict` (not issued, void, a credit note, nothing left).
    """
    _check_reason(reason)
    with db.write() as session:
        found = _require(session, name, lock=True)
        if found.kind != INVOICE or found.state not in (ISSUED, PAID):
            raise Conflict(f"`{name}` is a {found.state} {found.kind.replace('_', ' ')}; a credit note corrects an invoice that is issued or paid")
        kept = store.kept(session, found.id)
        assert kept is not None, "what is issued is kept"
        company = _company(session)
        tenant = require_tenant(session, found.tenant_id)
        note_change(session, found.tenant_id, now_us)
        note = credit_note(kept[0], store.notes_of(session, found.id), parts, series=company.credit_series, reason=reason)
        day = day_of(now_us, tenant.timezone).isoformat()
        numbered = msgspec.structs.replace(note, number=store.next_number(session, company.credit_series), issued_us=now_us, issued_day=day)
        row = Invoice(
            id=note.id,
            tenant_id=found.tenant_id,
            kind=CREDIT_NOTE,
            state=DRAFT,
            start_us=found.start_us,
            end_us=found.end_us,
            currency=found.currency,
            net_minor=note.net_minor,
            tax_minor=note.tax_minor,
            total_minor=note.total_minor,
            created_us=now_us,
            note=reason,
            corrects_id=found.id,
        )
        store.insert_invoice(session, row)
        issued = _issue(session, row, numbered, now_us)
        record(session, now_us, action="invoice.credit", tenant_id=found.tenant_id, subject=found.id, before=None, after=issued.invoice)
        return issued


def pay_invoice(db: Database, name: str, now_us: int, *, note: str | None = None) -> Invoice:
    """Say that an invoice is paid. Raises `NotFound`, and `Conflict` for one that is not issued."""
    return _move(db, name, now_us, to=PAID, note=note)


def void_invoice(db: Database, name: str, now_us: int, *, reason: str) -> Invoice:
    """Declare an issued invoice void; its number stays its own, and its period has a draft again. Raises `NotFound`, `Invalid`, `Conflict`."""
    _check_reason(reason)
    return _move(db, name, now_us, to=VOID, note=reason)


def documents(db: Database, *, month: str, tenant_id: str | None = None) -> list[tuple[Document, str]]:
    """Return (document, state) of every invoice and credit note, drafts too, of periods that ended within a month, by id; void ones are left out.

    Raises `Invalid`, `NotFound`.
    """
    with db.read(long=True, snapshot=True) as session:
        if tenant_id is not None:
            require_tenant(session, tenant_id)
        found: list[tuple[Document, str]] = []
        after = ""
        while page := store.invoices(session, tenant_id=tenant_id, ended=_ended_in(month), after=after, limit=LIST_MAX):
            found += [(_shown(session, one).document, one.state) for one in page if one.state != VOID]
            after = page[-1].id
        return found


def _check_reason(reason: str) -> None:
    if not 1 <= len(reason) <= 200 or not reason.isprintable():
        raise Invalid("reason", "reason: say why, in 1 to 200 printable characters")


def touching(db: Database, *, month: str, tenant_id: str | None = None) -> list[Document]:
    """Return issued invoices of periods that have a part of a month, by id: those that its usage is on. Raises `Invalid`."""
    start_us, end_us = month_span(month, "UTC")
    with db.read(long=True, snapshot=True) as session:
        found = store.touching(session, start_us - DAY_US, end_us + DAY_US, tenant_id)
        return [pair[0] for one in found if (pair := store.kept(session, one.id)) is not None]


def _ended_in(month: str) -> tuple[int, int]:
    first_us, after_us = month_span(month, "UTC")
    return first_us + DAY_US, after_us + DAY_US  # an end is exclusive: that of a calendar month is within a day of the next one's beginning, in any zone


def _move(db: Database, name: str, now_us: int, *, to: str, note: str | None) -> Invoice:
    with db.write() as session:
        found = _require(session, name, lock=True)
        if found.kind != INVOICE or found.state != ISSUED:
            raise Conflict(f"`{name}` is a {found.state} {found.kind.replace('_', ' ')}; only an issued invoice can become {to}")
        if to == VOID and store.notes_of(session, found.id):
            raise Conflict(
                f"invoice `{found.number}` has credit notes, and cannot be void beside them; credit what is left: weir invoice credit {found.number}"
            )
        note_change(session, found.tenant_id, now_us)
        moved = msgspec.structs.replace(
            found, state=to, note=note, paid_us=now_us if to == PAID else found.paid_us, voided_us=now_us if to == VOID else found.voided_us
        )
        store.change_invoice(session, moved)
        if to == VOID:
            store.insert_invoice(session, _again(session, found, now_us))
            kept = store.kept(session, found.id)
            assert kept is not None, "what is issued is kept"
            tell_void(session, kept[0], now_us)
        record(session, now_us, action=f"invoice.{to}", tenant_id=found.tenant_id, subject=found.id, before=found, after=moved)
        return moved


def _again(session: Session, found: Invoice, now_us: int) -> Invoice:
    """Return a new draft of the period of an invoice that is void: what was wrong then may be right now."""
    first, _, count = found.id.partition(".")
    drafts = {"created_us": now_us, "state": DRAFT, "number": None, "issued_us": None, "note": None}
    return msgspec.structs.replace(found, id=f"{first}.{int(count or 1) + 1}", **drafts)


def _issue(session: Session, found: Invoice, document: Document, now_us: int) -> Shown:
    digest = store.keep(session, document)
    issued = msgspec.structs.replace(
        found, state=ISSUED, number=document.number, issued_us=now_us,
        net_minor=document.net_minor, tax_minor=document.tax_minor, total_minor=document.total_minor,
    )  # fmt: skip
    store.change_invoice(session, issued)
    tell_invoice(session, document, now_us)
    return Shown(invoice=issued, document=document, sha256=digest)


def _shown(session: Session, found: Invoice) -> Shown:
    kept = store.kept(session, found.id)
    credited = sum(note.total_minor for note in store.notes_of(session, found.id))
    if kept is not None:
        return Shown(invoice=found, document=kept[0], sha256=kept[1], credited_minor=credited)
    document = _document(session, found)
    amounts = {name: getattr(document, name) for name in ("net_minor", "tax_minor", "total_minor")}
    return Shown(invoice=msgspec.structs.replace(found, **amounts), document=document)


def _document(session: Session, found: Invoice) -> Document:
    """Write a draft as things are now."""
    closed = periods.get_closed(session, found.tenant_id, found.start_us)
    assert closed is not None, "an invoice is of a closed period"
    holder = closing.holders(session, [found.tenant_id])[found.tenant_id]
    return msgspec.structs.replace(closing.write_draft(session, holder, closed.facts), id=found.id)


def _require(session: Session, name: str, *, lock: bool = False) -> Invoice:
    found = store.get_invoice(session, name, lock=lock)
    if found is None:
        raise NotFound("invoice", name)
    return found


def _company(session: Session) -> Company:
    company = store.get_company(session)
    if company is None:
        raise Conflict("nobody has said who sends the invoices; say so with: weir company set --name NAME --address LINE --country CC")
    return company
