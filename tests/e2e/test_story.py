"""The whole story once, on real parts: an admin sets a tenant up, an application spends its credits with the OpenAI SDK and is slowed,
and finance exports a month that equals the events to the last nano-credit."""

import csv
import io
import json
import sqlite3
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from openai import AuthenticationError, OpenAI, UnprocessableEntityError

from tests.real.gateway import Gateway, StartGateway
from tests.real.servers import ModelServer

NCR = 10**9
INPUT, OUTPUT = 1000, 3000  # credits per 1,000,000 tokens
SERVERS = [pytest.param("local", marks=pytest.mark.slow), pytest.param("vllm", marks=pytest.mark.vllm)]
QUESTION: Any = [{"role": "user", "content": "What is the capital of France? Answer in one short sentence."}]


@pytest.fixture(params=SERVERS)
def gateway(request: pytest.FixtureRequest, gateway_process: StartGateway) -> Gateway:
    server: ModelServer = request.getfixturevalue(f"{request.param}_server")
    return gateway_process(
        {
            "backends": {"gpu": {"provider": request.param, "urls": [server.base_url]}},
            "models": {"smollm2": {"routes": [{"backend": "gpu", "model": server.model}]}},
        }
    )


def charge(usage: Any) -> int:
    """What an answer's usage costs at the rate that the admin set, in ncr."""
    return int(usage.prompt_tokens * INPUT * 1000 + usage.completion_tokens * OUTPUT * 1000)


def test_from_the_first_key_to_the_months_export(gateway: Gateway) -> None:
    # the admin
    gateway.weir("plan", "set", "small", "--credits", "0.4", "--on-exhausted", "slow", "--fee", "49.00", "--currency", "EUR")
    gateway.weir("tenant", "create", "acme", "--plan", "small", "--name", "ACME GmbH", "--currency", "EUR", "--timezone", "Europe/Berlin")
    secret = gateway.issue_key("acme", "--name", "app")
    with OpenAI(base_url=gateway.base_url, api_key=secret, max_retries=0) as client:
        with pytest.raises(UnprocessableEntityError, match="weir rate set smollm2"):
            client.chat.completions.create(model="smollm2", messages=QUESTION)
        gateway.weir("rate", "set", "smollm2", "--input", str(INPUT), "--output", str(OUTPUT))
        spent = spend_until_slow(client)
        # past its credits: slower, never cut, streams too
        for stream in (False, True):
            raw = client.chat.completions.with_raw_response.create(model="smollm2", messages=QUESTION, max_tokens=8, **stream_options(stream))
            assert (raw.status_code, raw.headers["x-weir-lane"]) == (200, "slow")
            answer = raw.parse()
            usage = list(answer)[-1].usage if stream else answer.usage
            spent.append(charge(usage))
        credits: Any = client.get("/credits", cast_to=object)
        assert (credits["remaining"], credits["standing"], credits["lane"], credits["limit"]) == ("0", "slow", "slow", "0.4")
        # a grant brings the fast lane back at once
        gateway.weir("grant", "add", "acme", "--credits", "5", "--kind", "topup")
        raw = await_lane(client, "fast")
        spent.append(charge(raw.parse().usage))
        # revoking takes effect within a second
        key_id = json.loads(gateway.weir("key", "list", "acme", "--format", "json").stdout)[0]["id"]
        gateway.weir("key", "revoke", key_id, "--yes")
        revoked_at = time.monotonic()
        while not is_refused(client):
            assert time.monotonic() - revoked_at < 1.0, "a revoked key still works after a second"
    # finance
    assert gateway.stop() == 0
    check_books(gateway, spent)


