"""/admin/price-versions and /admin/costs; a rate with variants through /admin/rates."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.desk import AdminApi, fields, open_admin_api, problem

RATE = {"input": "1", "output": "2"}
FLEX = {"service_tier": "flex", "input": "0.5", "output": "1"}
LONG = {"input_over": 200000, "input": "2", "output": "3"}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[AdminApi]:
    with open_admin_api(tmp_path) as opened:
        yield opened


def propose(api: AdminApi, **body: Any) -> dict[str, Any]:
    answer = api.http.post("/admin/price-versions", json=body)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_201_sets_a_rate_with_variants(api: AdminApi) -> None:
    rate = api.http.post("/admin/rates", json={"model": "m", **RATE, "variants": [FLEX, LONG]}).json()
    assert [(one["when"], one["input_over"], one["service_tier"], one["prices"]["input"], one["prices"]["cache_read"]) for one in rate["variants"]] == [
        ("flex", None, "flex", "0.5", "0.5"),
        ("input over 200000", 200000, None, "2", "2"),
    ]
    assert api.http.get("/admin/rates").json() == [rate]


def test_rates_are_proposed_looked_at_and_published(api: AdminApi) -> None:
    api.http.post("/admin/rates", json={"model": "m", **RATE})
    made = propose(api, rates={"m": {"input": "1.5", "output": "2"}, "n": {**RATE, "variants": [LONG]}}, note="autumn")
    assert (made["book"], made["state"], made["note"], [change["model"] for change in made["changes"]]) == ("rates", "proposed", "autumn", ["m", "n"])
    assert len(api.http.get("/admin/rates").json()) == 1
    diff = api.http.get(f"/admin/price-versions/{made['id']}/diff").json()
    lines = [(line["model"], line["when"], line["bucket"], line["old"], line["new"], line["percent"]) for line in diff["lines"]]
    assert lines[:2] == [("m", "", "input", "1", "1.5", "+50.0"), ("n", "", "input", None, "1", None)]
    assert ("n", "input over 200000", "output", None, "3", None) in lines
    woken = api.changes.count
    published = api.http.post(f"/admin/price-versions/{made['id']}/publish").json()
    assert (published["state"], published["effective_at"], api.changes.count) == ("published", "2026-11-03T12:00:00Z", woken + 1)
    assert {rate["model"]: rate["prices"]["input"] for rate in api.http.get("/admin/rates").json()} == {"m": "1.5", "n": "1"}
    problem(api.http.post(f"/admin/price-versions/{made['id']}/publish"), 409, "conflict")


def test_a_model_that_would_lose_its_rate_is_named(api: AdminApi) -> None:
    api.http.post("/admin/rates", json={"model": "m", **RATE})
    made = propose(api, rates={"m": None}, effective_at="2026-11-04T00:00:00Z")
    assert api.http.get(f"/admin/price-versions/{made['id']}/diff").json()["losing"] == [{"model": "m"}]
    api.http.post(f"/admin/price-versions/{made['id']}/publish")
    assert [(rate["state"], rate["ended"]) for rate in api.http.get("/admin/rates").json()] == [("current", False), ("future", True)]


def test_a_proposal_is_withdrawn_and_kept(api: AdminApi) -> None:
    made = propose(api, rates={"m": RATE})
    assert api.http.post(f"/admin/price-versions/{made['id']}/withdraw").json()["state"] == "withdrawn"
    assert [version["state"] for version in api.http.get("/admin/price-versions").json()] == ["withdrawn"]
    problem(api.http.post(f"/admin/price-versions/{made['id']}/publish", json={}), 409, "conflict")


def test_costs_are_set_proposed_and_published_in_money(api: AdminApi) -> None:
    cost = api.http.post("/admin/costs", json={"backend": "b", "model": "u", "currency": "USD", "input": "0.27", "output": "1.10", "images": "0.04"}).json()
    assert (cost["prices"]["input"], cost["prices"]["output"], cost["prices"]["images"], cost["state"]) == ("0.27", "1.1", "0.04", "current")
    made = propose(api, costs={"b": {"u": {"currency": "USD", "input": "0.54", "output": "1.10", "images": "0.04"}}}, effective_at="2026-11-04T00:00:00Z")
    (line,) = api.http.get(f"/admin/price-versions/{made['id']}/diff", params={"book": "costs"}).json()["lines"]
    assert (line["backend"], line["bucket"], line["old"], line["new"], line["percent"], line["currency"]) == ("b", "input", "0.27", "0.54", "+100.0", "USD")
    api.http.post(f"/admin/price-versions/{made['id']}/publish", params={"book": "costs"})
    assert [(one["state"], one["prices"]["input"]) for one in api.http.get("/admin/costs", params={"backend": "b"}).json()] == [
        ("current", "0.27"),
        ("future", "0.54"),
    ]
    assert api.http.get("/admin/costs", params={"backend": "other"}).json() == []


def test_404_for_a_version_that_is_not_there_or_of_the_other_book(api: AdminApi) -> None:
    made = propose(api, rates={"m": RATE})
    problem(api.http.get("/admin/price-versions/99/diff"), 404, "not_found")
    problem(api.http.post(f"/admin/price-versions/{made['id']}/publish", params={"book": "costs"}), 404, "not_found")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/admin/price-versions", {"rates": {"m": {"input": "1"}}}, "rates.m"),
        ("/admin/price-versions", {"rates": {"m": {**RATE, "input": "0.0001"}}}, "rates.m.input"),
        ("/admin/price-versions", {"rates": {"m": {**RATE, "variants": [{"input": "1", "output": "1"}]}}}, "rates.m.variants.0"),
        ("/admin/price-versions", {"rates": {"m": {**RATE, "variants": [{**FLEX, "service_tier": "default"}]}}}, "rates.m.variants.0.service_tier"),
        ("/admin/price-versions", {"rates": {"m": {**RATE, "variants": [{**LONG, "input_over": 0}]}}}, "rates.m.variants.0.input_over"),
        ("/admin/price-versions", {"rates": {"m": {**RATE, "variants": [{**LONG, "lane": "middle"}]}}}, "rates.m.variants.0.lane"),
        ("/admin/price-versions", {"rates": {"m": {**RATE, "variants": [LONG, LONG]}}}, "variants"),
        ("/admin/price-versions", {"rates": {"m": RATE}, "effective_at": "2020-01-01T00:00:00Z"}, "effective_at"),
        ("/admin/price-versions", {"costs": {"b": {"u": RATE}}}, "costs.b.u.currency"),
        ("/admin/price-versions", {"costs": {"b": {"u": {**RATE, "currency": "XXX"}}}}, "costs.b.u.currency"),
        ("/admin/costs", {"backend": "b", "model": "u", "currency": "USD", "input": "0.0000001", "output": "1"}, "input"),
        ("/admin/costs", {"backend": "b", "model": "u", "currency": "USD", "input": 0.5, "output": "1"}, "input"),
        ("/admin/costs", {"model": "u", "currency": "USD", **RATE}, "backend"),
    ],
)
def test_422_names_the_field(api: AdminApi, path: str, body: dict[str, Any], field: str) -> None:
    assert fields(problem(api.http.post(path, json=body), 422, "invalid")) == [field]


@pytest.mark.parametrize("body", [{}, {"rates": {"m": RATE}, "costs": {"b": {"u": {**RATE, "currency": "USD"}}}}])
def test_422_for_a_proposal_of_no_book_or_of_both(api: AdminApi, body: dict[str, Any]) -> None:
    problem(api.http.post("/admin/price-versions", json=body), 422, "invalid")


def test_422_for_the_same_proposal_twice(api: AdminApi) -> None:
    propose(api, rates={"m": RATE})
    assert "proposes the same already" in problem(api.http.post("/admin/price-versions", json={"rates": {"m": RATE}}), 422, "invalid")["detail"]
