"""The company that sends the invoices: read it, change some of it. One transaction each; an invoice that is issued has its own copy."""

from collections.abc import Mapping
from typing import Any

import msgspec

from billing.audit.store import record
from billing.db import Database
from billing.errors import Invalid
from billing.invoices import store
from billing.invoices.company import Company, check_company
from billing.operations.profiles import PARTY_FIELDS, revise_party
from billing.tenants.profile import Party
from billing.tenants.store import note_change

TERMS = ("series", "credit_series", "grace_hours", "payment_days", "bank", "footer", "logo")
FIELDS = (*PARTY_FIELDS, *TERMS)
_MAY_BE_ABSENT = ("footer", "logo")


def get_company(db: Database) -> Company | None:
    """Return who sends the invoices; None until somebody said so."""
    with db.read() as session:
        return store.get_company(session)


def change_company(db: Database, changes: Mapping[str, Any], now_us: int) -> Company:
    """Change some of what is known of the company, the first time from nothing; what is left out stays, None and "" take one away.

    Fields: `legal_name`, `address`, `country`, `tax_id`, `email`; `series`, `credit_series`, `grace_hours`, `payment_days`, `bank` (lines), `footer`,
    `logo` (bytes). Raises `Invalid`, also for a first time without a name.
    """
    with db.write() as session:
        note_change(session, None, now_us)
        before = store.get_company(session)
        company = revise_company(before, changes)
        store.set_company(session, company)
        record(session, now_us, action="company.set", tenant_id=None, subject="company", before=before, after=company)
    return company


def set_company(db: Database, values: Mapping[str, Any], now_us: int) -> Company:
    """Write the company whole: what is left out is as at the beginning, but the logo stays, which is a file of its own. Raises `Invalid`."""
    with db.write() as session:
        note_change(session, None, now_us)
        before = store.get_company(session)
        company = revise_company(None, {**values, "logo": before.logo if before is not None else None})
        store.set_company(session, company)
        record(session, now_us, action="company.set", tenant_id=None, subject="company", before=before, after=company)
    return company


def figures(company: Company) -> dict[str, Any]:
    """Write a company as people name its fields, without the logo; addresses and bank details as lists of lines."""
    party = {field: getattr(company.party, own) for field, own in PARTY_FIELDS.items()} | {"address": list(company.party.address)}
    return party | {field: getattr(company, field) for field in TERMS if field not in ("bank", "logo")} | {"bank": list(company.bank)}


def revise_company(company: Company | None, changes: Mapping[str, Any]) -> Company:
    """Return a company with some fields changed, as it can send invoices. Raises `Invalid`."""
    if unknown := next((field for field in changes if field not in FIELDS), None):
        raise Invalid(unknown, f"{unknown}: is not known here; one of {', '.join(FIELDS)}")
    if company is None and not changes.get("legal_name"):
        raise Invalid("legal_name", "legal_name: is missing; an invoice has to name who sends it")
    before = company or Company(party=Party(name=""))
    given = {field: changes[field] for field in TERMS if field in changes and (changes[field] is not None or field in _MAY_BE_ABSENT)}
    given |= {field: given[field] or None for field in _MAY_BE_ABSENT if field in given}
    if "bank" in given:
        given["bank"] = tuple(line for line in given["bank"] if line)
    revised = msgspec.structs.replace(before, party=revise_party(before.party, changes), **given)
    check_company(revised)
    _check_lines(revised)
    return revised


def _check_lines(company: Company) -> None:
    for field, lines in (("bank", company.bank), ("footer", () if company.footer is None else (company.footer,))):
        if len(lines) > 8 or any(len(line) > 500 or not line.isprintable() for line in lines):
            raise Invalid(field, f"{field}: is not usable; at most 8 lines of at most 500 printable characters")
