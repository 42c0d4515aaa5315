"""/admin/plans."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.desk import AdminApi, fields, open_admin_api, problem

FULL = {
    "credits": "1000.5",
    "name": "Pro",
    "seat_credits": "50",
    "rollover_cap": "200",
    "activate_on_first_use": True,
    "on_exhausted": "overage",
    "fallback_model": None,
    "slow_daily_cap": "10",
    "weight": 3,
    "slow_weight": 2,
    "glide_percent": 20,
    "fast_concurrency": 8,
    "slow_concurrency": 1,
    "slow_delay_ms": 250,
    "slow_tokens_per_second": 30,
    "slow_priority": 20,
    "slow_flex": False,
    "spill_after_ms": 500,
    "requests_per_minute": 60,
    "tokens_per_minute": 10000,
    "allowed_models": ["a", "b/c"],
    "on_database_loss": "closed",
    "monthly_fee": "49.00",
    "currency": "EUR",
    "credit_price": "0.012",
}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[AdminApi]:
    with open_admin_api(tmp_path) as opened:
        yield opened


def test_a_plan_comes_back_as_it_was_written(api: AdminApi) -> None:
    answer = api.http.put("/admin/plans/pro", json=FULL)
    assert answer.status_code == 200
    assert answer.json() == {**FULL, "id": "pro", "version": 1, "tenants": 0, "created_at": "2026-11-03T12:00:00Z"}
    assert api.http.get("/admin/plans/pro").json() == answer.json()
    assert api.changes.count == 1


def test_writing_a_plan_again_makes_a_version_and_moves_nobody(api: AdminApi) -> None:
    api.http.put("/admin/plans/pro", json={"credits": "10"})
    api.tenant("acme")
    assert api.http.put("/admin/plans/pro", json={"credits": "20"}).json()["version"] == 2
    versions = api.http.get("/admin/plans", params={"all_versions": True}).json()
    assert [(plan["version"], plan["credits"], plan["tenants"]) for plan in versions] == [(1, "10", 1), (2, "20", 0)]
    assert [plan["version"] for plan in api.http.get("/admin/plans").json()] == [2]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"credits": "-1"}, "credits"),
        ({"credits": "much"}, "credits"),
        ({"credits": "0.0000000001"}, "credits"),
        ({"credits": "1e400"}, "credits"),
        ({"credits": "NaN"}, "credits"),
        ({"credits": 12.5}, "credits"),
        ({"credits": None}, "credits"),
        ({"on_exhausted": "cut"}, "on_exhausted"),
        ({"weight": 0}, "weight"),
        ({"slow_weight": 0}, "slow_weight"),
        ({"glide_percent": 101}, "glide_percent"),
        ({"seat_credits": "-1"}, "seat_credits"),
        ({"rollover_cap": "lots"}, "rollover_cap"),
        ({"on_database_loss": "open"}, "on_database_loss"),
        ({"slow_concurrency": 0}, "slow_concurrency"),
        ({"allowed_models": []}, "allowed_models"),
        ({"allowed_models": ["a b"]}, "allowed_models.0"),
        ({"credit_price": "-0.01"}, "credit_price"),
        ({"allowance": "1"}, "allowance"),
    ],
)
def test_422_names_the_field(api: AdminApi, change: dict[str, Any], field: str) -> None:
    assert fields(problem(api.http.put("/admin/plans/pro", json=FULL | change), 422, "invalid")) == [field]


@pytest.mark.parametrize(
    "change",
    [
        {"monthly_fee": "49.001"},
        {"monthly_fee": "-1"},
        {"currency": "ZZZ"},
        {"on_exhausted": "overage", "credit_price": None},
        {"on_exhausted": "fallback"},
        {"fallback_model": "a"},
        {"on_exhausted": "fallback", "fallback_model": "c"},
        {"slow_weight": 4},
        {"credits": "0"},
    ],
)
def test_422_for_terms_that_do_not_add_up(api: AdminApi, change: dict[str, Any]) -> None:
    problem(api.http.put("/admin/plans/pro", json=FULL | change), 422, "invalid")
    assert api.http.get("/admin/plans").json() == []


def test_a_plan_may_fall_back_to_a_model_of_its_own(api: AdminApi) -> None:
    wish = FULL | {"on_exhausted": "fallback", "fallback_model": "a", "credit_price": None}
    assert api.http.put("/admin/plans/pro", json=wish).json()["fallback_model"] == "a"


def test_422_for_an_id_that_is_no_slug(api: AdminApi) -> None:
    assert fields(problem(api.http.put("/admin/plans/Pro%20Plus", json={"credits": "1"}), 422, "invalid")) == ["plan_id"]


def test_404_for_a_plan_that_is_not_there(api: AdminApi) -> None:
    problem(api.http.get("/admin/plans/none"), 404, "not_found")
