"""The commands of admins and finance, over a real database: what they do, print, and refuse."""

import csv
import io
import json
import re
import sys
from pathlib import Path

import pytest

from billing.db import Database
from billing.operations.directory import find_principal
from billing.operations.subscriptions import Change, in_words
from billing.tenants.keys import KeyHasher
from billing.usage.writer import book
from gateway.clock import SystemClock
from gateway.config import load_settings, pepper
from tests.books import event
from tests.command import Weir, weir_in
from tests.taken import usage_bytes

NOW_US = SystemClock().now_us()


@pytest.fixture
def weir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Weir:
    command = weir_in(tmp_path, monkeypatch, capsys)
    assert command("plan", "set", "pro", "--credits", "1000", "--fee", "49.00", "--currency", "USD", "--rpm", "60", "--models", "a,b").code == 0
    assert command("tenant", "create", "acme", "--plan", "pro", "--name", "ACME").code == 0
    return command


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path / 'weir-data' / 'weir.db'}")


def test_a_tenant_is_created_listed_and_shown(weir: Weir) -> None:
    (tenant,) = json.loads(weir("tenant", "list", "--format", "json").out)
    assert (tenant["id"], tenant["name"], tenant["state"], tenant["plan"]) == ("acme", "ACME", "active", "pro v1")
    shown = weir("tenant", "show", "acme")
    assert "credits left     1000" in shown.out


