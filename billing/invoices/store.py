"""Queries over invoices, their numbers, what was issued and sold, and the company that sends them. Takes a session, never commits."""

from collections.abc import Iterable, Iterator
from hashlib import sha256

import msgspec
from sqlalchemy import Table, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from billing.invoices.company import Company
from billing.invoices.document import CREDIT_NOTE, INVOICE, VOID, Document, decode, encode
from billing.invoices.draft import Sale
from billing.invoices.table import CompanyRow
from billing.tenants.profile import Party

_INVOICE: Table = CompanyRow.metadata.tables["invoice"]
_DOCUMENT: Table = CompanyRow.metadata.tables["invoice_document"]
_SEQUENCE: Table = CompanyRow.metadata.tables["invoice_sequence"]
_SALE: Table = CompanyRow.metadata.tables["grant_sale"]

_ONLY = 1
_PARTY = ("name", "country", "tax_id", "email")
_PLAIN = ("series", "credit_series", "grace_hours", "payment_days", "footer", "logo")


def get_company(session: Session) -> Company | None:
    """Return who sends the invoices; None until somebody said so."""
    row = session.get(CompanyRow, _ONLY, populate_existing=True)
    if row is None:
        return None
    party = Party(address=tuple(row.address), **{field: getattr(row, field) for field in _PARTY})
    return Company(party=party, bank=tuple(row.bank), **{field: getattr(row, field) for field in _PLAIN})


def set_company(session: Session, company: Company) -> None:
    """Write who sends the invoices, over what was written before: an issued invoice has its own copy. The caller holds the admin lock."""
    values = {field: getattr(company.party, field) for field in _PARTY} | {field: getattr(company, field) for field in _PLAIN}
    session.merge(CompanyRow(id=_ONLY, address=list(company.party.address), bank=list(company.bank), **values))
    session.flush()


