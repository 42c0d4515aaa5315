"""`weir ledger`: proofs line by line, and a tenant's account in words that finance understands."""

import csv
import io
import json
from pathlib import Path

import msgspec
import pytest

from billing.db import Database
from billing.leases import store as leases
from billing.leases.store import Lease, Replica
from billing.usage.parking import park
from billing.usage.writer import book
from gateway.clock import SystemClock
from tests.books import event
from tests.command import Weir, weir_in


@pytest.fixture
def weir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Weir:
    command = weir_in(tmp_path, monkeypatch, capsys)
    assert command("plan", "set", "pro", "--credits", "0").code == 0
    assert command("tenant", "create", "acme", "--plan", "pro").code == 0
    assert command("grant", "add", "acme", "--credits", "5", "--id", "first").code == 0
    assert command("grant", "add", "acme", "--credits", "7", "--id", "gone", "--kind", "promotion").code == 0
    assert command("grant", "void", "gone", "--yes").code == 0
    database = Database(f"sqlite:///{tmp_path / 'weir-data' / 'weir.db'}")
    for number in range(3):
        at_us = SystemClock().now_us()  # after the grant's beginning
        with database.write() as session:
            book(session, [msgspec.structs.replace(event(number, 10**9), started_us=at_us, ended_us=at_us)], at_us)
    with database.write() as session:
        leases.register(session, Replica(id="weir-1", beat=1, host="box", pid=42, started_us=at_us))
        leases.put(session, [Lease(tenant_id="acme", purse="", replica_id="weir-1", amount_ncr=10**9, valid_until_us=2**62)])
        leases.register(session, Replica(id="weir-2", beat=1, host="box", pid=43, started_us=at_us))
        leases.put(session, [Lease(tenant_id="acme", purse="", replica_id="weir-2", amount_ncr=0, valid_until_us=2**62)])
    database.close()
    return command


def damage(folder: Path, statement: str) -> None:
    database = Database(f"sqlite:///{folder / 'weir-data' / 'weir.db'}")
    with database.engine.begin() as connection:
        connection.exec_driver_sql(statement)
    database.close()


def test_each_invariant_has_a_line_with_its_number_and_what_was_looked_at(weir: Weir) -> None:
    said = weir("ledger", "verify")
    assert said.code == 0, said.out
    lines = [line.split() for line in said.out.splitlines()]
    assert [line[0] for line in lines if line[1:2] == ["ok"]] == ["1", "2", "3", "4", "5", "8", "purses", "sums", "usage", "journal", "audit", "invoices"]
    assert "3 events" in said.out
    assert said.out.endswith("the books agree: every transaction sums to 0, and usage, grants and ledger say the same\n")


def test_a_difference_is_shown_under_its_number_and_ends_with_1(weir: Weir, tmp_path: Path) -> None:
    damage(tmp_path, "UPDATE grant_balance SET remaining_ncr = remaining_ncr + 1 WHERE grant_id = 'first'")
    said = weir("ledger", "verify")
    assert said.code == 1
    wrong = [line.split()[0] for line in said.out.splitlines() if "WRONG" in line]
    assert wrong == ["1", "4"], said.out
    assert "weir: 2 differences (1, 4): damage or a bug; keep the database and report it" in said.err
    assert "- grant first: of 5000000000 ncr 2000000001 are left" in said.out


def test_programs_get_the_proofs_as_json(weir: Weir, tmp_path: Path) -> None:
    proofs = {proof["number"]: proof for proof in json.loads(weir("ledger", "verify", "--format", "json").out)}
    assert (proofs["4"]["ok"], proofs["4"]["checked"], proofs["4"]["differences"]) == (True, {"grants": 2}, [])
    folder = tmp_path / "weir-data" / "journal"
    folder.mkdir()
    park(folder, event(9))
    said = weir("ledger", "verify", "--format", "json")
    assert said.code == 1
    (journal,) = [proof for proof in json.loads(said.out) if proof["number"] == "journal"]
    assert "rejected-" in journal["differences"][0]


def test_an_account_is_shown_with_what_became_of_each_grant(weir: Weir) -> None:
    said = weir("ledger", "show", "--tenant", "acme")
    assert said.code == 0
    figures = dict(line.split("  ", 1) for line in said.out.split("\n\n")[0].splitlines())
    assert figures["credits left"].strip() == "2"
    assert figures["of which set aside"].strip() == "1"
    assert figures["paid by grants"].strip() == "3"
    found = json.loads(weir("ledger", "show", "--tenant", "acme", "--format", "json").out)
    grants = {grant["grant"]: grant for grant in found["grants"]}
    assert {name: grants["first"][name] for name in ("state", "credits", "used", "expired", "taken_back", "left")} == {
        "state": "in effect", "credits": "5", "used": "3", "expired": "0", "taken_back": "0", "left": "2",
    }  # fmt: skip
    assert (grants["gone"]["state"], grants["gone"]["taken_back"], grants["gone"]["left"]) == ("void", "7", "0")
    assert "weir-2" not in said.out, "a process with nothing set aside"
    assert found["leases"] == [{"process": "weir-1", "host": "box", "pid": 42, "for": "all requests", "credits": "1", "until": None}]


def test_transactions_are_paged_the_newest_first(weir: Weir) -> None:
    first = json.loads(weir("ledger", "show", "--tenant", "acme", "--limit", "2", "--format", "json").out)
    assert (len({row["transaction"] for row in first["entries"]}), first["more"]) == (2, True)
    assert [(row["what"], row["account"], row["credits"], row["out_of"]) for row in first["entries"][:2]] == [
        ("usage", "grant first", None, "1"), ("usage", "used by requests", "1", None),
    ]  # fmt: skip
    last = min(row["transaction"] for row in first["entries"])
    said = weir("ledger", "show", "--tenant", "acme", "--limit", "2", "--before", str(last))
    assert f"older ones: --before {last}" in weir("ledger", "show", "--tenant", "acme", "--limit", "2").err
    assert said.code == 0
    rest = json.loads(weir("ledger", "show", "--tenant", "acme", "--before", str(last), "--format", "json").out)
    assert [row["what"] for row in rest["entries"]][-2:] == ["credits given", "credits given"]
    assert not rest["more"]
    assert all(row["transaction"] < last for row in rest["entries"])


def test_a_span_bounds_the_transactions_and_not_the_balance(weir: Weir) -> None:
    found = json.loads(weir("ledger", "show", "--tenant", "acme", "--to", "2020-01-01", "--format", "json").out)
    assert (found["entries"], found["credits_left"]) == ([], "2")
    assert "none in this span" in weir("ledger", "show", "--tenant", "acme", "--to", "2020-01-01").out
    rows = list(csv.DictReader(io.StringIO(weir("ledger", "show", "--tenant", "acme", "--from", "2020-01-01", "--format", "csv").out, newline="")))
    assert sum(float(row["credits"] or 0) - float(row["out_of"] or 0) for row in rows) == 0


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--tenant", "nobody"), "there is no tenant `nobody`"),
        (("--tenant", "acme", "--from", "soon"), "--from: `soon` is no instant"),
        (("--tenant", "acme", "--limit", "0"), "limit: 0 is out of range"),
    ],
)
def test_what_is_wrong_is_said(weir: Weir, arguments: tuple[str, ...], part: str) -> None:
    said = weir("ledger", "show", *arguments)
    assert (said.code, part in said.err) == (2, True), said.err
