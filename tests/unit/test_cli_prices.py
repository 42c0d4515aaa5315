"""`weir rate` and `weir cost`: propose, look, publish, withdraw; money that is kept exactly."""

import json
from pathlib import Path

import pytest

from billing.db import Database
from billing.operations import costs
from billing.rates.cost import CostBook
from gateway.clock import SystemClock
from tests.command import Weir, weir_in

RATES = """
m:
  input: 1.50
  output: 2
  variants:
    - {input_over: 200000, input: 3, output: 4}
    - {service_tier: flex, input: 0.5, output: 1}
    - {lane: slow, input: 0.1, output: 0.2}
old: null
"""
COSTS = "ds:\n  deepseek-chat: {currency: USD, input: 0.27, output: 1.10, cache_read: 0.07}\n  gone: null\n"
CONFIG = """
backends: {ds: {vendor: deepseek, api_key: k}, own: {urls: "http://127.0.0.1:9/v1"}}
models: {chat: {routes: [{backend: ds, model: deepseek-chat}, {backend: own, model: llama}]}}
"""


@pytest.fixture
def weir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Weir:
    command = weir_in(tmp_path, monkeypatch, capsys)
    assert command("migrate").code == 0
    return command


def test_rates_are_proposed_from_a_file_looked_at_and_published(weir: Weir) -> None:
    weir("rate", "set", "m", "--input", "1", "--output", "2")
    weir("rate", "set", "old", "--free")
    Path("rates.yaml").write_text(RATES)
    assert weir("rate", "propose", "rates.yaml", "--note", "autumn").out.startswith("proposed version 3 (2 models)")
    lines = json.loads(weir("rate", "diff", "3", "--format", "json").out)
    said = {(line["model"], line["when"], line["bucket"]): (line["old"], line["new"], line["percent"]) for line in lines}
    assert said["m", "", "input"] == ("1", "1.5", "+50.0")
    assert said["m", "flex", "output"] == ("2", "1", "-50.0")
    assert said["m", "slow lane", "input"] == ("1", "0.1", "-90.0")
    assert ("m", "", "output") not in said
    assert "loses its rate, so its requests are refused: old" in weir("rate", "diff", "3").out
    assert weir("rate", "publish", "3").code == 2  # somebody loses a rate: it asks
    assert weir("rate", "publish", "3", "--yes").out.startswith("published version 3; it applies from ")
    rows = json.loads(weir("rate", "list", "--format", "json").out)
    assert [(row["model"], row["when"], row["input"]) for row in rows] == [
        ("m", "", "1.5"),
        ("m", "input over 200000", "3"),
        ("m", "flex", "0.5"),
        ("m", "slow lane", "0.1"),
    ]
    states = json.loads(weir("rate", "versions", "--format", "json").out)
    assert [(row["version"], row["state"], row["note"]) for row in states] == [(1, "published", ""), (2, "published", ""), (3, "published", "autumn")]


def test_one_models_rate_is_proposed_for_later_and_withdrawn(weir: Weir) -> None:
    assert weir("rate", "propose", "m", "input=0.5", "output=1.5", "--from", "2099-01-01").code == 0
    assert weir("rate", "propose", "m", "--end").code == 0
    assert weir("rate", "withdraw", "2").out == "withdrew version 2\n"
    assert "2099-01-01" in weir("rate", "publish", "1").out
    assert [row["state"] for row in json.loads(weir("rate", "versions", "--format", "json").out)] == ["published", "withdrawn"]
    assert json.loads(weir("rate", "list", "--format", "json").out)[0]["state"] == "future"


def test_a_cost_is_set_in_money_and_kept_to_its_last_digit(weir: Weir, tmp_path: Path) -> None:
    made = weir("cost", "set", "ds", "deepseek-chat", "--input", "0.27", "--output", "1.10", "--currency", "USD")
    assert made.out.startswith("ds deepseek-chat: input 0.27, output 1.1 USD, from ")
    database = Database(f"sqlite:///{tmp_path / 'weir-data' / 'weir.db'}")
    found = CostBook(costs.list_costs(database)).at("ds", "deepseek-chat", SystemClock().now_us())
    database.close()
    assert found is not None
    assert (found.prices["input"], found.prices["output"], found.prices["cache_read"]) == (270_000, 1_100_000, 270_000)
    (row,) = json.loads(weir("cost", "list", "--format", "json").out)
    assert (row["backend"], row["model"], row["currency"], row["input"], row["output"], row["state"]) == (
        "ds",
        "deepseek-chat",
        "USD",
        "0.27",
        "1.1",
        "current",
    )


