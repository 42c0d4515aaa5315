"""`weir margin`, `weir cost gpu`, `weir fx`: what they print adds up, and what they refuse says what to do."""

import csv
import io
import json
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from billing.db import Database
from billing.grants.allowance import current_period, ensure_allowance
from billing.usage.event import UsageEvent
from billing.usage.writer import book
from gateway.clock import SystemClock
from gateway.wire.instants import from_us
from tests.books import event
from tests.command import Weir, weir_in

CREDIT = 10**9


@pytest.fixture
def weir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Weir:
    command = weir_in(tmp_path, monkeypatch, capsys)
    for plan, more in (("pro", ("--fee", "50.00")), ("max", ("--on-exhausted", "overage", "--credit-price", "0.5"))):
        assert command("plan", "set", plan, "--credits", "100", "--currency", "USD", *more).code == 0
    assert command("tenant", "create", "acme", "--plan", "pro").code == 0
    assert command("cost", "set", "b", "u", "--input", "7000000", "--output", "1000000", "--currency", "USD").code == 0
    database = Database(f"sqlite:///{tmp_path / 'weir-data' / 'weir.db'}")
    now_us = SystemClock().now_us()
    with database.write() as session:
        ensure_allowance(session, "acme", now_us)
        found = current_period(session, "acme", now_us)
        assert found is not None
        made: UsageEvent = event(1, 10 * CREDIT, started_us=now_us, period_us=found[1].start_us, day_us=now_us - now_us % 86_400_000_000)
        book(session, [made], now_us)
    database.close()
    return command


def month() -> str:
    return f"{from_us(SystemClock().now_us()):%Y-%m}"


def test_a_margin_is_shown_as_a_table_as_json_and_as_csv(weir: Weir) -> None:
    shown = weir("margin", "show", "--month", month(), "--by", "model,tenant")
    assert shown.code == 0, shown.err
    assert "total USD: revenue 5 (invoiced 50, less 45 deferred), cost 52 (idle 0), margin -47" in shown.out
    document = json.loads(weir("margin", "show", "--month", month(), "--format", "json").out)
    (line,) = document["lines"]
    assert (line["tenant"], line["fees"], line["calls"], line["margin"], line["currency"]) == ("acme", "5", "52", "-47", "USD")
    assert (document["totals"][0]["deferred"], document["gaps"]) == ("45", [])
    rows = list(csv.DictReader(io.StringIO(weir("margin", "show", "--month", month(), "--by", "day,backend", "--format", "csv").out)))
    assert sum(Decimal(row["margin"]) for row in rows) == -47
    (loser,) = json.loads(weir("margin", "losers", "--month", month(), "--format", "json").out)
    assert (loser["tenant"], loser["margin"]) == ("acme", "-47")


def test_a_gap_names_the_command_that_closes_it(weir: Weir, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'weir-data' / 'weir.db'}")
    now_us = SystemClock().now_us()
    with database.write() as session:
        book(session, [msgspec.structs.replace(event(2, CREDIT, started_us=now_us), upstream_model="new")], now_us)
    database.close()
    said = weir("margin", "show", "--month", month()).err
    assert "no cost: b new: 7 of `input`; set it: weir cost set b new --input PRICE --output PRICE --currency USD --from " in said
    (command,) = {line.split("set it: ")[1].replace("PRICE", "1") for line in said.splitlines()}
    assert weir(*command.split()[1:]).code == 0
    assert weir("margin", "show", "--month", month()).err == ""
    assert weir(*command.split()[1:]).code == 2


def test_what_cannot_be_asked_is_refused(weir: Weir) -> None:
    said = weir("margin", "show", "--from", "2026-01-01", "--until", "2026-01-05")
    assert (said.code, said.out) == (0, "nothing was used or earned\n")
    assert weir("margin", "show").code == 2
    assert "tenant, project, model, backend, day" in weir("margin", "show", "--month", month(), "--by", "colour").err


