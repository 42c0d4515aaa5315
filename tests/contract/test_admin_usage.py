"""/admin/usage and /finance: what was used, as lines and as files."""

import csv
import io
import json
from base64 import b64encode
from collections.abc import Iterator
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

import pytest

from billing.usage.writer import book
from tests.books import event, request_id
from tests.desk import AdminApi, fields, open_admin_api, problem


@pytest.fixture
def api(tmp_path: Path) -> Iterator[AdminApi]:
    with open_admin_api(tmp_path) as opened:
        opened.plan("pro", monthly_fee_minor=4900)
        opened.tenant("acme")
        opened.tenant("other")
        with opened.database.write() as session:
            book(session, [event(1, 10), event(2, 32), event(3, 7, tenant="other")], opened.clock.now_us())
        yield opened


def test_lines_add_up_to_the_events(api: AdminApi) -> None:
    lines = api.http.get("/admin/usage", params={"month": "2026-11"}).json()
    assert [(line["tenant_id"], line["day"], line["model"], line["requests"]) for line in lines] == [
        ("acme", "2026-11-03", "m", 2),
        ("other", "2026-11-03", "m", 1),
    ]
    assert lines[0]["units"] == {"input": 14, "output": 6}
    assert sum(Decimal(line["credits"]) for line in lines) == Decimal("0.000000049")


def test_one_event_is_found_by_the_id_that_its_answer_carried(api: AdminApi) -> None:
    found = api.http.get(f"/admin/usage/events/{request_id(2)}").json()
    expected = {"id": request_id(2), "tenant_id": "acme", "key_id": "key_1", "model": "m", "lane": "fast", "source": "reported", "outcome": "complete"}
    assert expected.items() <= found.items()
    assert (found["units"], found["credits"], found["paid_from_credits"], found["past_credits"]) == (
        {"input": 7, "cache_read": 0, "output": 3},
        "0.000000032",
        "0.000000032",
        "0",
    )
    assert found["started_at"] == "2026-11-03T12:00:00Z"
    problem(api.http.get("/admin/usage/events/none"), 404, "not_found")


def test_a_month_without_use_has_no_lines(api: AdminApi) -> None:
    assert api.http.get("/admin/usage", params={"month": "2026-10", "tenant_id": "acme"}).json() == []


def test_the_usage_file_is_the_same_twice_and_sums_to_the_events(api: AdminApi) -> None:
    first, second = (api.http.get("/finance/usage", params={"month": "2026-11", "tenant_id": "acme"}) for _ in range(2))
    assert first.content == second.content
    assert first.headers["content-type"].startswith("text/csv")
    assert first.headers["content-disposition"] == 'attachment; filename="usage-2026-11.csv"'
    rows = list(csv.DictReader(io.StringIO(first.text)))
    assert sum(Decimal(row["credits"]) for row in rows) == Decimal("0.000000042")


def test_the_usage_file_as_json(api: AdminApi) -> None:
    answer = api.http.get("/finance/usage", params={"month": "2026-11", "format": "json"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["totals"]["credits"] == "0.000000049"


@pytest.mark.parametrize("path", ["/admin/usage", "/finance/usage", "/finance/invoices", "/finance/invoices/file"])
@pytest.mark.parametrize("month", ["2026-13", "november", "2026-1", "", "2026-11-01", "0000-00", '2026-11"; filename="x'])
def test_422_for_a_month_that_is_none(api: AdminApi, path: str, month: str) -> None:
    assert fields(problem(api.http.get(path, params={"month": month}), 422, "invalid")) == ["month"]


def test_422_for_a_format_that_is_none(api: AdminApi) -> None:
    assert fields(problem(api.http.get("/finance/usage", params={"month": "2026-11", "format": "docx"}), 422, "invalid")) == ["format"]


@pytest.mark.parametrize("path", ["/admin/usage", "/finance/usage", "/finance/invoices", "/finance/invoices/file"])
def test_404_for_a_tenant_that_is_not_there(api: AdminApi, path: str) -> None:
    problem(api.http.get(path, params={"month": "2026-11", "tenant_id": "nobody"}), 404, "not_found")


def test_an_export_says_in_its_head_what_it_holds(api: AdminApi) -> None:
    answer = api.http.get("/finance/usage", params={"month": "2026-11", "by": "request", "format": "jsonl", "tenant_id": "acme", "model": "m"})
    assert [json.loads(line)["event"] for line in answer.text.splitlines()] == [request_id(1), request_id(2)]
    digest = b64encode(sha256(answer.content).digest()).decode()
    assert (answer.headers["repr-digest"], answer.headers["x-weir-rows"]) == (f"sha-256=:{digest}:", "2")
    assert answer.headers["content-length"] == str(len(answer.content))
    assert json.loads(answer.headers["x-weir-totals"])["credits"] == "0.000000042"
    assert answer.headers["content-disposition"] == 'attachment; filename="requests-2026-11.jsonl"'


@pytest.mark.parametrize(("form", "begins"), [("focus", b"BilledCost,"), ("xlsx", b"PK"), ("parquet", b"PAR1")])
def test_every_format_comes_over_http(api: AdminApi, form: str, begins: bytes) -> None:
    answer = api.http.get("/finance/usage", params={"month": "2026-11", "format": form})
    assert answer.status_code == 200
    assert answer.content.startswith(begins)


def test_an_export_that_cannot_be_made_is_a_problem_and_no_half_a_file(api: AdminApi) -> None:
    asked = {"month": "2026-11", "by": "request", "from_day": "2026-11-20", "to_day": "2026-11-02"}
    assert fields(problem(api.http.get("/finance/usage", params=asked), 422, "invalid")) == ["from_day"]
    assert fields(problem(api.http.get("/finance/usage", params={"month": "2026-11", "model": "m"}), 422, "invalid")) == ["by"]