def test_a_tenant_is_suspended_only_when_told_so(weir: Weir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    asked = weir("tenant", "suspend", "acme")
    assert (asked.code, "Say --yes" in asked.err) == (2, True)
    assert "active" in weir("tenant", "list").out
    assert weir("tenant", "suspend", "acme", "--yes").code == 0
    assert "suspended" in weir("tenant", "list").out
    assert weir("tenant", "resume", "acme").code == 0


def test_a_tenant_moves_to_another_plan_and_is_told_what_that_means(weir: Weir, monkeypatch: pytest.MonkeyPatch) -> None:
    weir("plan", "set", "max", "--credits", "5000")
    weir("plan", "set", "mini", "--credits", "10")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    asked = weir("tenant", "plan", "acme", "max")
    assert asked.code == 2
    assert asked.err.startswith("weir: Tenant acme moves from plan pro version 1 to plan max version 1 now: about 39")
    assert "pro v1" in weir("tenant", "show", "acme").out, "nothing is done before it is said"
    assert " credits more until its period ends, " in weir("tenant", "plan", "acme", "max", "--yes").out
    later = weir("tenant", "plan", "acme", "mini", "--yes").out
    assert later.startswith("tenant acme moves from plan max version 1 to plan mini version 1 when its period ends, ")
    shown = weir("tenant", "show", "acme").out
    assert "mini v1 from " in shown and " until " in shown
    assert weir("tenant", "stay", "acme").out == "tenant acme stays on plan max version 1\n"
    assert weir("tenant", "stay", "acme").code == 2
    assert "now: no more credits until" in weir("tenant", "plan", "acme", "mini", "--when", "now", "--yes").out


def test_a_change_of_plan_says_the_fee_to_come_and_rounds_for_reading_alone(weir: Weir) -> None:
    weir("plan", "set", "max", "--credits", "5000", "--fee", "99.00", "--currency", "USD")
    (exact,) = json.loads(weir("tenant", "plan", "acme", "max", "--yes", "--format", "json").out)
    assert (exact["from"], exact["to"]) == ("pro v1", "max v1")
    assert exact["said"].endswith("; the monthly fee changes from 49.00 USD to 99.00 USD with its next period")
    more = re.search(r"now: (?:about )?(39\d\d(?:\.\d\d?)?) credits more until", exact["said"])
    assert more is not None and exact["credits_more"].startswith(more[1])
    later = weir("tenant", "plan", "acme", "pro", "--yes").out
    assert "fee" not in later, "a change at the period's end changes everything then"


@pytest.mark.parametrize(
    ("ncr", "said"), [(10**9, "1"), (123_456_789_012, "about 123.45"), (1_230_000_000, "1.23"), (10_000_001, "about 0.01"), (7, "0.000000007")]
)
def test_credits_of_a_change_are_rounded_down_for_reading_and_never_to_nothing(ncr: int, said: str) -> None:
    change = Change(tenant_id="acme", timezone="UTC", before=None, plan="max", version=1, at_us=0, period_end_us=1, credits_ncr=ncr)
    assert f"now: {said} credits more until" in in_words(change)


def test_a_plan_has_all_its_terms_from_the_command_line(weir: Weir) -> None:
    flags = "--credits 100 --seat-credits 5 --rollover-cap 20 --activate-on-first-use --on-exhausted fallback --fallback-model a --models a,b --weight 8"
    said = weir("plan", "set", "full", *flags.split(), *"--slow-weight 2 --glide-percent 25 --on-database-loss closed".split())
    assert said.code == 0
    shown = dict(line.split("  ", 1) for line in weir("plan", "show", "full").out.splitlines() if "  " in line)
    assert {name: shown[name].strip() for name in ("seat credits", "rollover cap", "fallback model", "slow weight", "glide percent")} == {
        "seat credits": "5", "rollover cap": "20", "fallback model": "a", "slow weight": "2", "glide percent": "25",
    }  # fmt: skip
    weir("tenant", "create", "new", "--plan", "full")
    assert "begins with its first request" in weir("tenant", "show", "new").out


def test_a_key_is_shown_once_and_works_with_the_gateways_pepper(weir: Weir, database: Database) -> None:
    issued = weir("key", "issue", "acme", "--name", "ci", "--rpm", "5", "--tpm", "100", "--project", "p", "--expires", "2099-01-01")
    secret = issued.out.strip()
    assert secret.startswith("sk-weir-")
    assert "cannot be shown again" in issued.err
    with database.read() as session:
        principal = find_principal(session, KeyHasher(pepper(load_settings(None))).digest(secret), NOW_US)
    assert principal is not None
    assert (principal.tenant_id, principal.requests_per_minute, principal.project) == ("acme", 5, "p")
    (key,) = json.loads(weir("key", "list", "acme", "--format", "json").out)
    assert (key["name"], key["secret"], key["expires"]) == ("ci", f"...{secret[-4:]}", "2099-01-01 00:00:00Z")
    assert weir("key", "revoke", key["id"], "--yes").code == 0
    assert json.loads(weir("key", "list", "--format", "json").out) == []
    assert len(json.loads(weir("key", "list", "--all", "--format", "json").out)) == 1
    database.close()


def test_an_admin_key_names_no_tenant(weir: Weir) -> None:
    assert weir("key", "issue", "--admin", "--quiet").out.startswith("sk-weir-admin-")
    for wrong in (("key", "issue"), ("key", "issue", "acme", "--admin")):
        assert weir(*wrong).code == 2


def test_a_key_for_people_has_a_role(weir: Weir) -> None:
    assert weir("key", "issue", "--admin", "--role", "finance", "--quiet").out.startswith("sk-weir-admin-")
    assert weir("key", "issue", "acme", "--role", "manager", "--quiet").out.startswith("sk-weir-staff-")
    listed = json.loads(weir("key", "list", "--format", "json").out)
    assert {(key["kind"], key["role"]) for key in listed} >= {("admin", "finance"), ("staff", "manager")}
    for wrong in (("--admin", "--role", "manager"), ("acme", "--role", "owner"), ("acme", "--role", "member", "--rpm", "5"), ("acme", "--role", "")):
        refused = weir("key", "issue", *wrong)
        assert refused.code == 2, wrong
    assert "one of owner, admin, finance, viewer" in weir("key", "issue", "--admin", "--role", "root").err


def test_a_plan_set_again_is_a_new_version(weir: Weir) -> None:
    assert weir("plan", "set", "pro", "--credits", "2000").out.startswith("plan pro version 2: 2000 credits a month, then slow\n")
    plans = json.loads(weir("plan", "list", "--all", "--format", "json").out)
    assert [(plan["version"], plan["credits"], plan["tenants"]) for plan in plans] == [(1, "1000", 1), (2, "2000", 0)]
    assert plans[0]["allowed_models"] == ["a", "b"]
    assert "monthly fee" in weir("plan", "show", "pro").out


def test_grants_are_given_listed_and_voided(weir: Weir) -> None:
    assert weir("grant", "add", "acme", "--credits", "500", "--id", "g1", "--expires", "2099-01-01").code == 0
    assert weir("grant", "add", "acme", "--credits", "500", "--id", "g1").code == 2
    assert "credits left           1500" in weir("usage", "show", "acme").out
    assert weir("grant", "void", "g1", "--yes").code == 0
    (grant,) = [row for row in json.loads(weir("grant", "list", "acme", "--format", "json").out) if row["id"] == "g1"]
    assert (grant["credits"], grant["voided"] is not None) == ("500", True)
    assert json.loads(weir("usage", "show", "acme", "--format", "json").out)[0]["credits_left"] == "1000"


def test_usage_that_contradicts_what_is_booked_is_listed(weir: Weir, database: Database) -> None:
    assert json.loads(weir("usage", "conflicts", "--format", "json").out) == []
    for charge_ncr in (30, 31):
        with database.write() as session:
            book(session, [event(1, charge_ncr, started_us=NOW_US)], NOW_US)
    assert "charge_ncr: booked 30, then 31; cover_ncr: booked 30, then 31" in weir("usage", "conflicts").out
    (found,) = json.loads(weir("usage", "conflicts", "--tenant", "acme", "--format", "json").out)
    assert (found["event"], found["tenant"]) == (event(1).id, "acme")
    assert weir("usage", "conflicts", "--tenant", "nobody").code == 2
    database.close()


def test_rates_are_set_listed_and_proposed(weir: Weir) -> None:
    assert weir("rate", "set", "m", "--input", "0.5", "--output", "1.5", "--cache-read", "0.05").code == 0
    assert weir("rate", "set", "local", "--free").code == 0
    assert weir("rate", "set", "m", "--input", "1", "--output", "2", "--from", "2099-01-01").code == 0
    rates = json.loads(weir("rate", "list", "--format", "json").out)
    assert [(rate["model"], rate["state"], rate["input"], rate["free"]) for rate in rates] == [
        ("local", "current", None, True),
        ("m", "current", "0.5", False),
        ("m", "future", "1", False),
    ]
    imported = weir("rate", "import", "gpt-4o", "no-such-model", "--credits-per-usd", "100", "--yes")
    assert (imported.code, "not in the public price list" in imported.out) == (0, True)
    assert json.loads(weir("rate", "list", "gpt-4o", "--format", "json").out)[0]["input"] == "250"


def test_an_import_without_yes_writes_nothing(weir: Weir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert weir("rate", "import", "gpt-4o", "--credits-per-usd", "100").code == 2
    assert json.loads(weir("rate", "list", "--format", "json").out) == []
    assert weir("rate", "import", "no-such-model", "--credits-per-usd", "100", "--yes").code == 2


def test_exports_are_the_bytes_of_the_books(weir: Weir, database: Database, tmp_path: Path) -> None:
    with database.write() as session:
        book(session, [event(1, 10), event(2, 32)], NOW_US)
    for form in ("csv", "json"):
        assert weir("usage", "export", "--month", "2026-11", "--format", form).out.encode() == usage_bytes(database, "2026-11", form=form)
    wrote = weir("usage", "export", "--month", "2026-11", "--tenant", "acme", "-o", str(tmp_path / "u.csv"))
    assert (wrote.code, wrote.out) == (0, "")
    assert (tmp_path / "u.csv").read_bytes() == usage_bytes(database, "2026-11", tenant_id="acme")
    database.close()


def test_the_ledger_is_verified_and_a_difference_ends_with_1(weir: Weir, database: Database) -> None:
    weir("grant", "add", "acme", "--credits", "5")
    with database.write() as session:
        book(session, [event(1, 10)], NOW_US)
    assert weir("ledger", "verify").code == 0
    with database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE grant_balance SET remaining_ncr = remaining_ncr + 1")
    wrong = weir("ledger", "verify")
    assert (wrong.code, "difference" in wrong.err, "grant" in wrong.out) == (1, True, True)
    database.close()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("tenant", "create", "acme", "--plan", "pro"), "acme` exists already"),
        (("tenant", "create", "Ac", "--plan", "pro"), "id: `Ac` is not usable"),
        (("tenant", "create", "new", "--plan", "gold"), "there is no plan `gold`"),
        (("tenant", "show", "nobody"), "there is no tenant `nobody`"),
        (("key", "issue", "nobody"), "there is no tenant `nobody`"),
        (("key", "issue", "acme", "--expires", "soon"), "expires: `soon` is no instant"),
        (("key", "issue", "acme", "--expires", "2020-01-01"), "this instant has passed"),
        (("key", "revoke", "key_none", "--yes"), "there is no key `key_none`"),
        (("plan", "set", "x", "--credits", "lots"), "--credits: `lots` is not a number"),
        (("plan", "set", "x", "--credits", "1", "--on-exhausted", "cut"), "--on-exhausted: "),
        (("plan", "set", "x", "--credits", "1", "--on-exhausted", "overage"), "--credit-price is missing"),
        (("plan", "set", "x", "--credits", "1", "--on-exhausted", "fallback"), "--fallback-model is missing"),
        (("plan", "set", "x", "--credits", "1", "--slow-weight", "2"), "--slow-weight 2 is more than weight 1"),
        (("tenant", "plan", "acme", "pro", "--yes"), "already, which is its newest"),
        (("tenant", "plan", "nobody", "pro", "--yes"), "there is no tenant `nobody`"),
        (("tenant", "plan", "acme", "pro", "--when", "soon", "--yes"), "weir: --when: `soon` is none of these; write now, period-end, or the day"),
        (("plan", "set", "x", "--credits", "1", "--fee", "1.001", "--currency", "USD"), "--fee: "),
        (("grant", "add", "acme", "--credits", "0"), "--credits: 0 must be more than 0"),
        (("grant", "add", "acme", "--credits", "1", "--kind", "plan"), "weir: --kind: `plan`"),
        (("grant", "add", "acme", "--credits", "1", "--expires", "2020-01-01"), "weir: --expires: this instant has passed"),
        (("grant", "add", "acme", "--credits", "1", "--from", "2020-01-01"), "weir: --from: this instant has passed"),
        (("grant", "add", "acme", "--credits", "1", "--key=none"), "weir: --key: tenant `acme` has no key `none`; those there are: weir key list acme"),
        (("key", "issue", "acme", "--expires", "2020-01-01"), "weir: --expires: this instant has passed"),
        (("tenant", "create", "x", "--plan", "pro", "--timezone", "Mars"), "weir: --timezone: `Mars` is not an IANA time zone"),
        (("grant", "void", "none", "--yes"), "there is no grant `none`"),
        (("rate", "set", "m"), "a rate names --input and --output"),
        (("rate", "set", "m", "--input", "1", "--output", "0.00001"), "--output: `0.00001` credits per 1,000,000 is finer"),
        (("rate", "set", "m", "--free", "--input", "1", "--output", "1"), "a free model has no prices"),
        (("rate", "import", "m"), "--credits-per-usd is missing"),
        (("usage", "export", "--month", "2026-13"), "month"),
        (("usage", "export", "--month", "2026-11", "--format", "docx"), "format: `docx`"),
        (("usage", "show", "nobody"), "there is no tenant `nobody`"),
        (("invoice", "export", "--month", "november"), "month"),
        (("tenant", "list", "--config", "absent.yaml"), "absent.yaml: cannot be read"),
    ],
)
def test_a_mistake_ends_with_2_and_one_clear_line(weir: Weir, arguments: tuple[str, ...], part: str) -> None:
    said = weir(*arguments)
    assert (said.code, said.out) == (2, "")
    assert part in said.err
    assert said.err.startswith("weir: ")
    assert said.err.count("\n") == 1