def test_gpus_are_set_listed_and_removed_and_their_idle_time_is_shown(weir: Weir) -> None:
    made = weir("cost", "gpu", "set", "b", "--gpus", "8", "--price", "2.50", "--from", f"{month()}-01", "--until", f"{month()}-01T01:00:00Z")
    assert made.out.startswith("b: 8 GPUs at 2.5 USD an hour each, from "), made.err
    (row,) = json.loads(weir("cost", "gpu", "list", "--format", "json").out)
    assert (row["gpus"], row["price"], row["weights"]) == (8, "2.5", "10:1:40")
    document = json.loads(weir("margin", "show", "--month", month(), "--by", "backend", "--format", "json").out)
    assert [line["gpus"] for line in document["lines"] if line["line"] == "idle"] == ["20"]
    assert weir("cost", "gpu", "remove", str(row["id"])).code == 2
    assert weir("cost", "gpu", "remove", str(row["id"]), "--yes").code == 0
    assert "weir cost gpu set" in weir("cost", "gpu", "list").out
    assert "input:cached:output" in weir("cost", "gpu", "set", "b", "--gpus", "8", "--price", "2.50", "--weights", "1:2").err


def test_another_currency_needs_a_stated_rate(weir: Weir) -> None:
    refused = weir("margin", "show", "--month", month(), "--currency", "EUR")
    assert refused.code == 2
    assert "weir fx set USD EUR RATE --day" in refused.err
    assert weir("fx", "set", "USD", "EUR", "0.5", "--day", f"{month()}-01").out == f"1 USD = 0.5 EUR from {month()}-01 on\n"
    shown = weir("margin", "show", "--month", month(), "--currency", "EUR")
    assert "margin -23.5" in shown.out
    assert "1 USD = 0.5 EUR" in shown.err
    assert weir("fx", "set", "USD", "USD", "1", "--day", f"{month()}-01").code == 2
    assert [one["rate"] for one in json.loads(weir("fx", "list", "--format", "json").out)] == ["0.5"]


def test_a_month_is_billed_anew_on_another_plan_and_at_other_rates(weir: Weir) -> None:
    document = json.loads(weir("whatif", "--month", month(), "--plan", "max", "--format", "json").out)
    (period,) = document["periods"]
    assert (period["total"], period["total_then"], period["difference"], period["from_credits_credits_then"]) == ("50", "0", "-50", "10")
    assert weir("plan", "set", "mini", "--credits", "13", "--on-exhausted", "overage", "--credit-price", "0.5", "--currency", "USD").code == 0
    made = weir("rate", "propose", "m", "input=5000000", "output=0")
    assert made.code == 0, made.err  # 5 credits a token, of which there are 7; the plan gives 13
    shown = weir("whatif", "--month", month(), "--plan", "mini", "--rates", "2")  # 1 are costs
    assert "total USD: 50 as it is, 11 then, difference -39" in shown.out
    assert "not over" in shown.out
    assert weir("whatif", "--month", month()).code == 2
    assert "there is no version of rates `9`" in weir("whatif", "--month", month(), "--rates", "9").err
    assert weir("whatif", "--month", month(), "--plan", "none").code == 2
    weir("plan", "set", "yen", "--currency", "JPY", "--credits", "1")
    assert "left out" in weir("whatif", "--month", month(), "--plan", "yen").err
    assert weir("whatif", "--month", month(), "--plan", "yen", "--tenant", "acme").code == 2


def test_a_forecast_says_what_it_knows(weir: Weir) -> None:
    (row,) = json.loads(weir("forecast", "--format", "json").out)
    assert (row["tenant"], row["credits"], row["credits_left"], row["expected_total"], row["method"]) == ("acme", "10", "90", None, "no day is over yet")
    assert "without tax" in weir("forecast").out
    assert weir("forecast", "--tenant", "nobody").code == 2
