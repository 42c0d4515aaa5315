"""`weir webhook` over a real database and a real receiver: what it does, prints and refuses."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook as Receiver

from tests.command import Weir, weir_in
from tests.real.upstream import RESET, ScriptedUpstream, answer


@pytest.fixture
def weir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Weir:
    command = weir_in(tmp_path, monkeypatch, capsys)
    assert command("plan", "set", "pro", "--credits", "1000").code == 0
    assert command("tenant", "create", "acme", "--plan", "pro").code == 0
    return command


@pytest.fixture
def receiver() -> Iterator[ScriptedUpstream]:
    server = ScriptedUpstream(script=(answer(b"", status=200),))
    yield server
    server.close()


def rows(weir: Weir, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(weir("webhook", *arguments, "--format", "json").out)
    return found


def test_adding_prints_the_secret_alone_and_only_then(weir: Weir) -> None:
    assert "weir webhook add https://example.com/hook" in weir("webhook", "list").out
    said = weir("webhook", "add", "https://hook.test/a", "--tenant", "acme", "--events", "credits.exhausted, credits.threshold")
    secret = said.out.strip()
    assert (said.code, secret.startswith("whsec_"), " " in secret) == (0, True, False)
    (row,) = rows(weir, "list")
    assert (row["url"], row["tenant"], row["events"], row["disabled"]) == ("https://hook.test/a", "acme", "credits.threshold,credits.exhausted", None)
    assert f"{row['id']}: give the secret above to the receiver, it cannot be shown again. Try it with: weir webhook test {row['id']}" in said.err
    assert secret not in weir("webhook", "list").out


def test_a_test_is_sent_from_here_and_its_answer_said(weir: Weir, receiver: ScriptedUpstream) -> None:
    secret = weir("webhook", "add", f"http://127.0.0.1:{receiver.port}/hook").out.strip()
    (row,) = rows(weir, "list")
    said = weir("webhook", "test", row["id"])
    (seen,) = receiver.requests
    assert said.out == f"webhook {row['id']}: message {seen.headers['webhook-id']} was taken, status 200\n"
    assert Receiver(secret).verify(seen.body, seen.headers)["type"] == "webhook.test"
    (sent,) = rows(weir, "deliveries", row["id"])
    assert (sent["id"], sent["state"], sent["tries"], sent["status"], sent["due"]) == (seen.headers["webhook-id"], "done", 1, 200, None)
    assert (sent["type"], sent["percent"]) == ("webhook.test", None)
    assert "webhook.test" in weir("webhook", "deliveries").out


def test_a_test_that_is_not_taken_ends_with_1_and_is_not_tried_again(weir: Weir, receiver: ScriptedUpstream) -> None:
    receiver.script = (answer(b"", status=503),)
    weir("webhook", "add", f"http://127.0.0.1:{receiver.port}/hook")
    (row,) = rows(weir, "list")
    said = weir("webhook", "test", row["id"])
    assert (said.code, said.out) == (1, "")
    assert "was not taken: status 503" in said.err
    (sent,) = rows(weir, "deliveries")
    assert (sent["state"], sent["status"], sent["due"]) == ("failed", 503, None)
    receiver.script = (RESET,)
    assert "was not taken: no answer: " in weir("webhook", "test", row["id"]).err


def test_removing_asks_first(weir: Weir) -> None:
    weir("webhook", "add", "https://hook.test/a")
    (row,) = rows(weir, "list")
    asked = weir("webhook", "remove", row["id"])
    assert (asked.code, asked.out) == (2, "")
    assert f"Remove webhook `{row['id']}` (https://hook.test/a) with everything that was or would be sent to it?" in asked.err
    assert weir("webhook", "remove", row["id"], "--yes").out == f"webhook {row['id']} is removed\n"
    assert rows(weir, "list") == []
    assert weir("webhook", "deliveries").out == "nothing was sent yet\n"


def test_http_to_another_machine_needs_the_setting(weir: Weir, monkeypatch: pytest.MonkeyPatch) -> None:
    assert weir("webhook", "add", "http://hook.test/").code == 2
    monkeypatch.setenv("WEIR_WEBHOOKS__ALLOW_HTTP", "true")
    assert weir("webhook", "add", "http://hook.test/").code == 0


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("add", "http://hook.test/"), "url: http:// can be read and changed on its way"),
        (("add", "hook.test"), "url: must begin with https://"),
        (("add", "https://u:p@hook.test/"), "url: holds a user or password"),
        (("add", "https://hook.test/", "--tenant", "nobody"), "there is no tenant `nobody`"),
        (("add", "https://hook.test/", "--events", "credits.gone"), "events: `credits.gone` is not one"),
        (("add", "https://hook.test/", "--events", " , "), "events: none are named"),
        (("remove", "wh_none", "--yes"), "there is no webhook `wh_none`"),
        (("test", "wh_none"), "there is no webhook `wh_none`"),
        (("deliveries", "wh_none"), "there is no webhook `wh_none`"),
    ],
)
def test_a_mistake_ends_with_2_and_one_clear_line(weir: Weir, arguments: tuple[str, ...], part: str) -> None:
    said = weir("webhook", *arguments)
    assert (said.code, said.out) == (2, "")
    assert part in said.err
    assert said.err.count("\n") == 1
