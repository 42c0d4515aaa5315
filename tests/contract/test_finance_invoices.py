"""/finance/invoices and /finance/periods: what a clerk's program sees and is refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from billing.invoices.company import Company
from billing.invoices.store import set_company
from billing.money import NCR_PER_CREDIT as CREDIT
from billing.operations import keys
from billing.tenants.profile import Party
from billing.usage.writer import book
from tests.books import event
from tests.desk import AdminApi, fields, open_admin_api, problem

DAY_US = 86_400_000_000


@pytest.fixture
def api(tmp_path: Path) -> Iterator[AdminApi]:
    """A tenant of 3 November, 12:00, with a fee of 49.00 and 5 credits past its own at 0.10; its first period is over and its grace too."""
    with open_admin_api(tmp_path) as opened:
        opened.plan("pro", allowance_ncr=0, monthly_fee_minor=4900, on_exhausted="overage", credit_price="0.10")
        opened.tenant("acme")
        begin_us = opened.clock.now_us()
        with opened.database.write() as session:
            set_company(session, Company(party=Party(name="Weir Ltd")))
            book(session, [event(1, 5 * CREDIT, cover_ncr=0, started_us=begin_us + 1, day_us=begin_us, period_us=begin_us)], begin_us + 2)
        opened.clock.advance(34 * 86_400)
        yield opened


def closed(api: AdminApi) -> str:
    assert api.http.post("/finance/periods/acme/close").json() == {"closed": 2}  # begun, and closed
    (one,) = api.http.get("/finance/invoices").json()
    return str(one["id"])


def test_a_period_goes_from_draft_to_closed(api: AdminApi) -> None:
    first, second = api.http.get("/finance/periods/acme").json()
    assert (first["state"], first["start_at"], first["end_at"]) == ("draft", "2026-11-03T12:00:00Z", "2026-12-03T12:00:00Z")
    assert second["state"] == "open"
    closed(api)
    first = api.http.get("/finance/periods/acme").json()[0]
    assert (first["state"], first["requests"], len(first["sha256"])) == ("closed", 1, 64)


def test_a_draft_is_issued_once_credited_and_paid(api: AdminApi) -> None:
    name = closed(api)
    shown = api.http.get(f"/finance/invoices/{name}").json()
    assert (shown["state"], shown["total"], shown["number"], shown["sha256"]) == ("draft", "49.50", None, None)
    assert [line["amount"] for line in shown["document"]["lines"]] == ["49.00", "0.00", "0.50"]
    issued = api.http.post(f"/finance/invoices/{name}/issue").json()
    assert (issued["number"], issued["state"], len(issued["sha256"])) == ("INV-000001", "issued", 64)
    problem(api.http.post(f"/finance/invoices/{name}/issue"), 409, "conflict")
    note = api.http.post("/finance/invoices/INV-000001/credit", json={"reason": "too much", "lines": [{"line": 1, "amount": "9.00"}]})
    assert (note.status_code, note.json()["number"], note.json()["total"]) == (201, "CN-000001", "-9.00")
    assert api.http.get("/finance/invoices/INV-000001").json()["credited"] == "-9.00"
    assert api.http.post("/finance/invoices/INV-000001/pay", json={}).json()["state"] == "paid"
    problem(api.http.post("/finance/invoices/INV-000001/void", json={"reason": "x"}), 409, "conflict")
    listed = api.http.get("/finance/invoices", params={"tenant_id": "acme", "month": "2026-12"}).json()
    assert [(one["number"], one["kind"]) for one in listed] == [("INV-000001", "invoice"), ("CN-000001", "credit_note")]


def test_what_a_credit_names_wrongly_is_refused_by_its_field(api: AdminApi) -> None:
    name = closed(api)
    api.http.post(f"/finance/invoices/{name}/issue")
    for lines, field in (([{"line": 9}], "line"), ([{"line": 1, "amount": "49.01"}], "amount"), ([{"line": 1}, {"line": 1}], "lines")):
        answer = api.http.post("/finance/invoices/INV-000001/credit", json={"reason": "x", "lines": lines})
        assert fields(problem(answer, 422, "invalid")) == [field]
    assert fields(problem(api.http.post("/finance/invoices/INV-000001/void", json={"reason": ""}), 422, "invalid")) == ["reason"]


def test_a_void_invoice_keeps_its_number(api: AdminApi) -> None:
    name = closed(api)
    api.http.post(f"/finance/invoices/{name}/issue")
    gone = api.http.post(f"/finance/invoices/{name}/void", json={"reason": "twice"}).json()
    assert (gone["state"], gone["number"], gone["note"]) == ("void", "INV-000001", "twice")


def test_what_would_be_invoiced_is_shown_and_not_written(api: AdminApi) -> None:
    document = api.http.get("/finance/invoices/preview", params={"tenant_id": "acme"}).json()
    assert (document["net"], document["first_day"], document["end_day"]) == ("49.00", "2026-12-03", "2027-01-03")
    assert api.http.get("/finance/invoices").json() == []


def test_404_and_422_for_what_is_not_there(api: AdminApi) -> None:
    problem(api.http.get("/finance/invoices/INV-000009"), 404, "not_found")
    problem(api.http.get("/finance/periods/nobody"), 404, "not_found")
    assert fields(problem(api.http.get("/finance/invoices", params={"state": "sent"}), 422, "invalid")) == ["state"]


def test_a_dry_run_issues_nothing_and_where_there_is_none_it_is_refused(api: AdminApi) -> None:
    name = closed(api)
    said = api.http.post(f"/finance/invoices/{name}/issue?dry_run=true")
    assert (said.json()["number"], said.headers["x-weir-dry-run"]) == ("INV-000001", "true")
    assert api.http.get(f"/finance/invoices/{name}").json()["state"] == "draft"
    assert api.http.post(f"/finance/invoices/{name}/issue").json()["number"] == "INV-000001"
    refused = api.http.post("/finance/periods/acme/close?dry_run=true")
    assert fields(problem(refused, 422, "invalid")) == ["dry_run"]


def test_an_invoice_is_downloaded_on_paper_and_a_months_as_a_table_without_what_is_void(api: AdminApi) -> None:
    name = closed(api)
    api.http.post(f"/finance/invoices/{name}/issue")
    api.http.post("/finance/invoices/INV-000001/void", json={"reason": "twice"})
    paper = api.http.get("/finance/invoices/INV-000001/file")
    assert (paper.headers["content-type"], paper.content[:5]) == ("application/pdf", b"%PDF-")
    table = api.http.get("/finance/invoices/file", params={"month": "2026-12"})
    assert (table.headers["x-weir-rows"], "49.5" in table.headers["x-weir-totals"]) == ("4", True)  # the draft that took its place: three lines and a tax


def test_a_tenants_manager_sees_what_was_issued_to_it_and_nothing_of_another(api: AdminApi) -> None:
    name = closed(api)
    api.tenant("other")
    bearers = {}
    for tenant in ("acme", "other"):
        issued = keys.issue_key(api.database, api.hasher, kind="staff", tenant_id=tenant, role="manager", now_us=api.clock.now_us())
        bearers[tenant] = {"Authorization": f"Bearer {issued.secret}"}
    assert api.http.get("/tenant/invoices", headers=bearers["acme"]).json() == [], "a draft is nobody's yet"
    problem(api.http.get(f"/tenant/invoices/{name}", headers=bearers["acme"]), 404, "not_found")
    api.http.post(f"/finance/invoices/{name}/issue")
    (listed,) = api.http.get("/tenant/invoices", headers=bearers["acme"]).json()
    assert (listed["number"], listed["total"], listed["state"]) == ("INV-000001", "49.50", "issued")
    shown = api.http.get("/tenant/invoices/INV-000001", headers=bearers["acme"]).json()
    assert [line["amount"] for line in shown["document"]["lines"]] == ["49.00", "0.00", "0.50"]
    assert api.http.get("/tenant/invoices/INV-000001/file", headers=bearers["acme"]).content[:5] == b"%PDF-"
    assert api.http.get("/tenant/invoices", headers=bearers["other"]).json() == []
    for path in ("/tenant/invoices/INV-000001", f"/tenant/invoices/{name}", "/tenant/invoices/INV-000001/file"):
        problem(api.http.get(path, headers=bearers["other"]), 404, "not_found")


def test_a_long_list_names_its_next_page(api: AdminApi) -> None:
    name = closed(api)
    api.http.post(f"/finance/invoices/{name}/issue")
    api.http.post("/finance/invoices/INV-000001/credit", json={"reason": "half"})
    first = api.http.get("/finance/invoices?limit=1")
    (second,) = api.http.get(first.links["next"]["url"]).json()
    assert ([one["number"] for one in first.json()], second["number"]) == (["INV-000001"], "CN-000001")
