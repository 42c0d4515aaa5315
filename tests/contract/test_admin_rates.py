"""/admin/rates."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.desk import AdminApi, fields, open_admin_api, problem


@pytest.fixture
def api(tmp_path: Path) -> Iterator[AdminApi]:
    with open_admin_api(tmp_path) as opened:
        yield opened


def test_201_sets_a_rate_with_the_kinds_left_out_priced_like_their_parents(api: AdminApi) -> None:
    answer = api.http.post("/admin/rates", json={"model": "org/m", "input": "0.5", "output": "1.5", "cache_read": "0.05", "images": "2"})
    assert answer.status_code == 201
    rate = answer.json()
    assert (rate["model"], rate["free"], rate["state"], rate["effective_at"]) == ("org/m", False, "current", "2026-11-03T12:00:00Z")
    prices = rate["prices"]
    assert (prices["input"], prices["output"], prices["cache_read"], prices["audio_in"], prices["images"]) == ("0.5", "1.5", "0.05", "0.5", "2")
    assert api.changes.count == 1


def test_a_rate_for_later_takes_the_place_of_the_current_one_at_its_instant(api: AdminApi) -> None:
    api.http.post("/admin/rates", json={"model": "m", "input": "1", "output": "1"})
    api.clock.advance(1)
    later = api.http.post("/admin/rates", json={"model": "m", "free": True, "effective_at": "2026-11-03T12:01:00Z"}).json()
    assert later["state"] == "future"
    assert [rate["state"] for rate in api.http.get("/admin/rates").json()] == ["current", "future"]
    api.clock.advance(60)
    assert [(rate["free"], rate["state"]) for rate in api.http.get("/admin/rates", params={"model": "m"}).json()] == [(True, "current")]
    assert [rate["state"] for rate in api.http.get("/admin/rates", params={"all_versions": True}).json()] == ["past", "current"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"input": "1", "output": "1"}, "model"),
        ({"model": "", "input": "1", "output": "1"}, "model"),
        ({"model": "m", "input": 0.5, "output": "1"}, "input"),
        ({"model": "m", "input": "0.0001", "output": "1"}, "input"),
        ({"model": "m", "input": "1", "output": "-1"}, "output"),
        ({"model": "m", "input": "1", "output": "1", "tokens": "1"}, "tokens"),
        ({"model": "m", "input": "1", "output": "1", "effective_at": "2020-01-01T00:00:00Z"}, "effective_at"),
        ({"model": "m", "free": "maybe"}, "free"),
    ],
)
def test_422_names_the_field(api: AdminApi, body: dict[str, Any], field: str) -> None:
    assert fields(problem(api.http.post("/admin/rates", json=body), 422, "invalid")) == [field]


@pytest.mark.parametrize("body", [{"model": "m"}, {"model": "m", "input": "1"}, {"model": "m", "free": True, "input": "1", "output": "1"}])
def test_422_for_a_rate_that_is_no_price(api: AdminApi, body: dict[str, Any]) -> None:
    problem(api.http.post("/admin/rates", json=body), 422, "invalid")


def test_proposals_write_nothing(api: AdminApi) -> None:
    answer = api.http.get("/admin/rates/proposals", params={"model": ["gpt-4o", "no-such-model"], "credits_per_usd": "100"})
    known, unknown = answer.json()
    assert (known["source"], known["usd"]["input_mtok"]) == ("openai/gpt-4o", "2.5")
    assert (known["prices"]["input"], known["prices"]["output"]) == ("250", "1000")
    assert (unknown["source"], unknown["prices"]) == (None, {})
    assert api.http.get("/admin/rates").json() == []


@pytest.mark.parametrize("worth", ["0", "-1", "much"])
def test_422_for_proposals_at_no_price(api: AdminApi, worth: str) -> None:
    assert fields(problem(api.http.get("/admin/rates/proposals", params={"model": "gpt-4o", "credits_per_usd": worth}), 422, "invalid")) == ["credits_per_usd"]
