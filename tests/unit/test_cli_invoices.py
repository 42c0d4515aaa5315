"""`weir invoice`, `weir period` and `weir jobs`: a clerk's month at the command line."""

import csv
import io
import json
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from billing.db import Database
from billing.invoices.company import Company
from billing.invoices.store import set_company
from billing.money import NCR_PER_CREDIT as CREDIT
from billing.operations import plans, tenants
from billing.plans.terms import PlanTerms
from billing.tenants.profile import Party, Profile
from billing.tenants.store import set_profile
from billing.usage.writer import book
from tests.books import event
from tests.command import Weir, weir_in

DAY_US = 86_400_000_000


def months_ago(count: int) -> datetime:
    now = datetime.fromtimestamp(time.time(), UTC)
    month0 = now.year * 12 + now.month - 1 - count
    return datetime(month0 // 12, month0 % 12 + 1, 1, tzinfo=UTC)


BEGIN = months_ago(2)
BEGIN_US = int(BEGIN.timestamp()) * 1_000_000
MONTH = BEGIN.strftime("%Y-%m")


@pytest.fixture
def weir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Weir:
    """Two tenants that began two months ago, one with use past its credits; one that pays nothing."""
    command = weir_in(tmp_path, monkeypatch, capsys)
    db = Database(f"sqlite:///{tmp_path / 'weir-data' / 'weir.db'}")
    plans.set_plan(db, PlanTerms(plan="pro", monthly_fee_minor=4900, on_exhausted="overage", credit_price="0.10"), BEGIN_US)
    plans.set_plan(db, PlanTerms(plan="free", allowance_ncr=CREDIT), BEGIN_US)
    for name, plan in (("acme", "pro"), ("zoo", "pro"), ("free", "free")):
        tenants.create_tenant(db, id=name, name=name.title(), plan=plan, now_us=BEGIN_US)
    with db.write() as session:
        set_profile(session, "acme", Profile(party=Party(name="ACME GmbH"), tax_category="S", tax_percent="19", tax_note=None))
        one = event(1, 5 * CREDIT, cover_ncr=0, started_us=BEGIN_US + DAY_US, day_us=BEGIN_US + DAY_US, period_us=BEGIN_US)
        free = event(2, CREDIT, tenant="free", started_us=BEGIN_US + DAY_US, day_us=BEGIN_US + DAY_US, period_us=BEGIN_US)
        book(session, [one, free], BEGIN_US + DAY_US)
    db.close()
    return command


def company(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path / 'weir-data' / 'weir.db'}")
    with db.write() as session:
        set_company(session, Company(party=Party(name="Weir Ltd")))
    db.close()


def rows(weir: Weir, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(weir(*arguments, "--format", "json").out)
    return found


def test_a_month_from_open_to_paid(weir: Weir, tmp_path: Path) -> None:
    assert rows(weir, "period", "list", "acme")[0]["state"] == "draft"
    assert "settle_periods: " in weir("jobs", "run").out
    assert weir("jobs", "run").out == "nothing to do\n"
    assert rows(weir, "period", "list", "acme")[0]["state"] == "closed"
    listed = {row["id"]: row for row in rows(weir, "invoice", "list", "--month", MONTH)}
    assert {name: (row["state"], row["total"]) for name, row in listed.items()} == {
        f"acme:{MONTH}-01": ("draft", "58.91"), f"free:{MONTH}-01": ("draft", "0.00"), f"zoo:{MONTH}-01": ("draft", "49.00"),
    }  # fmt: skip
    refused = weir("invoice", "issue", "--month", MONTH, "--yes")
    assert refused.code == 2 and "weir company set" in refused.err
    company(tmp_path)
    dry = weir("invoice", "issue", "--month", MONTH, "--dry-run")
    assert (dry.code, "would issue 2 invoices that come to 107.91 USD" in dry.out) == (0, True)
    said = weir("invoice", "issue", "--month", MONTH, "--yes")
    assert said.out == f"INV-000001: acme:{MONTH}-01, 58.91 USD\nINV-000002: zoo:{MONTH}-01, 49.00 USD\n"
    assert weir("invoice", "issue", "--month", MONTH, "--yes").out == "nothing to issue\n"
    assert "invoice INV-000002 is paid" in weir("invoice", "pay", "INV-000002", "--note", "wire").out
    assert rows(weir, "invoice", "list", "--state", "paid")[0]["note"] == "wire"


def test_an_invoice_is_shown_with_its_lines_tax_and_total(weir: Weir) -> None:
    weir("jobs", "run")
    shown = weir("invoice", "show", f"acme:{MONTH}-01").out
    for words in ("Plan pro version 1", "Use of m, past the credits", "tax 19 %", "9.41", "58.91 USD", "credits used"):
        assert words in shown
    lines = list(csv.DictReader(io.StringIO(weir("invoice", "show", f"acme:{MONTH}-01", "--format", "csv").out)))
    assert [(line["kind"], line["amount"]) for line in lines] == [("fee", "49.00"), ("usage", "0.00"), ("overage", "0.50")]
    document = json.loads(weir("invoice", "draft", "zoo", "--format", "json").out)
    assert (document["net"], document["number"]) == ("49.00", None)


def test_credit_and_void_ask_first_and_say_what_they_did(weir: Weir, tmp_path: Path) -> None:
    company(tmp_path)
    weir("jobs", "run")
    assert weir("invoice", "issue", f"acme:{MONTH}-01", "--yes").code == 0
    assert weir("invoice", "issue", f"zoo:{MONTH}-01", "--yes").code == 0
    assert weir("invoice", "credit", "INV-000001", "--reason", "too much", "--line", "1=10").code == 2  # nobody said yes
    said = weir("invoice", "credit", "INV-000001", "--reason", "too much", "--line", "1=10.00", "--yes")
    assert said.out == "CN-000001: -11.90 USD, correcting INV-000001\n"
    assert "credited -11.90" in " ".join(weir("invoice", "show", "INV-000001").out.split())
    wrong = weir("invoice", "credit", "INV-000001", "--reason", "x", "--line", "one", "--yes")
    assert wrong.code == 2 and "write its number, 3, or a part of it, 3=12.50" in wrong.err
    assert "credit notes, and cannot be void" in weir("invoice", "void", "INV-000001", "--reason", "x", "--yes").err
    assert weir("invoice", "void", "INV-000002", "--reason", "twice", "--yes").out == "invoice INV-000002 is void\n"


def test_issue_needs_one_of_an_invoice_and_a_month(weir: Weir) -> None:
    for given in ((), ("acme", "--month", MONTH)):
        said = weir("invoice", "issue", *given)
        assert said.code == 2 and "name an invoice, or a month with --month" in said.err


def test_closing_says_when_the_next_period_can_be(weir: Weir) -> None:
    said = weir("period", "close", "acme")
    assert said.code == 0 and "closed what was due; the next can be closed from " in said.out
    assert "nothing is due" in weir("period", "close", "acme").out


def test_a_top_up_that_is_sold_is_on_the_next_invoice(weir: Weir) -> None:
    assert weir("grant", "add", "zoo", "--credits", "100", "--price", "20.00", "--note", "pack").code == 0
    document = json.loads(weir("invoice", "draft", "zoo", "--format", "json").out)
    assert [(line["kind"], line["amount"]) for line in document["lines"]] == [("fee", "49.00"), ("top_up", "20.00")]
    refused = weir("grant", "add", "zoo", "--credits", "100", "--price", "20.001")
    assert refused.code == 2 and "more decimals than USD has" in refused.err


def test_focus_has_the_invoices_number_on_the_use_that_it_is_for(weir: Weir, tmp_path: Path) -> None:
    company(tmp_path)
    weir("jobs", "run")
    weir("invoice", "issue", f"acme:{MONTH}-01", "--yes")
    found = list(csv.DictReader(io.StringIO(weir("usage", "export", "--month", MONTH, "--format", "focus").out, newline="")))
    usage = {row["BillingAccountId"]: row["InvoiceId"] for row in found if row["ChargeCategory"] == "Usage"}
    assert usage == {"acme": "INV-000001", "free": ""}
    billed = sum(Decimal(row["BilledCost"]) for row in found if row["InvoiceId"] == "INV-000001")
    assert billed == Decimal("58.91"), "what is payable"
    before = weir("usage", "export", "--month", MONTH, "--format", "focus").out
    assert weir("usage", "export", "--month", MONTH, "--format", "focus").out == before
