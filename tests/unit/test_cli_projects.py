"""`weir project`, `weir key limit` and grants with a scope, over a real database: what they do, print, and refuse."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command import Weir, weir_in


@pytest.fixture
def weir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Weir:
    command = weir_in(tmp_path, monkeypatch, capsys)
    assert command("plan", "set", "pro", "--credits", "1000").code == 0
    assert command("tenant", "create", "acme", "--plan", "pro").code == 0
    return command


def rows(weir: Weir, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(weir(*arguments, "--format", "json").out)
    return found


def key_of(weir: Weir, *arguments: str) -> str:
    assert weir("key", "issue", "acme", *arguments).code == 0
    found: str = rows(weir, "key", "list", "acme")[-1]["id"]
    return found


def test_a_project_gets_a_ceiling_and_loses_it(weir: Weir) -> None:
    assert weir("project", "set", "acme", "search", "--ceiling", "500").out == "project search of acme: at most 500 credits a period\n"
    assert [(row["name"], row["ceiling"], row["used"], row["keys"]) for row in rows(weir, "project", "list", "acme")] == [("search", "500", "0", 0)]
    assert weir("project", "set", "acme", "search", "--ceiling", "none").out == "project search of acme: no ceiling\n"
    assert rows(weir, "project", "list", "acme")[0]["ceiling"] is None


def test_a_key_makes_its_project(weir: Weir) -> None:
    assert "weir key issue TENANT --project NAME" in weir("project", "list", "acme").out
    key_of(weir, "--project", "chat")
    assert [(row["name"], row["keys"]) for row in rows(weir, "project", "list", "acme")] == [("chat", 1)]


def test_a_keys_limits_are_changed_one_by_one(weir: Weir) -> None:
    key = key_of(weir, "--ceiling", "100", "--rpm", "5")
    assert weir("key", "limit", key, "--ceiling", "250.5", "--tpm", "1000").out == f"key {key}: ceiling 250.5, tokens a minute 1000\n"
    (row,) = rows(weir, "key", "list", "acme")
    assert (row["ceiling"], row["used"], row["requests_per_minute"], row["tokens_per_minute"]) == ("250.5", "0", 5, 1000)
    assert weir("key", "limit", key, "--ceiling", "none", "--rpm", "none").code == 0
    (row,) = rows(weir, "key", "list", "acme")
    assert (row["ceiling"], row["used"], row["requests_per_minute"], row["tokens_per_minute"]) == (None, None, None, 1000)


def test_a_grant_shows_whom_it_is_for_and_what_became_of_it(weir: Weir) -> None:
    key = key_of(weir, "--project", "search")
    given = weir("grant", "add", "acme", "--credits", "50", "--id", "g1", "--key", key, "--project", "search", "--models", "b, a")
    assert given.out == f"grant g1: 50 credits for acme (key {key}, project search, models a,b), without end\n"
    assert weir("grant", "add", "acme", "--credits", "7", "--id", "g2").out == "grant g2: 7 credits for acme, without end\n"
    listed = {row["id"]: row for row in rows(weir, "grant", "list", "acme")}
    assert (listed["g1"]["key_id"], listed["g1"]["project"], listed["g1"]["models"]) == (key, "search", ["a", "b"])
    assert (listed["g2"]["key_id"], listed["g2"]["project"], listed["g2"]["models"]) == (None, None, None)
    assert f"key {key}, project search, models a,b" in weir("grant", "list", "acme").out
    assert weir("grant", "void", "g2", "--yes").out == "grant g2 is void; 7 credits were left of it\n"
    voided = {row["id"]: row for row in rows(weir, "grant", "list", "acme")}["g2"]
    assert (voided["remaining"], voided["used"], voided["voided_credits"], voided["expired_credits"]) == ("0", "0", "7", "0")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("project", "set", "nobody", "p", "--ceiling", "1"), "there is no tenant `nobody`"),
        (("project", "set", "acme", " p", "--ceiling", "1"), "project: ` p` is not usable"),
        (("project", "set", "acme", "p", "--ceiling", "-1"), "--ceiling: -1 must be 0 or more, or none"),
        (("project", "set", "acme", "p", "--ceiling", "lots"), "--ceiling: `lots` is not a number"),
        (("project", "set", "acme", "p", "--ceiling", "0.0000000001"), "--ceiling: `0.0000000001` has more than 9 decimals"),
        (("project", "set", "acme", "p", "--ceiling", "9000000000"), "out of range"),
        (("project", "list", "nobody"), "there is no tenant `nobody`"),
        (("key", "issue", "acme", "--ceiling", "-5"), "--ceiling: -5 must be 0 or more"),
        (("key", "issue", "--admin", "--ceiling", "5"), "ceiling: an admin key has none"),
        (("key", "limit", "key_none", "--ceiling", "5"), "there is no key `key_none`"),
        (("key", "limit", "key_none"), "nothing to change"),
        (("key", "limit", "key_none", "--rpm", "0"), "--rpm: `0` is not a limit"),
        (("key", "limit", "key_none", "--tpm", "1.5"), "--tpm: `1.5` is not a limit"),
        (("grant", "add", "acme", "--credits", "1", "--key", "key_none"), "key: tenant `acme` has no key `key_none`"),
        (("grant", "add", "acme", "--credits", "1", "--project", "p"), "project: tenant `acme` has no project `p`"),
        (("grant", "add", "acme", "--credits", "1", "--models", " , "), "models: 0 of them"),
        (("grant", "add", "acme", "--credits", "1", "--expires", "2020-01-01"), "expires: this instant has passed"),
        (("grant", "add", "acme", "--credits", "1", "--from", "2099-01-02", "--expires", "2099-01-01"), "expires: the grant ends before it begins"),
    ],
)
def test_a_mistake_ends_with_2_and_one_clear_line(weir: Weir, arguments: tuple[str, ...], part: str) -> None:
    said = weir(*arguments)
    assert (said.code, said.out) == (2, "")
    assert part in said.err
    assert said.err.count("\n") == 1
