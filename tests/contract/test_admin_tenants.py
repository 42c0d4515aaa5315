"""/admin/tenants."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.desk import AdminApi, fields, open_admin_api, problem

NO_SLUG = "is not usable; 1 to 63 characters of a-z, 0-9 and -, the first a letter or a digit, like acme-research"  # as the command line says it


@pytest.fixture
def api(tmp_path: Path) -> Iterator[AdminApi]:
    with open_admin_api(tmp_path) as opened:
        opened.plan("pro")
        yield opened


def test_201_creates_a_tenant_on_a_plan(api: AdminApi) -> None:
    answer = api.http.post("/admin/tenants", json={"id": "acme", "plan_id": "pro", "name": "ACME", "timezone": "Europe/Berlin"})
    assert answer.status_code == 201
    expected = {"id": "acme", "name": "ACME", "state": "active", "plan_id": "pro", "plan_version": 1, "currency": "USD", "timezone": "Europe/Berlin"}
    period = {"period_start": "2026-11-03T12:00:00Z", "period_end": "2026-12-03T12:00:00Z", "next_plan": None, "closes_at": None}
    assert answer.json() == {**expected, **period, "created_at": "2026-11-03T12:00:00Z"}
    assert api.http.get("/admin/tenants/acme").json() == answer.json()
    assert api.changes.count == 1


def test_a_tenants_own_id_may_be_called_what_every_other_noun_calls_it(api: AdminApi) -> None:
    answer = api.http.post("/admin/tenants", json={"tenant_id": "acme", "plan_id": "pro"})
    assert (answer.status_code, answer.json()["id"]) == (201, "acme")
    assert fields(problem(api.http.post("/admin/tenants", json={"tenant_id": "Ac", "plan_id": "pro"}), 422, "invalid")) == ["tenant_id"]


def test_409_for_an_id_that_is_taken(api: AdminApi) -> None:
    api.tenant("acme")
    body = problem(api.http.post("/admin/tenants", json={"id": "acme", "plan_id": "pro"}), 409, "conflict")
    assert "acme" in body["detail"]
    assert api.changes.count == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"plan_id": "pro"}, "id"),
        ({"id": "Ac me", "plan_id": "pro"}, "id"),
        ({"id": "acme"}, "plan_id"),
        ({"id": "acme", "plan_id": "pro", "nmae": "x"}, "nmae"),
        ({"id": "acme", "plan_id": "pro", "currency": "ZZZ"}, "currency"),
        ({"id": "acme", "plan_id": "pro", "timezone": "Mars/Olympus"}, "timezone"),
        ({"id": 7, "plan_id": "pro"}, "id"),
    ],
)
def test_422_names_the_field(api: AdminApi, body: dict[str, Any], field: str) -> None:
    assert fields(problem(api.http.post("/admin/tenants", json=body), 422, "invalid")) == [field]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"id": "Ac me", "plan_id": "pro"}, f"id: `Ac me` {NO_SLUG}"),
        ({"id": 7, "plan_id": "pro"}, "id: must be text"),
        ({"id": "acme"}, "plan_id: is missing"),
        ({"id": "acme", "plan_id": "pro", "nmae": "x"}, "nmae: is not known here; did you mean `name`?"),
        (
            {"id": "acme", "plan_id": "pro", "currency": "ZZZ"},
            "currency: `ZZZ` is not supported; one of AUD, CAD, CHF, CNY, EUR, GBP, HKD, INR, JPY, KRW, SGD, USD",
        ),
    ],
)
def test_a_refusal_is_in_plain_words(api: AdminApi, body: dict[str, Any], told: str) -> None:
    assert problem(api.http.post("/admin/tenants", json=body), 422, "invalid")["detail"] == told


def test_404_for_a_plan_or_a_tenant_that_is_not_there(api: AdminApi) -> None:
    assert "plan `gold`" in problem(api.http.post("/admin/tenants", json={"id": "acme", "plan_id": "gold"}), 404, "not_found")["detail"]
    problem(api.http.get("/admin/tenants/nobody"), 404, "not_found")
    problem(api.http.patch("/admin/tenants/nobody", json={"state": "suspended"}), 404, "not_found")


def test_a_tenant_is_suspended_and_resumed(api: AdminApi) -> None:
    api.tenant("acme")
    assert api.http.patch("/admin/tenants/acme", json={"state": "suspended"}).json()["state"] == "suspended"
    assert api.http.patch("/admin/tenants/acme", json={"state": "active"}).json()["state"] == "active"
    assert api.changes.count == 2


def test_a_tenant_moves_to_a_plan_with_more_credits_at_once(api: AdminApi) -> None:
    api.tenant("acme")
    api.plan("max", allowance_ncr=4000 * 10**9)
    moved = api.http.patch("/admin/tenants/acme", json={"plan_id": "max"}).json()
    assert (moved["plan_id"], moved["next_plan"]) == ("max", None)
    assert moved["said"] == (
        "tenant acme moves from plan pro version 1 to plan max version 1 now: 3000 credits more until its period ends, 2026-12-03 12:00 UTC; "
        "what it was given before stays, and so do its months"
    )


def test_a_move_at_once_says_that_the_fee_changes_with_the_next_period(api: AdminApi) -> None:
    api.plan("pro", monthly_fee_minor=4900, currency="USD")
    api.tenant("acme")
    api.plan("max", allowance_ncr=4000 * 10**9, monthly_fee_minor=9900, currency="USD")
    said = api.http.patch("/admin/tenants/acme", json={"plan_id": "max"}).json()["said"]
    assert said.endswith("; the monthly fee changes from 49.00 USD to 99.00 USD with its next period")


def test_a_change_that_is_to_come_is_shown_and_taken_back(api: AdminApi) -> None:
    api.tenant("acme")
    api.plan("mini", allowance_ncr=10**9)
    coming = {"plan_id": "mini", "plan_version": 1, "starts_at": "2026-12-03T12:00:00Z"}
    moved = api.http.patch("/admin/tenants/acme", json={"plan_id": "mini"}).json()
    assert (moved["plan_id"], moved["next_plan"]) == ("pro", coming)
    assert "moves from plan pro version 1 to plan mini version 1 when its period ends, 2026-12-03 12:00 UTC" in moved["said"]
    assert api.http.get("/admin/tenants/acme").json()["next_plan"] == coming
    stayed = api.http.delete("/admin/tenants/acme/next-plan")
    assert (stayed.status_code, stayed.json()["next_plan"]) == (200, None)
    problem(api.http.delete("/admin/tenants/acme/next-plan"), 409, "conflict")
    assert api.http.patch("/admin/tenants/acme", json={"plan_id": "mini", "when": "now"}).json()["plan_id"] == "mini"
    assert api.changes.count == 3


def test_422_for_a_calendar_or_a_currency_that_would_change(api: AdminApi) -> None:
    api.tenant("acme")
    for field in ("timezone", "currency"):
        said = problem(api.http.patch("/admin/tenants/acme", json={field: "UTC"}), 422, "invalid")["detail"]
        assert f"{field} is chosen when a tenant is created and stays" in said


def test_a_tenant_whose_months_wait_for_its_first_request_has_no_period(api: AdminApi) -> None:
    api.plan("trial", activate_on_first_use=True)
    answer = api.http.post("/admin/tenants", json={"id": "acme", "plan_id": "trial"}).json()
    assert (answer["plan_id"], answer["period_start"], answer["period_end"]) == ("trial", None, None)


@pytest.mark.parametrize("body", [{}, {"state": "gone"}, {"state": None}, {"state": "active", "when": "now"}, {"plan_id": "pro", "when": "soon"}])
def test_422_for_a_change_that_changes_nothing(api: AdminApi, body: dict[str, Any]) -> None:
    api.tenant("acme")
    problem(api.http.patch("/admin/tenants/acme", json=body), 422, "invalid")


def test_pages_cover_every_tenant_once(api: AdminApi) -> None:
    for number in range(5):
        api.tenant(f"t{number}")
    seen: list[str] = []
    while page := api.http.get("/admin/tenants", params={"limit": 2, "after": seen[-1] if seen else ""}).json():
        seen += [tenant["id"] for tenant in page]
    assert seen == [f"t{number}" for number in range(5)]


@pytest.mark.parametrize("limit", ["0", "1001", "many"])
def test_422_for_a_page_size_out_of_range(api: AdminApi, limit: str) -> None:
    assert fields(problem(api.http.get("/admin/tenants", params={"limit": limit}), 422, "invalid")) == ["limit"]
