"""/finance/margins, /admin/exchange-rates and /admin/gpu-costs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from billing.grants.allowance import current_period, ensure_allowance
from billing.usage.writer import book
from tests.books import event
from tests.clock import START_US
from tests.desk import AdminApi, fields, open_admin_api, problem

CREDIT = 10**9
NOVEMBER = {"month": "2026-11"}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[AdminApi]:
    with open_admin_api(tmp_path) as opened:
        opened.plan("pro", monthly_fee_minor=5000)
        opened.tenant("acme")
        with opened.database.write() as session:
            ensure_allowance(session, "acme", START_US)
            found = current_period(session, "acme", START_US)
            assert found is not None
            book(session, [event(1, 100 * CREDIT, period_us=found[1].start_us)], START_US)
        yield opened


def get(api: AdminApi, path: str, **params: Any) -> Any:
    answer = api.http.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_margin_with_its_totals_and_what_has_no_cost(api: AdminApi) -> None:
    found = get(api, "/finance/margins", **NOVEMBER, by=["tenant", "day"])
    (line,) = found["lines"]
    assert (line["keys"], line["line"], line["fees"], line["margin"], line["credits"]) == ({"tenant": "acme", "day": "2026-11-03"}, "use", "5", "5", "100")
    assert (line["uncosted_requests"], line["uncosted_units"]) == (1, 10)
    assert {(gap["bucket"], gap["units"]) for gap in found["gaps"]} == {("input", 7), ("output", 3)}
    assert [(total["invoiced"], total["deferred"]) for total in found["totals"]] == [("50", "45")]
    assert get(api, "/finance/margins/losers", **NOVEMBER) == []


def test_gpus_are_said_listed_and_taken_away(api: AdminApi) -> None:
    body = {"backend": "b", "gpus": 2, "price": "1.50", "currency": "USD", "start_at": "2026-11-01T00:00:00Z", "end_at": "2026-11-01T10:00:00Z"}
    made = api.http.post("/admin/gpu-costs", json=body)
    assert (made.status_code, made.json()["price"], made.json()["weights"]) == (201, "1.5", "10:1:40")
    assert get(api, "/admin/gpu-costs") == [made.json()]
    assert [total["idle"] for total in get(api, "/finance/margins", **NOVEMBER)["totals"]] == ["30"]
    assert api.http.delete(f"/admin/gpu-costs/{made.json()['id']}").json() == made.json()
    problem(api.http.delete(f"/admin/gpu-costs/{made.json()['id']}"), 404, "not_found")


def test_amounts_are_converted_at_the_stated_rate(api: AdminApi) -> None:
    assert fields(problem(api.http.get("/finance/margins", params={**NOVEMBER, "currency": "EUR"}), 422, "invalid")) == ["currency"]
    stated = {"base": "USD", "quote": "EUR", "day": "2026-11-30", "rate": "0.5"}
    assert api.http.put("/admin/exchange-rates", json=stated).json() == stated
    assert get(api, "/admin/exchange-rates") == [stated]
    found = get(api, "/finance/margins", **NOVEMBER, currency="EUR")
    assert ([line["fees"] for line in found["lines"]], found["exchange"]) == (["2.5"], [stated])


@pytest.mark.parametrize(
    ("method", "path", "sent", "field"),
    [
        ("GET", "/finance/margins", {}, "month"),
        ("GET", "/finance/margins", {"month": "2026-11", "by": "colour"}, "by.0"),
        ("GET", "/finance/margins", {"first_day": "2026-11-02", "end_day": "2026-11-02"}, "end_day"),
        ("PUT", "/admin/exchange-rates", {"base": "USD", "quote": "EUR", "day": "2026-11-30", "rate": "0"}, "rate"),
        ("POST", "/admin/gpu-costs", {"backend": "b", "gpus": 2, "price": "-1", "currency": "USD"}, "price"),
        ("POST", "/admin/gpu-costs", {"backend": "b", "gpus": 2, "price": "1", "currency": "USD", "weights": "a"}, "weights"),
    ],
)
def test_422_names_the_field(api: AdminApi, method: str, path: str, sent: dict[str, Any], field: str) -> None:
    answer = api.http.get(path, params=sent) if method == "GET" else api.http.request(method, path, json=sent)
    assert fields(problem(answer, 422, "invalid")) == [field]


def test_a_month_is_billed_anew(api: AdminApi) -> None:
    api.plan("max", allowance_ncr=40 * CREDIT, on_exhausted="overage", credit_price="0.5", monthly_fee_minor=1000)
    found = get(api, "/finance/what-ifs", **NOVEMBER, plan_id="max")
    (period,) = found["periods"]
    assert (period["tenant_id"], period["first_day"], period["running"], period["difference"]) == ("acme", "2026-11-03", True, "-10")
    assert (period["books"]["total"], period["then"]["total"], period["then"]["fee"], period["then"]["overage_credits"]) == ("50", "40", "10", "60")
    assert fields(problem(api.http.get("/finance/what-ifs", params=NOVEMBER), 422, "invalid")) == ["plan"]
    problem(api.http.get("/finance/what-ifs", params={**NOVEMBER, "version_id": 3}), 404, "not_found")


def test_a_forecast_of_the_period_that_runs(api: AdminApi) -> None:
    (before,) = get(api, "/finance/forecasts")
    assert (before["expected"], before["method"]) == (None, "no day is over yet")
    api.clock.advance(3 * 86_400)
    (found,) = get(api, "/finance/forecasts", tenant_id="acme")
    assert (found["plan_id"], found["credits"], found["credits_left"], found["fee"], found["exhausted_day"]) == ("pro", "100", "900", "50.00", None)
    assert (found["expected"]["credits"], found["expected"]["total"], found["method"].split(",")[0]) == ("100", "50.00", "mean of 2 days")
    problem(api.http.get("/finance/forecasts", params={"tenant_id": "nobody"}), 404, "not_found")
