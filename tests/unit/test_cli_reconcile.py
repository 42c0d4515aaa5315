"""`weir reconcile` and /finance/reconciliation over real books: import, compare, look, and what is refused."""

import json
from pathlib import Path

import pytest

from billing.usage.writer import book
from tests.books import event
from tests.command import weir_in
from tests.desk import open_admin_api, problem

DATA = "day,model,bucket,quantity,cost,currency\n2026-11-03,billed,input,7,,\n2026-11-03,billed,output,4,,\n"


def test_a_clerk_imports_compares_and_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    weir = weir_in(tmp_path, monkeypatch, capsys)
    (tmp_path / "bill.csv").write_text(DATA)
    taken = weir("reconcile", "import", "bill.csv", "--backend", "b", "--vendor", "csv", "--alias", "billed=u")
    assert taken.out == "bill 1: b, 2026-11-03 to 2026-11-03; compare it: weir reconcile run 1\n"
    assert "0 matched, 2 provider_only" in weir("reconcile", "run", "1").out
    assert weir("reconcile", "run", "1", "--strict").code == 1
    rows = json.loads(weir("reconcile", "show", "2", "--only", "provider_only", "--format", "json").out)
    assert [(row["day"], row["model"], row["provider"], row["gateway"]) for row in rows] == [
        ("2026-11-03", "u", 7, 0), ("2026-11-03", "u", 4, 0), ("all", "u", 7, 0), ("all", "u", 4, 0),
    ]  # fmt: skip
    (bill,) = json.loads(weir("reconcile", "list", "--format", "json").out)
    assert (bill["runs"], bill["aliases"], bill["superseded_by"]) == ([1, 2], ["billed=u"], None)
    assert weir("reconcile", "import", "bill.csv", "--backend", "b", "--vendor", "csv", "--alias", "x").code == 2
    assert "there is no run `9`" in weir("reconcile", "show", "9").err


def test_the_same_over_the_api(tmp_path: Path) -> None:
    with open_admin_api(tmp_path) as api:
        api.tenant("acme")
        with api.database.write() as session:
            book(session, [event(1)], api.clock.now_us())
        where = "/finance/reconciliation"
        made = api.http.post(where, params={"backend": "b", "vendor": "csv", "alias": "billed=u"}, content=DATA)
        assert (made.status_code, made.json()["first_day"]) == (201, "2026-11-03")
        run = api.http.post(f"{where}/1/runs", json={})
        assert run.status_code == 201, run.text
        states = {(item["day"], item["bucket"]): (item["state"], item["provider"], item["gateway"], item["difference"]) for item in run.json()["items"]}
        assert (states[None, "input"], states[None, "output"]) == (("matched", "7", "7", "0"), ("mismatch", "4", "3", "1"))
        assert api.http.get(f"{where}/runs/1").json() == run.json()
        assert {item["state"] for item in api.http.get(f"{where}/runs/1", params={"only": "mismatch"}).json()["items"]} == {"mismatch"}
        assert [bill["run_ids"] for bill in api.http.get(where).json()] == [[1]]
        problem(api.http.post(where, params={"backend": "b", "vendor": "openai"}, content=DATA), 422, "invalid")
        problem(api.http.get(f"{where}/runs/9"), 404, "not_found")
