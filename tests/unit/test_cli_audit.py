"""`weir audit` over a real database: what it shows, filters, proves and refuses."""

import csv
import io
import json
import sqlite3
from getpass import getuser
from pathlib import Path
from typing import Any

import pytest

from billing.db import Database
from billing.tenants.keys import KeyHasher
from gateway.cli.first_start import first_keys, plant
from gateway.config.settings import SeedSettings
from tests.command import Weir, weir_in

NOW = 1_790_000_000_000_000
BOOKS = Path("weir-data/weir.db")  # where the command works


@pytest.fixture
def weir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Weir:
    command = weir_in(tmp_path, monkeypatch, capsys)
    for line in ("plan set pro --credits 1000", "tenant create acme --plan pro", "plan set pro --credits 2000", "tenant suspend acme --yes"):
        assert command(*line.split()).code == 0
    return command


def rows(weir: Weir, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(weir("audit", "list", *arguments, "--format", "json").out)
    return found


def tamper(*statements: str) -> None:
    """Change the log as somebody does who owns the database."""
    with sqlite3.connect(BOOKS) as connection:
        for verb in ("update", "delete", "replace"):
            connection.execute(f"DROP TRIGGER audit_entry_no_{verb}")
        for statement in statements:
            connection.execute(statement)
    connection.close()


def test_the_list_says_who_changed_what_from_what_to_what(weir: Weir) -> None:
    said = weir("audit", "list")
    first, second, third, *_ = [line.split("  ") for line in said.out.splitlines()[1:]]
    assert (said.code, said.err) == (0, "")
    assert [word.strip() for word in first if word.strip()][2:] == [f"cli:{getuser()}", "tenant.suspend", "acme", "acme", "state: active -> suspended"]
    assert "terms.allowance: 1000 credits -> 2000 credits; version: 1 -> 2" in "  ".join(second)
    assert "plan: pro; plan version: 1; tenant.currency: USD; tenant.name: acme; and 2 more" in "  ".join(third)


def test_json_and_csv_have_the_states_and_the_hashes(weir: Weir) -> None:
    newest, *_, oldest = rows(weir)
    assert (newest["seq"], newest["before"]["state"], newest["after"]["state"], newest["tenant"]) == (4, "active", "suspended", "acme")
    assert (oldest["seq"], oldest["before"], oldest["after"]["terms"]["allowance_ncr"], oldest["prev_hash"]) == (1, None, 1000 * 10**9, "0" * 64)
    table = list(csv.DictReader(io.StringIO(weir("audit", "list", "--format", "csv").out)))
    assert [(row["seq"], row["hash"]) for row in table] == [(str(row["seq"]), row["hash"]) for row in rows(weir)]
    assert json.loads(table[0]["after"]) == newest["after"]


def test_filters_and_pages(weir: Weir) -> None:
    assert [row["seq"] for row in rows(weir, "--tenant", "acme")] == [4, 2]
    assert [row["seq"] for row in rows(weir, "--action", "plan")] == [3, 1]
    assert [row["seq"] for row in rows(weir, "--action", "plan.set", "--before", "3")] == [1]
    assert [row["seq"] for row in rows(weir, "--actor", f"cli:{getuser()}", "--limit", "1")] == [4]
    assert "older ones: --before 3" in weir("audit", "list", "--limit", "2").err
    assert rows(weir, "--since", "2126-01-01") == []
    assert len(rows(weir, "--since", "2026-01-01")) == 4
    assert weir("audit", "list", "--tenant", "nobody").out == "no such changes\n"
    assert weir("audit", "list", "--since", "soon").code == 2


def test_one_entry_is_shown_in_full(weir: Weir) -> None:
    said = weir("audit", "show", "3").out
    assert "terms.allowance: 1000 credits -> 2000 credits\n" in said
    assert f"hash       {rows(weir)[1]['hash']}\n" in said
    assert json.loads(weir("audit", "show", "4", "--format", "json").out) == rows(weir, "--limit", "1")
    refused = weir("audit", "show", "5")
    assert (refused.code, "5" in refused.err) == (2, True)


def test_a_log_that_nobody_touched_verifies_and_gives_its_head(weir: Weir) -> None:
    said = weir("audit", "verify")
    assert (said.code, said.out.splitlines()[0]) == (0, "the chain holds: 4 entries, none changed, moved or missing")
    head = said.out.split()[-1]
    assert head == f"4:{rows(weir)[0]['hash']}"
    assert weir("tenant", "resume", "acme").code == 0
    assert weir("audit", "verify", "--head", head).code == 0
    assert weir("audit", "verify", "--head", "4").code == 2


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE audit_entry SET actor = 'cli:nobody' WHERE seq = 2", "WRONG  entry 2 was changed: its hash is not that of what it says"),
        ("DELETE FROM audit_entry WHERE seq IN (2, 3)", "WRONG  entries 2 to 3 are missing"),
        ("DELETE FROM audit_entry WHERE seq > 2", "WRONG  entries 3 to 4 are cut off at the end: the noted head is entry 4"),
    ],
)
def test_a_log_that_somebody_touched_ends_with_1_and_says_where(weir: Weir, statement: str, told: str) -> None:
    head = weir("audit", "verify").out.split()[-1]
    tamper(statement)
    said = weir("audit", "verify", "--head", head)
    assert (said.code, said.out) == (1, told + "\n")
    assert "keep the database" in said.err


def test_what_a_start_sets_up_is_the_gateways_own_doing(weir: Weir) -> None:
    assert weir("tenant", "resume", "acme").code == 0
    database = Database(f"sqlite:///{BOOKS}")
    seed = SeedSettings.model_validate({"plans": {"seeded": {"credits": "5"}}, "tenants": {"first": {"plan": "seeded"}}, "rates": {"m": {"free": True}}})
    plant(database, seed, NOW)
    assert set(first_keys(database, KeyHasher(b"pepper for the tests"), "first", NOW)) == {"admin", "tenant"}
    plant(database, seed, NOW)  # all of it is there
    database.close()
    assert [row["action"] for row in reversed(rows(weir, "--actor", "weir"))] == ["plan.set", "tenant.create", "rates.set", "key.issue", "key.issue"]


def test_the_proof_of_the_books_looks_at_the_log_too(weir: Weir) -> None:
    assert "audit  ok     the audit log is as it was written (4 entries)" in weir("ledger", "verify").out
    tamper("DELETE FROM audit_entry WHERE seq = 2")
    said = weir("ledger", "verify")
    assert (said.code, "audit  WRONG" in said.out, "- entry 2 is missing" in said.out) == (1, True, True)
