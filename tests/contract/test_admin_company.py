"""/admin/company, /admin/tenants/{id}/profile and /admin/tenants/{id}/close; `Link` of the lists; dry runs."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.desk import AdminApi, fields, open_admin_api, problem

PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 20
COMPANY = {"legal_name": "Weir Hosting GmbH", "address": ["Hauptstr. 1", "10115 Berlin"], "country": "DE", "bank": ["IBAN DE00"], "series": "WH"}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[AdminApi]:
    with open_admin_api(tmp_path) as opened:
        opened.tenant("acme")
        yield opened


def test_the_company_is_nobody_until_it_is_written_and_then_what_was_written(api: AdminApi) -> None:
    assert "PUT /admin/company" in problem(api.http.get("/admin/company"), 404, "not_found")["detail"]
    expected = {"tax_id": None, "email": None, "credit_series": "CN", "grace_hours": 72, "payment_days": 30, "footer": None, "logo": None}
    assert api.http.put("/admin/company", json=COMPANY).json() == {**COMPANY, **expected}
    assert api.http.put("/admin/company", json={"legal_name": "Other"}).json()["address"] == [], "a PUT is the whole"
    assert api.http.get("/admin/company").json()["legal_name"] == "Other"
    assert fields(problem(api.http.put("/admin/company", json={"legal_name": "X", "country": "Germany"}), 422, "invalid")) == ["country"]
    assert fields(problem(api.http.put("/admin/company", json={"legal_name": "X", "series": "in v"}), 422, "invalid")) == ["series"]
    assert fields(problem(api.http.put("/admin/company", json={}), 422, "invalid")) == ["legal_name"]


def test_the_logo_is_a_file_that_stays_when_the_rest_is_written(api: AdminApi) -> None:
    assert fields(problem(api.http.put("/admin/company/logo", content=PNG, headers={"content-type": "image/png"}), 422, "invalid")) == ["legal_name"]
    api.http.put("/admin/company", json=COMPANY)
    problem(api.http.get("/admin/company/logo"), 404, "not_found")
    assert fields(problem(api.http.put("/admin/company/logo", content=b"<svg>", headers={"content-type": "image/png"}), 422, "invalid")) == ["logo"]
    assert api.http.put("/admin/company/logo", content=PNG, headers={"content-type": "image/png"}).json()["logo"] == "png"
    assert api.http.put("/admin/company", json=COMPANY).json()["logo"] == "png"
    got = api.http.get("/admin/company/logo")
    assert (got.content, got.headers["content-type"]) == (PNG, "image/png")
    assert api.http.delete("/admin/company/logo").json()["logo"] is None


def test_a_field_of_a_profile_is_changed_and_the_others_stay(api: AdminApi) -> None:
    path = "/admin/tenants/acme/profile"
    assert api.http.get(path).json()["legal_name"] == "acme"
    taxed = {"legal_name": "ACME AG", "address": ["Gasse 3", "Zürich"], "country": "CH", "tax_category": "S", "tax_percent": "8.1"}
    changed = api.http.patch(path, json={**taxed, "name": "ACME"}).json()
    assert {field: changed[field] for field in taxed} == taxed
    assert (changed["name"], changed["tax_note"]) == ("ACME", None), "the reason why no tax is charged is none any more"
    assert api.http.patch(path, json={"po_number": "PO-7"}).json() == {**changed, "po_number": "PO-7"}
    assert api.http.patch(path, json={"po_number": None}).json() == changed
    assert api.http.get(path).json() == changed
    assert api.http.get("/admin/tenants/acme").json()["name"] == "ACME"
    moved = api.http.patch(path, json={"tax_category": "AE", "tax_note": "Reverse charge"}).json()
    assert (moved["tax_percent"], moved["tax_note"]) == ("0", "Reverse charge"), "the old rate is not the new category's"
    assert fields(problem(api.http.patch(path, json={"tax_category": "E"}), 422, "invalid")) == ["tax_note"]
    assert fields(problem(api.http.patch(path, json={"legal_name": None}), 422, "invalid")) == ["legal_name"]
    assert fields(problem(api.http.patch(path, json={"language": "fr"}), 422, "invalid")) == ["language"]
    problem(api.http.patch(path, json={}), 422, "invalid")
    problem(api.http.get("/admin/tenants/nobody/profile"), 404, "not_found")


def test_a_tenant_is_closed_once_said_and_not_by_a_dry_run(api: AdminApi) -> None:
    rehearsed = api.http.post("/admin/tenants/acme/close?dry_run=true", json={})
    assert (rehearsed.status_code, rehearsed.headers["x-weir-dry-run"]) == (200, "true")
    assert "is closed now, for good" in rehearsed.json()["said"]
    assert api.http.get("/admin/tenants/acme").json()["state"] == "active"
    planned = api.http.post("/admin/tenants/acme/close", json={"when": "period-end"})
    assert "x-weir-dry-run" not in planned.headers
    assert api.http.get("/admin/tenants/acme").json()["closes_at"] == planned.json()["closes_at"] == "2026-12-03T12:00:00Z"
    assert api.http.delete("/admin/tenants/acme/next-plan").json()["closes_at"] is None
    assert api.http.post("/admin/tenants/acme/close", json={}).json()["plan_id"] == "pro"
    shown = api.http.get("/admin/tenants/acme").json()
    assert (shown["state"], shown["plan_id"], shown["closes_at"]) == ("closed", None, "2026-11-03T12:00:00Z")
    assert "for good" in problem(api.http.patch("/admin/tenants/acme", json={"state": "active"}), 409, "conflict")["detail"]
    assert [tenant["id"] for tenant in api.http.get("/admin/tenants", params={"state": "closed"}).json()] == ["acme"]


def test_a_dry_run_answers_as_the_change_would_and_leaves_nothing(api: AdminApi) -> None:
    api.plan("max", allowance_ncr=4000 * 10**9)
    moved = api.http.patch("/admin/tenants/acme", params={"dry_run": True}, json={"plan_id": "max"}).json()
    assert (moved["plan_id"], "3000 credits more" in moved["said"]) == ("max", True), "also what is read after it is as it would be"
    assert api.http.get("/admin/tenants/acme").json()["plan_id"] == "pro"
    given = api.http.post("/admin/grants", params={"dry_run": True}, json={"tenant_id": "acme", "credits": "5"})
    assert (given.status_code, given.json()["remaining"]) == (201, "5")
    assert api.http.get("/admin/grants").json() == []
    kept = api.http.post("/admin/grants", json={"tenant_id": "acme", "credits": "5"}).json()["id"]
    assert api.http.delete(f"/admin/grants/{kept}", params={"dry_run": True}).json()["voided"] == "5"
    assert api.http.get("/admin/grants").json()[0]["voided_at"] is None
    assert api.http.post("/admin/rates", params={"dry_run": True}, json={"model": "m", "input": "1", "output": "2"}).status_code == 201
    assert api.http.get("/admin/rates").json() == []


def test_a_plan_changes_from_the_day_on_which_a_later_period_begins(api: AdminApi) -> None:
    api.plan("max", allowance_ncr=4000 * 10**9)
    moved = api.http.patch("/admin/tenants/acme", json={"plan_id": "max", "when": "2027-02-03"}).json()
    assert moved["next_plan"] == {"plan_id": "max", "plan_version": 1, "starts_at": "2027-02-03T12:00:00Z"}
    assert "with the period that begins 2027-02-03 12:00 UTC" in moved["said"]
    refused = problem(api.http.patch("/admin/tenants/acme", json={"plan_id": "max", "when": "2027-01-01"}), 422, "invalid")
    assert fields(refused) == ["when"] and "2026-12-03 12:00, 2027-01-03 12:00, 2027-02-03 12:00 (UTC" in refused["detail"]


def test_every_list_says_where_its_next_page_is(api: AdminApi) -> None:
    for number in range(5):
        api.tenant(f"t{number}")
        api.http.post("/admin/grants", json={"tenant_id": "acme", "credits": "5", "id": f"g {number}"})
        api.http.post("/admin/keys", json={"tenant_id": "acme"})
        api.http.put(f"/admin/projects/acme/p{number}", json={})
        api.http.post("/admin/webhooks", json={"url": f"https://example.com/{number}"})
    for path, many in (
        ("/admin/tenants?sort=-created&limit=4", 6),
        ("/admin/tenants?plan_id=pro&limit=5", 6),
        ("/admin/grants?tenant_id=acme&limit=2", 5),
        ("/admin/grants?limit=3", 5),
        ("/admin/keys?tenant_id=acme&limit=2", 5),
        ("/admin/projects?tenant_id=acme&limit=2", 5),
        ("/admin/webhooks?limit=4", 5),
    ):
        seen: list[str] = []
        url: str | None = path
        while url is not None:
            answer = api.http.get(url)
            seen += [one.get("id") or one["name"] for one in answer.json()]
            found = re.fullmatch(r'<(.+)>; rel="next"', answer.headers.get("link", ""))
            url = found[1] if found else None
        assert len(seen) == len(set(seen)) == many, path


def test_an_import_is_all_or_nothing_and_names_every_fault(api: AdminApi) -> None:
    def take(text: str, **asked: str) -> Any:
        return api.http.post("/admin/tenants/import", params=asked, content=text.encode(), headers={"content-type": "text/csv"})

    refused = problem(take("id,plan,country\nacme,pro,DE\nnew,gold,Germany\n"), 422, "invalid")
    assert fields(refused) == ["line 2, id", "line 3, plan", "line 3, country"]
    assert [tenant["id"] for tenant in api.http.get("/admin/tenants").json()] == ["acme"]
    tried = take("id,plan\nnew,pro\n", dry_run="true")
    assert (tried.json()["created"], tried.headers["x-weir-dry-run"]) == (1, "true")
    made = take("id,plan,country\nacme,pro,DE\nnew,pro,FR\n", update="true").json()
    assert made == {
        "created": 1,
        "updated": 1,
        "unchanged": 0,
        "rows": [{"line": 2, "id": "acme", "action": "update"}, {"line": 3, "id": "new", "action": "create"}],
    }
    assert api.http.get("/admin/tenants/new/profile").json()["country"] == "FR"
    assert fields(problem(take("id,colour\nx,red\n"), 422, "invalid")) == ["file"]
    big = "id,plan,name\n" + "".join(f"tenant-{number},pro,{'x' * 190}\n" for number in range(6000))
    assert len(big) > 2**20, "a file may be larger than other bodies"
    assert take(big, dry_run="true").json()["created"] == 6000
