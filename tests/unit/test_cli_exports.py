"""`weir usage export`: a file is there whole or not at all, with a manifest when asked for; standard output carries nothing else."""

import hashlib
import json
from pathlib import Path

import openpyxl
import pytest

from billing.db import Database
from billing.usage.writer import book
from gateway.clock import SystemClock
from tests.books import event, request_id
from tests.command import Weir, weir_in


@pytest.fixture
def weir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Weir:
    called = weir_in(tmp_path, monkeypatch, capsys)
    called("plan", "set", "pro", "--credits", "1000")
    called("tenant", "create", "acme", "--plan", "pro")
    return called


@pytest.fixture
def used(weir: Weir, tmp_path: Path) -> Weir:
    database = Database(f"sqlite:///{tmp_path / 'weir-data' / 'weir.db'}")
    with database.write() as session:
        book(session, [event(1, 10), event(2, 32)], SystemClock().now_us())
    database.close()
    return weir


def test_a_file_has_its_manifest_beside_it(used: Weir, tmp_path: Path) -> None:
    said = used("usage", "export", "--month", "2026-11", "--format", "xlsx", "-o", "use.xlsx", "--manifest")
    assert (said.code, said.out) == (0, "")
    data = (tmp_path / "use.xlsx").read_bytes()
    manifest = json.loads((tmp_path / "use.xlsx.manifest.json").read_bytes())
    assert (manifest["sha256"], manifest["rows"], manifest["bytes"]) == (hashlib.sha256(data).hexdigest(), 1, len(data))
    assert manifest["totals"]["credits"] == "0.000000042"
    assert manifest["sha256"] in said.err and "credits: 0.000000042" in said.err
    assert openpyxl.load_workbook(tmp_path / "use.xlsx").worksheets[0]["A2"].value == "acme"
    assert not list(tmp_path.glob("*.part"))


def test_a_line_leads_to_its_requests(used: Weir) -> None:
    said = used("usage", "export", "--month", "2026-11", "--by", "request", "--tenant", "acme", "--from-day", "2026-11-03", "--model", "m", "--format", "jsonl")
    assert [json.loads(line)["event"] for line in said.out.splitlines()] == [request_id(1), request_id(2)]
    none = used("usage", "export", "--month", "2026-11", "--by", "request", "--to-day", "2026-11-02", "--format", "jsonl")
    assert (none.code, none.out) == (0, "")
    assert "nothing was used" in none.err


def test_focus_is_a_file_like_others(used: Weir) -> None:
    said = used("usage", "export", "--month", "2026-11", "--format", "focus")
    assert said.out.startswith("BilledCost,BillingAccountId,")
    assert said.out.count("\r\n") == 2


def test_a_file_that_cannot_be_made_leaves_nothing(used: Weir, tmp_path: Path) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    said = used("usage", "export", "--month", "2026-11", "--by", "request", "--from-day", "2026-11-09", "--to-day", "2026-11-03", "-o", "u.csv")
    assert (said.code, "no day of 2026-11" in said.err) == (2, True)
    assert used("usage", "export", "--month", "2026-11", "-o", "nowhere/u.csv").code == 2
    assert used("usage", "export", "--month", "2026-11", "--manifest").code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == before
