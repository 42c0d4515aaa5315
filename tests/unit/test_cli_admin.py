"""The admin's commands: the company, tenants on paper, closing, lists, changes from a later day, and dry runs."""

import csv
import io
import json
import re
from pathlib import Path

import pytest

from tests.command import Weir, weir_in

PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 20


@pytest.fixture
def weir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Weir:
    command = weir_in(tmp_path, monkeypatch, capsys)
    assert command("plan", "set", "pro", "--credits", "1000").code == 0
    assert command("plan", "set", "max", "--credits", "4000").code == 0
    assert command("tenant", "create", "acme", "--plan", "pro", "--name", "ACME").code == 0
    return command


def listed(weir: Weir, *arguments: str) -> list[str]:
    return [row["id"] for row in json.loads(weir("tenant", "list", "--format", "json", *arguments).out)]


def test_the_company_is_said_bit_by_bit(weir: Weir, tmp_path: Path) -> None:
    assert "weir company set" in weir("company", "show").out
    assert "legal_name: is missing" in weir("company", "set", "--country", "DE").err
    (tmp_path / "logo.png").write_bytes(PNG)
    first = (
        "company",
        "set",
        "--legal-name",
        "Weir GmbH",
        "--address",
        "Hauptstr. 1",
        "--address",
        "10115 Berlin",
        "--logo",
        "logo.png",
        "--bank",
        "IBAN DE00",
    )
    assert weir(*first).code == 0
    assert weir("company", "set", "--country", "DE", "--series", "WH").code == 0
    shown = weir("company", "show").out
    for part in ("Weir GmbH", "Hauptstr. 1 / 10115 Berlin", "DE", "WH", "png, 28 bytes", "IBAN DE00"):
        assert part in shown
    assert weir("company", "set", "--logo", "").code == 0
    assert "png" not in weir("company", "show").out
    assert "absent.png cannot be read" in weir("company", "set", "--logo", "absent.png").err
    (tmp_path / "logo.svg").write_text("<svg>")
    assert "not a PNG or JPEG" in weir("company", "set", "--logo", "logo.svg").err
    assert "nothing to change" in weir("company", "set").err


def test_a_tenant_on_paper_keeps_what_is_not_said(weir: Weir) -> None:
    assert weir("tenant", "set", "acme", "--legal-name", "ACME AG", "--country", "CH", "--tax-category", "S", "--tax-percent", "8.1").code == 0
    assert weir("tenant", "set", "acme", "--po-number", "PO-7", "--name", "Acme").code == 0
    shown = weir("tenant", "show", "acme").out
    for part in ("ACME AG", "CH", "8.1", "PO-7", "Acme"):
        assert part in shown
    assert weir("tenant", "set", "acme", "--po-number", "").code == 0
    assert "PO-7" not in weir("tenant", "show", "acme").out
    refused = weir("tenant", "set", "acme", "--country", "Switzerland")
    assert (refused.code, "--country: `Switzerland` is not a country" in refused.err) == (2, True)
    assert "nothing to change" in weir("tenant", "set", "acme").err


def test_closing_asks_says_and_is_final(weir: Weir) -> None:
    weir("key", "issue", "acme")
    asked = weir("tenant", "close", "acme")
    assert (asked.code, "1 key is revoked and plan pro version 1 ends" in asked.err, "Say --yes" in asked.err) == (2, True, True)
    tried = weir("tenant", "close", "acme", "--dry-run")
    assert (tried.code, tried.err) == (0, "dry run: nothing was changed\n")
    assert listed(weir, "--state", "active") == ["acme"]
    assert "when its period ends" in weir("tenant", "close", "acme", "--when", "period-end", "--yes").out
    assert weir("tenant", "stay", "acme").code == 0
    assert weir("tenant", "close", "acme", "--yes").code == 0
    assert listed(weir, "--state", "closed") == ["acme"]
    assert weir("tenant", "resume", "acme").code == 2
    assert "closed" in weir("tenant", "show", "acme").out


def test_the_list_is_filtered_sorted_and_cut(weir: Weir) -> None:
    for tenant, name, plan in (("b", "Zeta", "max"), ("c", "Alpha", "pro")):
        weir("tenant", "create", tenant, "--plan", plan, "--name", name)
    assert listed(weir) == ["acme", "b", "c"]
    assert listed(weir, "--sort", "name") == ["acme", "c", "b"]
    assert listed(weir, "--sort=-created", "--limit", "2") == ["c", "b"]
    assert listed(weir, "--plan", "max") == listed(weir, "--text", "zet") == ["b"]
    cut = weir("tenant", "list", "--limit", "2")
    assert cut.err == "there are more: --after b\n"
    assert listed(weir, "--after", "b") == ["c"]
    assert "there is no plan `gold`" in weir("tenant", "list", "--plan", "gold").err
    (first, *_) = csv.DictReader(io.StringIO(weir("tenant", "list", "--format", "csv").out))
    assert (first["legal_name"], first["tax_category"]) == ("ACME", "O")


