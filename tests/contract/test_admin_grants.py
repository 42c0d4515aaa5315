"""/admin/grants and /admin/credits: credits given, taken back, and what is left."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.desk import AdminApi, fields, open_admin_api, problem


@pytest.fixture
def api(tmp_path: Path) -> Iterator[AdminApi]:
    with open_admin_api(tmp_path) as opened:
        opened.tenant("acme")
        yield opened


def test_201_gives_credits_that_the_balance_shows(api: AdminApi) -> None:
    body = {"tenant_id": "acme", "credits": "0.000000001", "kind": "promotion", "expires_at": "2026-12-01T00:00:00Z", "note": "sorry"}
    answer = api.http.post("/admin/grants", json=body)
    assert answer.status_code == 201
    assert (answer.json()["credits"], answer.json()["remaining"], answer.json()["kind"]) == ("0.000000001", "0.000000001", "promotion")
    balance = api.http.get("/admin/credits/acme").json()
    assert (balance["limit"], balance["remaining"], balance["used"], balance["debt"]) == ("1000.000000001", "1000.000000001", "0", "0")
    assert (balance["plan_id"], balance["on_exhausted"], balance["resets_at"]) == ("pro", "slow", "2026-12-03T12:00:00Z")
    assert (balance["past_credits"], balance["past_credits_invoiced"]) == ("0", "0")
    assert {grant["kind"] for grant in balance["grants"]} == {"plan", "promotion"}
    assert api.changes.count == 1


def test_a_grant_with_an_id_is_given_once(api: AdminApi) -> None:
    body = {"tenant_id": "acme", "credits": "5", "id": "order-17"}
    assert api.http.post("/admin/grants", json=body).status_code == 201
    problem(api.http.post("/admin/grants", json=body), 409, "conflict")
    assert api.http.get("/admin/credits/acme").json()["remaining"] == "1005"


def test_a_void_grant_is_in_no_balance(api: AdminApi) -> None:
    grant = api.http.post("/admin/grants", json={"tenant_id": "acme", "credits": "500"}).json()
    voided = api.http.delete(f"/admin/grants/{grant['id']}").json()
    assert (voided["voided_at"], voided["voided"], voided["remaining"], voided["used"], voided["expired"]) == ("2026-11-03T12:00:00Z", "500", "0", "0", "0")
    assert api.http.get("/admin/credits/acme").json()["remaining"] == "1000"
    assert api.changes.count == 2
    problem(api.http.delete(f"/admin/grants/{grant['id']}"), 409, "conflict")


def test_a_grant_may_be_for_a_key_a_project_and_models(api: AdminApi) -> None:
    key = api.http.post("/admin/keys", json={"tenant_id": "acme", "project": "search"}).json()["id"]
    scope = {"key_id": key, "project": "search", "models": ["a", "b"]}
    made = api.http.post("/admin/grants", json={"tenant_id": "acme", "credits": "5", **scope})
    assert made.status_code == 201
    assert {field: made.json()[field] for field in scope} == scope
    assert api.http.get("/admin/grants", params={"tenant_id": "acme"}).json() == [made.json()]
    left = {grant["id"]: grant for grant in api.http.get("/admin/credits/acme").json()["grants"]}[made.json()["id"]]
    assert {field: left[field] for field in scope} == scope


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"key_id": "key_none"}, "key_id"),
        ({"project": "none"}, "project"),
        ({"models": []}, "models"),
        ({"models": ["a b"]}, "models.0"),
        ({"credits": "0.0000000001"}, "credits"),
        ({"effective_at": "2026-12-02T00:00:00Z", "expires_at": "2026-12-01T00:00:00Z"}, "expires_at"),
        ({"credits": "0"}, "credits"),
        ({"credits": "-5"}, "credits"),
        ({"credits": 0.5}, "credits"),
        ({"kind": "plan"}, "kind"),
        ({"id": "plan:x"}, "id"),
        ({"priority": 5000}, "priority"),
        ({"expires_at": "2026-11-01T00:00:00Z"}, "expires_at"),
        ({"effective_at": "2026-11-01T00:00:00Z"}, "effective_at"),
        ({"tenant": "acme"}, "tenant"),
    ],
)
def test_422_names_the_field(api: AdminApi, change: dict[str, Any], field: str) -> None:
    body = {"tenant_id": "acme", "credits": "5"} | change
    refused = problem(api.http.post("/admin/grants", json=body), 422, "invalid")
    assert fields(refused) == [field]
    assert refused["detail"].startswith(f"{field}: "), "in the words of the body, not of the books"
    assert "weir " not in refused["detail"], "who speaks HTTP has no use for a command"


def test_an_unknown_member_is_told_with_what_was_probably_meant(api: AdminApi) -> None:
    refused = problem(api.http.post("/admin/grants", json={"tenant_id": "acme", "credits": "5", "expires": "2027-01-01T00:00:00Z"}), 422, "invalid")
    assert refused["errors"] == [{"field": "expires", "message": "is not known here; did you mean `expires_at`?"}]
    rates = {"m": {"input": "1", "output": "2", "variants": [{"when": "slow", "input": "1", "output": "2"}]}}
    (error,) = problem(api.http.post("/admin/price-versions", json={"rates": rates}), 422, "invalid")["errors"]
    assert error["field"] == "rates.m.variants.0.when"
    assert "service_tier" in error["message"]


def test_404_for_what_is_not_there(api: AdminApi) -> None:
    problem(api.http.post("/admin/grants", json={"tenant_id": "nobody", "credits": "5"}), 404, "not_found")
    problem(api.http.get("/admin/grants", params={"tenant_id": "nobody"}), 404, "not_found")
    problem(api.http.delete("/admin/grants/none"), 404, "not_found")
    problem(api.http.get("/admin/credits/nobody"), 404, "not_found")