def test_a_file_that_cannot_be_written_is_said(weir: Weir, tmp_path: Path) -> None:
    said = weir("usage", "export", "--month", "2026-11", "-o", str(tmp_path / "none" / "u.csv"))
    assert (said.code, "cannot be written" in said.err) == (2, True)


def test_a_database_that_is_away_ends_with_1(weir: Weir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIR_DATABASE__URL", "postgresql://nobody:secret@127.0.0.1:1/none?connect_timeout=1")
    said = weir("tenant", "list")
    assert (said.code, said.err.startswith("weir: the database cannot be used now")) == (1, True)
    assert "secret" not in said.err


def test_lists_as_csv_are_safe_in_a_spreadsheet(weir: Weir) -> None:
    weir("tenant", "create", "evil", "--plan", "pro", "--name", '=HYPERLINK("x")')
    rows = list(csv.DictReader(io.StringIO(weir("tenant", "list", "--format", "csv").out, newline="")))
    assert rows[1]["name"] == '\'=HYPERLINK("x")'


def test_a_name_cannot_move_the_terminals_cursor(weir: Weir) -> None:
    weir("tenant", "create", "evil", "--plan", "pro", "--name", "a\x1b[2Jb")
    assert "\x1b" not in weir("tenant", "list").out
    assert "\x1b" not in weir("tenant", "show", "evil").out
