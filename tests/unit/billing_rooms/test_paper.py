"""Who is on an invoice: what is written comes back, and what cannot stand on one is refused by name."""

import pytest
from msgspec.structs import replace

from billing.db import NOBODY, Database
from billing.errors import Invalid
from billing.invoices.company import Company, check_company, logo_type
from billing.invoices.store import get_company, set_company
from billing.tenants.profile import Party, Profile, check_profile, percent_of
from billing.tenants.store import get_profile, insert_tenant, set_profile
from billing.tenants.tenant import Tenant

ACME = Tenant(id="acme", name="ACME", state="active", currency="EUR", timezone="Europe/Berlin", created_us=1)
PARTY = Party(name="ACME GmbH", address=("Hauptstraße 1", "10115 Berlin"), country="DE", tax_id="DE123456789", email="pay@acme.example")
TAXED = Profile(party=PARTY, tax_category="S", tax_percent="19", tax_note=None, po_number="PO 7", cost_centre="4711", language="zh")
PNG = b"\x89PNG\r\n\x1a\n"


def test_a_profile_comes_back_as_it_was_written_over_what_was_there(db: Database):
    with db.write() as session:
        insert_tenant(session, ACME)
        assert get_profile(session, ACME) == Profile(party=Party(name="ACME"))
        set_profile(session, "acme", Profile(party=Party(name="old")))
        set_profile(session, "acme", TAXED)
    with db.read() as session:
        assert get_profile(session, ACME) == TAXED


def test_a_company_comes_back_as_it_was_written_over_what_was_there(db: Database):
    company = Company(party=PARTY, series="DE", bank=("IBAN DE00",), footer="Thank you", logo=PNG, grace_hours=0)
    with db.write() as session:
        assert get_company(session) is None
        set_company(session, Company(party=Party(name="old")))
        set_company(session, company)
    with db.read() as session:
        assert get_company(session) == company


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tax_percent": "0"}, "tax_percent"),
        ({"tax_category": "Z"}, "tax_percent"),
        ({"tax_percent": "101"}, "tax_percent"),
        ({"tax_percent": "-1"}, "tax_percent"),
        ({"tax_percent": "many"}, "tax_percent"),
        ({"tax_category": "VAT"}, "tax_category"),
        ({"tax_category": "AE", "tax_percent": "0"}, "tax_note"),
        ({"language": "fr"}, "language"),
        ({"po_number": " 7"}, "po_number"),
        ({"party": replace(PARTY, country="Germany")}, "country"),
        ({"party": replace(PARTY, name="")}, "legal_name"),
        ({"party": replace(PARTY, address=("a\nb",))}, "address"),
        ({"party": replace(PARTY, address=("a",) * 9)}, "address"),
    ],
)
def test_a_profile_that_cannot_stand_on_an_invoice_is_refused_by_its_field(change: dict[str, object], field: str):
    check_profile(TAXED)
    assert str(percent_of(TAXED)) == "19"
    with pytest.raises(Invalid) as refused:
        check_profile(replace(TAXED, **change))
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"series": "inv"}, "series"),
        ({"credit_series": "INV"}, "credit_series"),
        ({"grace_hours": -1}, "grace_hours"),
        ({"payment_days": 366}, "payment_days"),
        ({"logo": b"<svg>"}, "logo"),
    ],
)
def test_a_company_that_cannot_send_an_invoice_is_refused_by_its_field(change: dict[str, object], field: str):
    company = Company(party=PARTY)
    check_company(company)
    with pytest.raises(Invalid) as refused:
        check_company(replace(company, **change))
    assert refused.value.field == field


def test_a_logo_is_known_by_how_it_begins_and_has_a_size():
    assert (logo_type(PNG), logo_type(b"\xff\xd8\xff\xe0"), logo_type(b"GIF89a"), logo_type(PNG + b"x" * 600_000)) == ("png", "jpg", None, None)


def test_a_write_session_knows_who_is_at_work(db: Database):
    with db.write() as session:
        assert session.info["actor"] == NOBODY
    assert db.acting("cli:ada").retrying(lambda session: session.info["actor"]) == "cli:ada"
