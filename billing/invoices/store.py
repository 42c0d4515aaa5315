"""Queries over the company that sends invoices. Takes a session, never commits."""

from sqlmodel import Session

from billing.invoices.company import Company
from billing.invoices.table import CompanyRow
from billing.tenants.profile import Party

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