class Invoice(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice or a credit note as it stands: its state, its amounts in minor units, and its number once it is issued. Instants in UTC epoch us."""

    id: str
    tenant_id: str
    kind: str
    state: str
    start_us: int
    end_us: int
    currency: str
    net_minor: int
    tax_minor: int
    total_minor: int
    created_us: int
    number: str | None = None
    issued_us: int | None = None
    paid_us: int | None = None
    voided_us: int | None = None
    note: str | None = None
    corrects_id: str | None = None


def insert_invoice(session: Session, invoice: Invoice) -> None:
    """Insert an invoice; the caller has seen that its id is free."""
    session.connection().execute(_INVOICE.insert().values(msgspec.structs.asdict(invoice)))


def get_invoice(session: Session, name: str, *, lock: bool = False) -> Invoice | None:
    """Return the invoice or credit note of this id or number, or None. `lock`: nobody else changes it until the transaction ends."""
    query = select(_INVOICE).where((_INVOICE.c.id == name) | (_INVOICE.c.number == name))
    row = session.connection().execute(query.with_for_update() if lock else query).first()
    return None if row is None else Invoice(**row._mapping)


def change_invoice(session: Session, invoice: Invoice) -> None:
    """Write how an invoice stands now; the caller has locked it."""
    values = msgspec.structs.asdict(invoice)
    session.connection().execute(update(_INVOICE).where(_INVOICE.c.id == values.pop("id")).values(values))


def invoices(
    session: Session, *, tenant_id: str | None = None, state: str | None = None, ended: tuple[int, int] | None = None, after: str = "", limit: int = 100
) -> list[Invoice]:
    """Return invoices and credit notes by id, after an id, at most `limit`: of one tenant, in one state, of periods that ended in [first, last) of `ended`."""
    query = select(_INVOICE).where(_INVOICE.c.id > after).order_by(_INVOICE.c.id).limit(limit)
    for column, wanted in ((_INVOICE.c.tenant_id, tenant_id), (_INVOICE.c.state, state)):
        query = query if wanted is None else query.where(column == wanted)
    if ended is not None:
        query = query.where(_INVOICE.c.end_us >= ended[0], _INVOICE.c.end_us < ended[1])
    return [Invoice(**row._mapping) for row in session.connection().execute(query)]


def touching(session: Session, start_us: int, end_us: int, tenant_id: str | None = None) -> list[Invoice]:
    """Return invoices with a number, not void ones, of periods that have a part of [start_us, end_us), by id."""
    mine = (_INVOICE.c.kind == INVOICE, _INVOICE.c.number.is_not(None), _INVOICE.c.state != VOID, _INVOICE.c.start_us < end_us, _INVOICE.c.end_us > start_us)
    query = select(_INVOICE).where(*mine).order_by(_INVOICE.c.id)
    return [Invoice(**row._mapping) for row in session.connection().execute(query if tenant_id is None else query.where(_INVOICE.c.tenant_id == tenant_id))]


def notes_of(session: Session, invoice_id: str) -> list[Document]:
    """Return the credit notes of an invoice, oldest first."""
    query = select(_DOCUMENT.c.document).join(_INVOICE, _INVOICE.c.id == _DOCUMENT.c.invoice_id).where(_INVOICE.c.corrects_id == invoice_id)
    return [decode(content) for content in session.connection().execute(query.order_by(_INVOICE.c.issued_us, _INVOICE.c.id)).scalars()]


def keep(session: Session, document: Document) -> str:
    """Keep what is issued as it says now, for ever; return its sha256."""
    content = encode(document)
    digest = sha256(content).hexdigest()
    session.connection().execute(_DOCUMENT.insert().values(invoice_id=document.id, document=content.decode(), sha256=digest))
    return digest


def kept(session: Session, invoice_id: str) -> tuple[Document, str] | None:
    """Return what was issued under an id, with its sha256; None where nothing was."""
    row = session.connection().execute(select(_DOCUMENT).where(_DOCUMENT.c.invoice_id == invoice_id)).first()
    return None if row is None else (decode(row.document), row.sha256)


def all_kept(session: Session) -> Iterator[tuple[str, str, str]]:
    """Yield (id, document, sha256) of everything that was issued, for whoever proves it."""
    query = select(_DOCUMENT).order_by(_DOCUMENT.c.invoice_id).execution_options(yield_per=100)
    for row in session.connection().execute(query):
        yield row.invoice_id, row.document, row.sha256


def next_number(session: Session, series: str) -> str:
    """Take the next number of a series: SERIES-000001, and so on. Nobody else takes one of it until the transaction ends, so none is ever left out."""
    connection = session.connection()
    new = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(_SEQUENCE).values(series=series, last=1)
    taken = new.on_conflict_do_update(index_elements=["series"], set_={"last": _SEQUENCE.c.last + 1}).returning(_SEQUENCE.c.last)
    return f"{series}-{connection.execute(taken).scalar_one():06d}"


def sold_within(session: Session, tenant_ids: Iterable[str], start_us: int, end_us: int) -> list[tuple[str, Sale]]:
    """Return (tenant, sale) of what was sold to tenants in [start_us, end_us), in order."""
    mine = (_SALE.c.tenant_id.in_(sorted(tenant_ids)), _SALE.c.at_us >= start_us, _SALE.c.at_us < end_us)
    rows = session.connection().execute(select(_SALE).where(*mine).order_by(_SALE.c.tenant_id, _SALE.c.at_us, _SALE.c.grant_id))
    return [(row.tenant_id, Sale(**{name: row._mapping[name] for name in Sale.__struct_fields__})) for row in rows]


def credited_within(session: Session, tenant_ids: Iterable[str], start_us: int, end_us: int) -> list[tuple[str, int, int]]:
    """Return (tenant, issued_us, net in minor units, below 0) of credit notes to tenants that were issued in [start_us, end_us), in order."""
    mine = (_INVOICE.c.kind == CREDIT_NOTE, _INVOICE.c.tenant_id.in_(sorted(tenant_ids)), _INVOICE.c.issued_us >= start_us, _INVOICE.c.issued_us < end_us)
    query = select(_INVOICE.c.tenant_id, _INVOICE.c.issued_us, _INVOICE.c.net_minor).where(*mine)
    return [(row[0], row[1], row[2]) for row in session.connection().execute(query.order_by(_INVOICE.c.tenant_id, _INVOICE.c.issued_us, _INVOICE.c.id))]


def settle_sales(session: Session, tenant_id: str, period_us: int, until_us: int) -> None:
    """Put what was sold by the end of a period, and is in none yet, into that period: whenever it was written, it is on one invoice."""
    open_ = (_SALE.c.tenant_id == tenant_id) & _SALE.c.period_us.is_(None) & (_SALE.c.at_us < until_us)
    session.connection().execute(update(_SALE).where(open_).values(period_us=period_us))


def add_sale(session: Session, sale: Sale, tenant_id: str) -> None:
    """Say that a grant was sold, and for how much."""
    values = {name: getattr(sale, name) for name in Sale.__struct_fields__}
    session.connection().execute(_SALE.insert().values(tenant_id=tenant_id, **values))


def sales(session: Session, tenant_id: str, period_us: int, until_us: int) -> list[Sale]:
    """Return what was sold to a tenant and belongs to the period that began at `period_us` and ends at `until_us`, in order: settled so, or not yet."""
    mine = (_SALE.c.period_us == period_us) | (_SALE.c.period_us.is_(None) & (_SALE.c.at_us < until_us))
    where = (_SALE.c.tenant_id == tenant_id) & mine
    rows = session.connection().execute(select(_SALE).where(where).order_by(_SALE.c.at_us, _SALE.c.grant_id))
    return [Sale(**{name: row._mapping[name] for name in Sale.__struct_fields__}) for row in rows]