def spend_until_slow(client: OpenAI) -> list[int]:
    """Spend the 0.4 credits in the fast lane; the balance falls by exactly what each answer says it cost."""
    spent: list[int] = []
    left = 4 * NCR // 10
    for _ in range(500):
        raw = client.chat.completions.with_raw_response.create(model="smollm2", messages=QUESTION, max_tokens=40)
        usage: Any = raw.parse().usage
        cost = charge(usage)
        assert Decimal(str(usage.cost)) * NCR == cost == Decimal(raw.headers["x-weir-cost"]) * NCR
        spent.append(cost)
        if raw.headers["x-weir-lane"] == "slow":
            assert raw.headers["x-weir-lane-reason"] == "credits_too_few"
            break
        left -= cost
        assert Decimal(raw.headers["x-weir-credits-remaining"]) * NCR == left >= 0
    else:
        raise AssertionError("the credits never ran out")
    for _ in range(50):  # what was too little for a fast request is spent, too, to the last nano-credit
        if raw.headers["x-weir-credits-remaining"] == "0":
            return spent
        raw = client.chat.completions.with_raw_response.create(model="smollm2", messages=QUESTION, max_tokens=200)
        spent.append(charge(raw.parse().usage))
    raise AssertionError("the last credits were never spent")


def stream_options(stream: bool) -> Any:
    return {"stream": True, "stream_options": {"include_usage": True}} if stream else {}


def await_lane(client: OpenAI, lane: str) -> Any:
    deadline = time.monotonic() + 3
    while True:
        credits: Any = client.get("/credits", cast_to=object)
        if credits["lane"] == lane:
            raw = client.chat.completions.with_raw_response.create(model="smollm2", messages=QUESTION, max_tokens=8)
            assert raw.headers["x-weir-lane"] == lane
            return raw
        assert time.monotonic() < deadline, f"the lane is still {credits['lane']}"


def is_refused(client: OpenAI) -> bool:
    try:
        client.models.list()
    except AuthenticationError:
        return True
    return False


def check_books(gateway: Gateway, spent: list[int]) -> None:
    """The export's sums, the events and what the application saw are one figure."""
    month = time.strftime("%Y-%m")  # the test's tenant is in Berlin; within an hour of a month's end this could be the other month
    with sqlite3.connect(gateway.data_dir / "weir.db") as books:
        rows = books.execute("select charge_ncr, covered_ncr, input, cache_read, output, source, outcome from usage_event order by id").fetchall()
    books.close()
    assert [row[0] for row in rows] == spent
    assert {row[5:] for row in rows} == {("reported", "complete")}
    lines = list(csv.DictReader(io.StringIO(gateway.weir("usage", "export", "--month", month, "--format", "csv").stdout)))
    assert {(line["tenant"], line["model"]) for line in lines} == {("acme", "smollm2")}
    assert sum(Decimal(line["credits"]) for line in lines) * NCR == sum(spent)
    assert sum(int(line["requests"]) for line in lines) == len(spent)
    for name, index in (("input_tokens", 2), ("cache_read_tokens", 3), ("output_tokens", 4)):
        assert sum(int(line[name] or 0) for line in lines) == sum(row[index] or 0 for row in rows)
    exported = json.loads(gateway.weir("usage", "export", "--month", month, "--format", "json").stdout)
    assert sum(Decimal(line["credits"]) for line in exported["lines"]) * NCR == sum(spent)
    invoice = json.loads(gateway.weir("invoice", "draft", "acme", "--format", "json").stdout)
    assert invoice["currency"] == "EUR"
    assert [line["amount"] for line in invoice["lines"] if line["kind"] == "fee"] == ["49.00"]
    assert {line["amount"] for line in invoice["lines"] if line["kind"] != "fee"} == {"0.00"}
    assert sum(Decimal(line["credits"]) for line in invoice["lines"]) * NCR == sum(spent)
    verified = gateway.weir("ledger", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_the_data_folder_holds_no_secret_in_the_clear(gateway_process: StartGateway, tmp_path: Path) -> None:
    gateway = gateway_process({"backends": {"echo": {"provider": "echo"}}, "models": {"echo": {"routes": [{"backend": "echo", "model": "echo"}]}}})
    secrets = [gateway.admin_key]
    gateway.weir("plan", "set", "p", "--credits", "1")
    gateway.weir("tenant", "create", "t", "--plan", "p")
    secrets.append(gateway.issue_key("t"))
    gateway.stop()
    for path in gateway.data_dir.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret.encode() in content for secret in secrets), path