def test_costs_are_proposed_from_a_file_and_published(weir: Weir) -> None:
    Path("costs.yaml").write_text(COSTS)
    assert weir("cost", "propose", "costs.yaml").code == 0
    shown = weir("cost", "diff", "1").out
    assert "deepseek-chat" in shown
    assert weir("cost", "publish", "1").code == 0
    assert [row["cache_read"] for row in json.loads(weir("cost", "list", "ds", "--format", "json").out)] == ["0.07"]
    assert weir("rate", "publish", "1").code == 2  # the books have versions of their own


def test_public_prices_become_a_proposal_for_the_routes_that_are_sold(weir: Weir) -> None:
    Path("weir.yaml").write_text(CONFIG)
    imported = weir("cost", "import")
    assert imported.code == 0
    assert "not in the public price list" in imported.out  # our own server
    assert "proposed version 1" in imported.err
    assert json.loads(weir("cost", "list", "--format", "json").out) == []
    assert "no cost: own llama" in weir("cost", "list").err
    assert weir("cost", "publish", "1").code == 0
    assert [(row["model"], row["input"]) for row in json.loads(weir("cost", "list", "--format", "json").out)] == [("deepseek-chat", "0.27")]
    assert weir("cost", "import", "own").code == 2


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (("rate", "propose", "m", "input"), "`input` is no price"),
        (("rate", "propose", "m", "input=1", "input=2"), "the kind is there twice"),
        (("rate", "propose", "m", "inptu=1", "output=1"), "--inptu: is not known here"),
        (("rate", "propose", "m", "input=1"), "a rate names"),
        (("rate", "propose", "m", "--end", "input=1"), "leave out its prices"),
        (("rate", "propose", "m", "input=1", "output=1", "--from", "2001-01-01"), "this instant has passed"),
        (("rate", "propose", "nowhere.yaml"), "cannot be read"),
        (("rate", "propose", "bad.yaml"), "bad.yaml:2: `m.input` `-1` is out of range; a price is between 0 and"),
        (("rate", "propose", "bad.yaml"), "bad.yaml:5: `m.variants.0.input_over` must be 1 or more"),
        (("rate", "propose", "order.yaml"), "thresholds must increase"),
        (("rate", "diff", "9"), "there is no version of rates `9`"),
        (("rate", "publish", "9"), "there is no version of rates `9`"),
        (
            ("cost", "set", "b", "m", "--input", "0.0000001", "--output", "1"),
            "--input: `0.0000001` is no price per 1,000,000; at least 0, no finer than 0.000001",
        ),
        (("cost", "set", "b", "m", "--input", "1", "--output", "1", "--currency", "XXX"), "--currency: `XXX` is not supported"),
        (("cost", "set", "b", "m", "--free", "--input", "1", "--output", "1"), "not both"),
        (("cost", "propose", "costs.txt"), "name a file"),
        (("cost", "import"), "none of these routes"),
    ],
)
def test_what_cannot_be_is_refused_with_the_place(weir: Weir, typed: tuple[str, ...], says: str) -> None:
    Path("bad.yaml").write_text("m:\n  input: -1\n  output: 1\n  variants:\n    - {input_over: 0, input: 1, output: 1}\n")
    Path("order.yaml").write_text("m: {input: 1, output: 1, variants: [{input_over: 9, input: 1, output: 1}, {input_over: 5, input: 1, output: 1}]}\n")
    refused = weir(*typed)
    assert (refused.code, says in refused.err) == (2, True), refused.err


def test_an_unknown_member_of_a_rate_file_is_told_with_those_there_are(weir: Weir) -> None:
    Path("rates.yaml").write_text("m:\n  input: 1\n  output: 2\n  variants:\n    - when: slow\n      input: 1\n      output: 2\n")
    said = weir("rate", "propose", "rates.yaml")
    assert said.code == 2
    assert said.err.splitlines()[0].startswith("weir: rates.yaml:5: `m.variants.0.when` is not known here; known here: audio_in, ")
    assert all(name in said.err for name in ("input_over", "service_tier", "lane"))
    Path("rates.yaml").write_text("m: {inptu: 1, output: 2}\n")
    assert "`m.inptu` is not known here; did you mean `input`?" in weir("rate", "propose", "rates.yaml").err
