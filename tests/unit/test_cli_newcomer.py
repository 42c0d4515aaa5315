"""What somebody who is new here meets at the command line: wrong directories, slips of the hand, and narrow terminals."""

import io
import json
import re
import sys
from pathlib import Path

import pytest

from billing.db import Database
from billing.usage.writer import book
from gateway.clock import SystemClock
from tests.books import event, request_id
from tests.command import Weir, weir_in


@pytest.fixture
def weir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Weir:
    return weir_in(tmp_path, monkeypatch, capsys)


@pytest.fixture
def acme(weir: Weir, tmp_path: Path) -> Weir:
    """A tenant `acme` with two booked requests of 42 nano-credits in November 2026, 8 of them past its credits."""
    assert weir("plan", "set", "pro", "--credits", "1000").code == 0
    assert weir("tenant", "create", "acme", "--plan", "pro").code == 0
    database = Database(f"sqlite:///{tmp_path / 'weir-data' / 'weir.db'}")
    with database.write() as session:
        book(session, [event(1, 10), event(2, 32, cover_ncr=24, lane="slow")], SystemClock().now_us())
    database.close()
    return weir


@pytest.mark.parametrize(
    "arguments",
    [
        ("tenant", "list"),
        ("tenant", "create", "acme", "--plan", "pro"),
        ("key", "issue", "--admin"),
        ("key", "revoke", "key_1", "--yes"),
        ("plan", "set", "pro", "--credits", "1"),
        ("grant", "list"),
        ("rate", "set", "m", "--free"),
        ("usage", "export", "--month", "2026-11"),
        ("usage", "event", "none"),
        ("invoice", "export", "--month", "2026-11"),
        ("ledger", "verify"),
        ("ledger", "show", "--tenant", "acme"),
    ],
)
def test_in_the_wrong_directory_nothing_is_made(weir: Weir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    said = weir(*arguments)
    expected = f"weir: no database at {elsewhere}/weir-data/weir.db; run this where you run `weir serve`, or give --config\n"
    assert (said.code, said.out, said.err) == (2, "", expected)
    assert list(elsewhere.iterdir()) == []


def test_migrate_makes_the_database(weir: Weir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert weir("migrate").code == 0
    assert weir("tenant", "list").code == 0


def test_init_says_that_the_next_serve_uses_what_it_wrote(weir: Weir) -> None:
    said = weir("init").out
    assert "the next `weir serve` here uses it, in place of the small model" in said
    assert "weir serve --config other.yaml" in weir("init", "other.yaml").out


def test_a_key_that_is_not_there_is_said_before_the_question(acme: Weir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    said = acme("key", "revoke", "key_none")
    assert (said.code, said.err) == (2, "weir: there is no key `key_none`\n")
    acme("key", "issue", "acme", "--name", "ci")
    (key,) = json.loads(acme("key", "list", "acme", "--format", "json").out)
    asked = acme("key", "revoke", key["id"])
    assert (asked.code, "`ci`" in asked.err, "of acme" in asked.err, "Say --yes" in asked.err) == (2, True, True, True)
    assert acme("key", "revoke", key["id"], "--yes").code == 0
    assert "is revoked already" in acme("key", "revoke", key["id"]).err


@pytest.mark.parametrize(
    "arguments", [("tenant", "suspend", "none"), ("tenant", "plan", "none", "pro"), ("tenant", "plan", "acme", "none"), ("grant", "void", "none")]
)
def test_nothing_is_asked_about_what_is_not_there(acme: Weir, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    said = acme(*arguments)
    assert (said.code, said.err) == (2, f"weir: there is no {'plan' if arguments[2] == 'acme' else arguments[0]} `none`\n")


def test_rates_are_said_with_their_unit(weir: Weir) -> None:
    said = weir("rate", "set", "smollm2", "--input", "0.5", "--output", "1.5")
    assert said.out.startswith("smollm2: input 0.5, output 1.5 credits per 1,000,000 tokens, from ")
    assert said.err == ""
    assert weir("rate", "set", "smollm2", "--free").out.startswith("smollm2: free, from ")
    said = weir("rate", "set", "smollm2", "--input", "0.5", "--output", "1.5", "--images", "2")
    assert "output 1.5 credits per 1,000,000 tokens; images 2 credits each, from " in said.out
    assert "credits per 1,000,000 tokens" in weir("rate", "list").out


def test_a_rate_for_a_model_that_nothing_names_is_kept_with_a_warning(weir: Weir) -> None:
    said = weir("rate", "set", "lama", "--free")
    assert (said.code, "no configuration names a model `lama`" in said.err, "`smollm2`" in said.err) == (0, True, True)
    weir("init")
    said = weir("rate", "set", "lama", "--free")
    assert ("no configuration names a model `lama`" in said.err, "`echo`" in said.err) == (True, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("grant", "add", "acme", "--credits", "1", "--models", "smollm2,lama"),
        ("plan", "set", "x", "--credits", "1", "--models", "smollm2,lama"),
        ("plan", "set", "x", "--credits", "1", "--on-exhausted", "fallback", "--fallback-model", "lama"),
    ],
)
def test_a_model_that_nothing_names_is_warned_of_where_it_is_named(acme: Weir, arguments: tuple[str, ...]) -> None:
    said = acme(*arguments)
    assert said.code == 0
    (line,) = said.err.splitlines()
    assert line.startswith("warning: no configuration names a model `lama` (known here: `smollm2`)")


def test_a_balance_says_for_whom_a_grant_is_and_what_part_only_some_may_use(acme: Weir) -> None:
    assert "for" not in acme("usage", "show", "acme").out.split("\n\n")[1].splitlines()[0].split()
    assert "of which" not in acme("usage", "show", "acme").out + acme("tenant", "show", "acme").out
    acme("grant", "add", "acme", "--credits", "50", "--models", "smollm2")
    figures, grants = (part.splitlines() for part in acme("usage", "show", "acme").out.split("\n\n"))
    assert "of which for some requests only  50" in figures
    assert [("all requests" in line, "models smollm2" in line) for line in grants] == [(False, False), (True, False), (False, True)]
    assert "of which for some requests only  50\n" in acme("tenant", "show", "acme").out
    (shown,) = json.loads(acme("usage", "show", "acme", "--format", "json").out)
    assert (shown["of_which_for_some_requests_only"], [grant["for"] for grant in shown["grants"]]) == ("50", [None, "models smollm2"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("grant", "add", "acme", "--credits", "-5"), "--credits: -5 must be more than 0"),
        (("grant", "add", "acme", "--credits", "much"), "--credits: `much` is not a number; write it like 12.5"),
        (("plan", "set", "x", "--credits", "-1"), "--credits: -1 must be 0 or more"),
        (("plan", "set", "x", "--credits", "1", "--on-exhausted", "cut"), "--on-exhausted: must be one of slow, overage, block, fallback, not `cut`"),
        (("plan", "set", "x", "--credits", "1", "--rpm", "0"), "--rpm: must be 1 or more, not `0`"),
        (("plan", "set", "x", "--credits", "1", "--fee", "1.001", "--currency", "EUR"), "--fee: `1.001` has more decimals than EUR has (2)"),
        (("plan", "set", "x", "--credits", "1", "--fee", "1"), "--currency is missing: which one the fee and the credit price are in, like EUR"),
        (("plan", "set", "x", "--credits", "1", "--credit-price", "1"), "--currency is missing: which one the fee and the credit price are in, like EUR"),
        (
            ("plan", "set", "x", "--credits", "1", "--on-exhausted", "overage"),
            "--credit-price is missing: --on-exhausted overage invoices every credit past the allowance, at this price",
        ),
        (("key", "issue", "acme", "--expires", "soon"), "--expires: `soon` is no instant; write 2027-01-01 or 2027-01-01T12:00:00+01:00"),
    ],
)
def test_a_slip_is_told_in_plain_words_with_the_option_that_was_typed(acme: Weir, arguments: tuple[str, ...], expected: str) -> None:
    said = acme(*arguments)
    assert (said.code, said.err) == (2, f"weir: {expected}\n")


def test_setting_a_plan_says_all_of_it_and_what_is_other_than_before(weir: Weir) -> None:
    first = weir("plan", "set", "pro", "--credits", "1000", "--fee", "49.00", "--currency", "EUR", "--rpm", "60").out
    assert first.startswith("plan pro version 1: 1000 credits a month, then slow\n")
    lines = [" ".join(line.split()) for line in first.splitlines()]
    assert {"monthly fee 49.00", "currency EUR", "requests per minute 60", "tokens per minute -"} <= set(lines)
    second = weir("plan", "set", "pro", "--credits", "2000").out
    assert re.search(r"^currency +EUR$", second, re.MULTILINE), "a plan stays in its currency"
    assert "\nother than version 1: credits 1000 -> 2000, requests per minute 60 -> -, monthly fee 49.00 -> 0.00\n" in second


def test_a_month_without_use_is_noted_beside_the_file(acme: Weir) -> None:
    for form in ("csv", "json"):
        assert acme("usage", "export", "--month", "2026-11", "--format", form).err == ""
        said = acme("usage", "export", "--month", "2026-09", "--format", form)
        assert (said.code, said.err) == (0, "note: nothing was used in 2026-09\n")
    assert "note: " not in acme("invoice", "export", "--month", "2026-11").err


def test_one_usage_event_is_shown_in_full(acme: Weir) -> None:
    shown = [" ".join(line.split()) for line in acme("usage", "event", request_id(2)).out.splitlines()]
    assert {"tenant acme", "lane slow", "input 7", "credits 0.000000032", "paid from credits 0.000000024", "past credits 0.000000008"} <= set(shown)
    (found,) = json.loads(acme("usage", "event", request_id(1), "--format", "json").out)
    assert (found["id"], found["paid_from_credits"], found["past_credits"], found["cache_read"]) == (request_id(1), "0.00000001", "0", 0)
    assert acme("usage", "event", request_id(9)).err == f"weir: there is no usage event `{request_id(9)}`\n"


def test_a_balance_says_past_credits_and_what_of_it_is_invoiced(acme: Weir) -> None:
    (shown,) = json.loads(acme("usage", "show", "acme", "--format", "json").out)
    assert {"on_exhausted": "slow", "past_credits_invoiced": "0"}.items() <= shown.items()
    assert "past_credits" in shown and "served_past_credits" not in shown


def test_lists_fit_a_terminal_of_80_columns_and_files_keep_every_column(acme: Weir) -> None:
    acme("plan", "set", "enterprise", "--credits", "100000", "--fee", "4900.00", "--currency", "EUR", "--models", "llama-70b,deepseek-chat")
    acme("tenant", "create", "acme-research", "--plan", "pro", "--name", "ACME Research", "--timezone", "Europe/Berlin")
    acme("key", "issue", "acme-research", "--name", "production", "--project", "search", "--rpm", "600")
    acme("rate", "set", "deepseek-chat", "--input", "0.125", "--output", "1000.5", "--cache-read", "0.05")
    acme("grant", "add", "acme-research", "--credits", "500", "--note", "sorry for the outage")
    for noun in ("plan", "tenant", "key", "rate", "grant"):
        lines = acme(noun, "list").out.splitlines()
        assert max(map(len, lines)) <= 80, f"{noun}: {max(lines, key=len)}"
    assert "allowed_models" in acme("plan", "list", "--format", "csv").out
    assert "requests_per_minute" in acme("key", "list", "--format", "csv").out


def test_without_a_configuration_backends_are_said_to_be_the_gateways(weir: Weir) -> None:
    assert "belongs to `weir serve`" in weir("backend", "list").out