def test_a_plan_changes_on_a_later_day_or_says_which_days_there_are(weir: Weir) -> None:
    refused = weir("tenant", "plan", "acme", "max", "--when", "2020-01-01", "--yes")
    assert "not within the 10 years to come" in refused.err
    period = re.search(r"until (\d{4}-\d\d-\d\d)", weir("tenant", "show", "acme").out)
    assert period is not None
    tried = weir("tenant", "plan", "acme", "max", "--when", period[1], "--dry-run")
    assert (tried.code, "moves from plan pro version 1 to plan max version 1 when its period ends" in tried.out) == (0, True)
    assert json.loads(weir("tenant", "list", "--format", "json").out)[0]["next_plan"] is None
    assert weir("tenant", "plan", "acme", "max", "--when", period[1], "--yes").code == 0
    assert json.loads(weir("tenant", "list", "--format", "json").out)[0]["next_plan"].startswith("max v1 from")


def test_a_dry_run_says_what_would_be_and_changes_nothing(weir: Weir) -> None:
    for command in (
        ("grant", "add", "acme", "--credits", "5", "--id", "g1"),
        ("rate", "set", "m", "--input", "1", "--output", "2"),
        ("cost", "set", "gpu", "m", "--input", "1", "--output", "2"),
        ("tenant", "plan", "acme", "max"),
    ):
        said = weir(*command, "--dry-run")
        assert (said.code, said.out != "", "dry run: nothing was changed" in said.err) == (0, True, True), command
    assert json.loads(weir("grant", "list", "--format", "json").out) == []
    assert json.loads(weir("rate", "list", "--format", "json").out) == []
    assert json.loads(weir("cost", "list", "--format", "json").out) == []
    weir("grant", "add", "acme", "--credits", "5", "--id", "g1")
    assert "5 credits were left of it" in weir("grant", "void", "g1", "--dry-run").out
    assert json.loads(weir("grant", "list", "--format", "json").out)[0]["voided"] is None
    assert weir("grant", "add", "acme", "--credits", "5", "--id", "g1", "--dry-run").code == 2, "what would be refused is refused"


def test_a_list_is_edited_and_imported_back(weir: Weir, tmp_path: Path) -> None:
    weir("tenant", "set", "acme", "--address", "Hauptstr. 1", "--address", "10115 Berlin", "--tax-category", "S", "--tax-percent", "19", "--country", "DE")
    weir("tenant", "create", "beta", "--plan", "max", "--name", "=Beta")
    text = weir("tenant", "list", "--format", "csv").out
    file = tmp_path / "tenants.csv"
    file.write_bytes(text.encode())
    same = weir("tenant", "import", "tenants.csv", "--update", "--format", "json")
    assert [(row["id"], row["action"]) for row in json.loads(same.out)] == [("acme", "none"), ("beta", "none")]
    assert weir("tenant", "list", "--format", "csv").out == text
    file.write_bytes(text.replace("10115 Berlin", "10117 Berlin").replace("max v1", "pro").encode())
    tried = weir("tenant", "import", "tenants.csv", "--update", "--dry-run")
    assert (tried.code, tried.out.count("update"), tried.err) == (0, 2, "dry run: nothing was changed\n")
    assert weir("tenant", "list", "--format", "csv").out == text
    assert weir("tenant", "import", "tenants.csv", "--update").code == 0
    changed = weir("tenant", "list", "--format", "csv").out
    assert "10117 Berlin" in changed and "pro v1 from" in changed


def test_an_import_reports_every_fault_in_the_form_asked_for(weir: Weir, tmp_path: Path) -> None:
    (tmp_path / "wrong.csv").write_text("id,plan,country\nacme,pro,DE\nnew,gold,Germany\n")
    said = weir("tenant", "import", "wrong.csv", "--format", "csv")
    assert (said.code, said.err) == (2, "weir: 2 rows of wrong.csv cannot be imported, and nothing was\n")
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert [(row["line"], row["id"], row["field"]) for row in rows] == [("2", "acme", "id"), ("3", "new", "plan"), ("3", "new", "country")]
    assert "--update" in rows[0]["message"] and "write its two letters" in rows[2]["message"]
    assert listed(weir) == ["acme"]
    assert "absent.csv: cannot be read" in weir("tenant", "import", "absent.csv").err
