"""Every row of the table of refusals: what a client gets, whether it should try again, and that nothing is charged for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from billing.money import NCR_PER_CREDIT
from billing.operations import closing, grants, keys, plans, rates, subscriptions, tenants
from billing.plans.terms import PlanTerms
from tests.house import PLAN, TENANT, House, open_house
from tests.real.upstream import (
    CLOSE,
    MISBEHAVIOURS,
    RESET,
    STALL,
    STREAM_END,
    STREAM_HEAD,
    ScriptedUpstream,
    answer,
    completion,
    delta,
    event,
    json_answer,
    piece,
    split_stream,
    stream,
)


@pytest.fixture
async def house(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> AsyncIterator[House]:
    async with open_house(tmp_path, {"m": scripted_upstream.base_url}) as house:
        yield house


@pytest.fixture
async def impatient_house(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> AsyncIterator[House]:
    async with open_house(tmp_path, {"m": scripted_upstream.base_url}, impatient=True) as house:
        yield house


def error(response: httpx.Response, status: int, type: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    body = response.json()
    assert (response.status_code, body["error"]["type"], body["error"]["code"], body["error"]["param"]) == (status, type, code, param), body
    assert response.headers["content-type"] == "application/json"
    assert body["error"]["message"]
    found: dict[str, Any] = body["error"]
    return found


async def nothing_is_held_or_charged(house: House) -> None:
    assert await house.events(0) == []
    if (account := house.services.accounts.get(TENANT)) is not None:
        assert account.held_ncr == 0
        assert account.general.remaining_ncr == account.general.limit_ncr


# ---- the request itself ----


async def test_401_without_a_key(house: House) -> None:
    response = await house.client.post("/v1/chat/completions", json={"model": "m", "messages": [{"role": "user", "content": "x"}]})
    error(response, 401, "invalid_request_error", "invalid_api_key")
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("secret", ["sk-weir-wrong", "x", "sk-weir-" + "a" * 5000, "käse", "a b"])
async def test_401_with_a_wrong_key(house: House, secret: str) -> None:
    response = await house.client.post("/v1/chat/completions", json={"model": "m", "messages": [{}]}, headers=[(b"authorization", f"Bearer {secret}".encode())])
    error(response, 401, "invalid_request_error", "invalid_api_key")


async def test_401_with_a_revoked_key_within_a_second(house: House) -> None:
    assert (await house.chat("echo")).status_code == 200
    database = house.services.database
    [key] = await asyncio.to_thread(keys.list_keys, database, TENANT)
    await asyncio.to_thread(keys.revoke_key, database, key.id, house.services.clock.now_us())
    async with asyncio.timeout(1):
        while (await house.chat("echo")).status_code != 401:
            await asyncio.sleep(0.02)


async def test_401_with_an_expired_key(house: House) -> None:
    now_us = house.services.clock.now_us()
    services = house.services
    issued = await asyncio.to_thread(
        lambda: keys.issue_key(services.database, services.hasher, tenant_id=TENANT, kind="tenant", name="short", expires_us=now_us + 200_000, now_us=now_us)
    )
    house.key = issued.secret
    async with asyncio.timeout(5):
        while (await house.chat("echo")).status_code != 401:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": "m"}'])
async def test_401_comes_before_any_word_about_the_body(house: House, body: bytes) -> None:
    response = await house.client.post("/v1/chat/completions", content=body)
    error(response, 401, "invalid_request_error", "invalid_api_key")


async def test_404_says_that_the_base_url_lacks_its_v1(house: House) -> None:
    found = error(await house.post("/chat/completions", {}), 404, "invalid_request_error", "not_found")
    assert "/v1" in found["message"] and found["request_id"]


async def test_403_for_a_model_that_the_plan_does_not_include(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}, plan={"allowed_models": frozenset({"other"})}) as house:
        error(await house.chat("echo"), 403, "permission_error", "model_not_allowed", "model")


async def test_403_for_a_suspended_tenant_and_200_when_it_is_resumed(house: House) -> None:
    services = house.services
    assert (await house.chat("echo")).status_code == 200
    for state, status in (("suspended", 403), ("active", 200)):
        await asyncio.to_thread(tenants.set_state, services.database, tenant_id=TENANT, state=state, now_us=services.clock.now_us())
        async with asyncio.timeout(1):
            while (await house.chat("echo")).status_code != status:
                await asyncio.sleep(0.02)


async def test_403_for_a_closed_tenant_says_so_also_where_its_key_is_no_longer_known(house: House) -> None:
    services = house.services
    assert (await house.chat("echo")).status_code == 200
    await asyncio.to_thread(closing.close_tenant, services.database, TENANT, services.clock.now_us())
    async with asyncio.timeout(1):
        while (await house.chat("echo")).status_code != 403:
            await asyncio.sleep(0.02)
    assert "is closed" in error(await house.chat("echo"), 403, "permission_error", "tenant_closed")["message"]
    services.keyring.forget(None)
    error(await house.chat("echo"), 403, "permission_error", "tenant_closed")


async def test_404_for_an_unknown_model(house: House) -> None:
    error(await house.chat("nonesuch"), 404, "invalid_request_error", "model_not_found", "model")


async def test_404_for_an_unknown_path_and_405_for_a_wrong_method(house: House) -> None:
    error(await house.post("/v1/nonesuch", {}), 404, "invalid_request_error", "not_found")
    error(await house.client.get("/v1/chat/completions"), 405, "invalid_request_error", "method_not_allowed")


async def test_422_for_a_model_without_a_rate_and_says_how_to_set_one(house: House) -> None:
    found = error(await house.chat("unpriced"), 422, "invalid_request_error", "price_not_configured", "model")
    assert "weir rate set unpriced" in found["message"]
    now_us = house.services.clock.now_us()
    await asyncio.to_thread(lambda: rates.set_rate(house.services.database, model="unpriced", free=True, now_us=now_us))
    async with asyncio.timeout(2):
        while (await house.chat("unpriced")).status_code != 200:
            await asyncio.sleep(0.02)


MESSAGES = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b'"text"', None),
        (b"\xff\xfe", None),
        (b"{" * 100_000, None),
        (b"[" * 100_000, None),
        ({"messages": MESSAGES}, "model"),
        ({"model": 1, "messages": MESSAGES}, "model"),
        ({"model": None, "messages": MESSAGES}, "model"),
        ({"model": "m"}, "messages"),
        ({"model": "m", "messages": "x"}, "messages"),
        ({"model": "m", "messages": []}, "messages"),
        ({"model": "m", "messages": {}}, "messages"),
        ({"model": "m", "messages": MESSAGES, "stream": "yes"}, "stream"),
        ({"model": "m", "messages": MESSAGES, "stream": True, "stream_options": 1}, "stream_options"),
        ({"model": "m", "messages": MESSAGES, "max_tokens": "ten"}, "max_tokens"),
        ({"model": "m", "messages": MESSAGES, "max_tokens": -1}, "max_tokens"),
        ({"model": "m", "messages": MESSAGES, "max_tokens": 1.5}, "max_tokens"),
        ({"model": "m", "messages": MESSAGES, "max_tokens": 10**30}, "max_tokens"),
        ({"model": "m", "messages": MESSAGES, "max_completion_tokens": True}, "max_completion_tokens"),
        ({"model": "m", "messages": MESSAGES, "max_completion_tokens": 1, "max_tokens": 100_000}, "max_tokens"),
        ({"model": "m", "messages": MESSAGES, "n": 0.5}, "n"),
        ({"model": "m", "messages": MESSAGES, "n": 1000}, "n"),
    ],
    ids=lambda value: repr(value)[:60],
)
async def test_400_for_a_body_that_is_wrong_and_names_the_parameter(house: House, body: Any, param: str | None) -> None:
    response = await house.post("/v1/chat/completions", body)
    error(response, 400, "invalid_request_error", "invalid_value", param)
    await nothing_is_held_or_charged(house)


async def test_400_for_a_body_in_an_encoding(house: House) -> None:
    response = await house.post("/v1/chat/completions", b"\x1f\x8b", **{"content-encoding": "gzip"})
    error(response, 400, "invalid_request_error", "invalid_value")


async def test_413_for_a_body_over_the_limit_announced_or_not(house: House) -> None:
    limit = house.settings.server.body_bytes_max
    big = b'{"model": "m", "messages": "' + b"x" * limit + b'"}'
    error(await house.post("/v1/chat/completions", big), 413, "invalid_request_error", "request_too_large")

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(big), 1 << 20):
            yield big[start : start + (1 << 20)]

    response = await house.client.post("/v1/chat/completions", content=parts(), headers={"authorization": f"Bearer {house.key}"})
    error(response, 413, "invalid_request_error", "request_too_large")


async def test_20_mb_of_base64_pass_untouched(house: House, scripted_upstream: ScriptedUpstream) -> None:
    image = "data:image/png;base64," + "iVBORw0KGgo" * (19 * 2**20 // 11)
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": image}}]
    response = await house.chat(messages=[{"role": "user", "content": parts}])
    assert response.status_code == 200, response.text[:300]
    assert scripted_upstream.requests[0].json()["messages"][0]["content"] == parts


async def raw(house: House, data: bytes, *, more: tuple[bytes, ...] = ()) -> bytes:
    """Speak to the gateway over a bare socket; returns all that it answers until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.settings.server.port)
    writer.write(data)
    for part in more:
        await writer.drain()
        writer.write(part)
    async with asyncio.timeout(5):
        answered = await reader.read()
    writer.close()
    return answered


async def test_a_client_that_drips_its_head_is_disconnected(impatient_house: House) -> None:
    assert await raw(impatient_house, b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-slow: ") == b""
    assert await raw(impatient_house, b"") == b""


async def test_408_for_a_client_that_drips_its_body(impatient_house: House) -> None:
    key = impatient_house.key
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{{"
    answered = await raw(impatient_house, head.encode())
    assert answered.startswith(b"HTTP/1.1 408 ")
    assert b"request_timeout" in answered


async def test_a_request_id_that_could_inject_a_header_is_not_echoed(house: House) -> None:
    for value in ("a b", "x" * 129, "a\tb", ""):
        response = await house.chat("echo", {"x-request-id": value})
        assert response.headers["x-request-id"] == response.headers["x-weir-event"] != value
    response = await house.chat("echo", {"x-request-id": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    assert len(response.headers["x-weir-event"]) == 36


# ---- limits and credits ----


async def test_429_past_the_plans_requests_per_minute(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}, plan={"requests_per_minute": 2}) as house:
        first = await house.chat("echo")
        assert (first.headers["x-ratelimit-limit-requests"], first.headers["x-ratelimit-remaining-requests"]) == ("2", "1")
        assert (await house.chat("echo")).status_code == 200
        response = await house.chat("echo")
        error(response, 429, "rate_limit_error", "rate_limit_exceeded")
        assert 1 <= int(response.headers["retry-after"]) <= 30
        assert int(response.headers["retry-after-ms"]) <= 30_000
        assert "x-should-retry" not in response.headers


async def test_429_past_the_plans_tokens_per_minute(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}, plan={"tokens_per_minute": 10}) as house:
        assert (await house.chat("echo")).status_code == 200
        error(await house.chat("echo", max_tokens=5), 429, "rate_limit_error", "rate_limit_exceeded")


async def test_429_when_the_credits_are_gone_and_the_plan_blocks(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}, plan={"allowance_ncr": 1, "on_exhausted": "block"}) as house:
        response = await house.chat("echo")
        found = error(response, 429, "insufficient_quota", "credit_balance_exhausted")
        assert response.headers["x-should-retry"] == "false"
        assert "reset" in found["message"] and int(response.headers["x-weir-credits-reset"]) > 0
        await asyncio.to_thread(
            lambda: grants.add_grant(house.services.database, tenant_id=TENANT, kind="topup", amount_ncr=NCR_PER_CREDIT, now_us=house.services.clock.now_us())
        )
        async with asyncio.timeout(2):
            while (await house.chat("echo")).status_code != 200:
                await asyncio.sleep(0.02)


async def test_200_in_the_slow_lane_when_the_credits_are_gone_and_429_at_its_daily_cap(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}, plan={"allowance_ncr": 1, "slow_daily_cap_ncr": 20_000_000}) as house:
        response = await house.chat("echo")
        assert (response.status_code, response.headers["x-weir-lane"], response.headers["x-weir-lane-reason"]) == (200, "slow", "credits_too_few")
        [booked] = await house.events(1)
        assert booked.lane == "slow" and booked.cover_ncr == 1 and booked.charge_ncr > 20_000_000
        error(await house.chat("echo"), 429, "insufficient_quota", "credit_balance_exhausted")


async def test_200_in_the_fast_lane_when_the_plan_bills_past_its_credits(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}, plan={"allowance_ncr": 0, "on_exhausted": "overage", "credit_price": "0.01"}) as house:
        response = await house.chat("echo")
        assert (response.status_code, response.headers["x-weir-lane"], response.headers["x-weir-lane-reason"]) == (200, "fast", "overage")


# ---- upstreams that fail ----

WHOLE = {
    "resets_before_the_answer": (502, "server_error", "backend_unreachable"),
    "closes_before_the_answer": (502, "server_error", "backend_unreachable"),
    "stalls_before_the_answer": (504, "server_error", "backend_timeout"),
    "resets_in_the_head": (502, "server_error", "backend_unreachable"),
    "answers_html": (502, "server_error", "backend_unreachable"),
    "answers_html_with_200": (502, "server_error", "backend_bad_answer"),
    "answers_garbage_with_200": (502, "server_error", "backend_bad_answer"),
    "speaks_no_http": (502, "server_error", "backend_bad_answer"),
}


def failing(folder: Path, upstream: ScriptedUpstream, name: str, **more: str) -> AbstractAsyncContextManager[House]:
    """Open a gateway whose upstream misbehaves; it waits long for one that does anything but stall."""
    upstream.script = MISBEHAVIOURS[name]
    return open_house(folder, {"m": upstream.base_url, **more}, impatient=name.startswith("stalls"))


@pytest.mark.parametrize("name", WHOLE)
async def test_5xx_when_the_upstream_fails_before_its_first_byte(tmp_path: Path, scripted_upstream: ScriptedUpstream, name: str) -> None:
    async with failing(tmp_path, scripted_upstream, name) as house:
        for stream_wanted in (False, True):
            response = await house.chat(stream=stream_wanted)
            error(response, *WHOLE[name])
            assert "127.0.0.1" not in response.text and "upstream-m" not in response.text
        assert house.services.metrics.requests.cells == {("chat/completions", "m", WHOLE[name][0]): 2}
        events = await house.events(2)
        assert {(row.outcome, row.charge_ncr, row.source, row.status) for row in events} == {("failed", 0, "none", WHOLE[name][0])}
        assert house.account.held_ncr == 0


@pytest.mark.parametrize("name", ["resets_before_the_answer", "answers_html", "answers_html_with_200", "stalls_before_the_answer"])
async def test_the_next_backend_serves_when_the_first_fails_before_its_first_byte(tmp_path: Path, scripted_upstream: ScriptedUpstream, name: str) -> None:
    second = ScriptedUpstream()
    try:
        async with failing(tmp_path, scripted_upstream, name, n=second.base_url) as house:
            response = await house.chat("f")
            assert (response.status_code, response.headers["x-weir-backend"], response.headers["x-weir-attempts"]) == (200, "n", "2")
            assert second.requests[0].json()["model"] == "upstream-n"
            [booked] = await house.events(1)
            assert (booked.backend, booked.attempts, booked.outcome) == ("n", 2, "complete")
    finally:
        second.close()


@pytest.mark.parametrize("name", ["resets_in_the_stream", "closes_in_the_stream", "stalls_in_the_stream"])
async def test_a_stream_that_breaks_ends_with_an_error_event_and_is_charged_for_what_came(
    tmp_path: Path, scripted_upstream: ScriptedUpstream, name: str
) -> None:
    async with failing(tmp_path, scripted_upstream, name) as house:
        response = await house.chat(stream=True)
        assert response.status_code == 200
        last = response.text.strip().split("\n\n")[-1]
        assert last.startswith("data: ") and msgspec.json.decode(last[6:])["error"]["code"] == "backend_disconnected"
        assert "one " in response.text and "[DONE]" not in response.text
        [booked] = await house.events(1)
        assert (booked.outcome, booked.source) == ("cut", "partial")
        assert booked.input is not None and booked.input > 0 and booked.output is not None and 0 < booked.output <= 4
        assert booked.charge_ncr == booked.input * 1_000_000 + booked.output * 3_000_000
        assert house.account.held_ncr == 0
        metrics = house.services.metrics
        assert (metrics.backend_attempts.cells, metrics.refusals.cells) == ({("m", "cut"): 1}, {("backend_disconnected",): 1})


async def test_a_stream_without_done_is_ended_properly(house: House, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script = MISBEHAVIOURS["never_sends_done"]
    response = await house.chat(stream=True)
    assert response.text.endswith("data: [DONE]\n\n")
    [booked] = await house.events(1)
    assert (booked.outcome, booked.source, booked.input, booked.output) == ("complete", "reported", 7, 3)


async def test_a_stream_whose_done_lacks_its_blank_line_is_whole(house: House, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script = (*stream("one ", done=False)[:-2], piece(b"data: [DONE]\n"), STREAM_END)
    response = await house.chat(stream=True)
    assert response.text.endswith("data: [DONE]\n\n") and response.text.count("[DONE]") == 1
    assert [row.outcome for row in await house.events(1)] == ["complete"]


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
async def test_half_a_character_at_a_pieces_edge_arrives_whole(house: House, scripted_upstream: ScriptedUpstream, cut: int) -> None:
    scripted_upstream.script = split_stream("水🌊", cut)
    response = await house.chat(stream=True)
    assert "水🌊" in response.content.decode()


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_an_upstreams_own_refusal_is_passed_on_cleaned_of_its_names(house: House, scripted_upstream: ScriptedUpstream, status: int) -> None:
    message = "The model `upstream-m` at http://10.0.0.7:8000/v1 has a context of 2048 tokens (key sk-secret-abcdefgh)."
    scripted_upstream.script = (json_answer({"error": {"message": message, "type": "BadRequestError", "param": "messages", "code": 400}}, status=status),)
    response = await house.chat()
    found = error(response, status, "BadRequestError", None, "messages")
    assert found["message"] == "The model `m` at [backend] has a context of 2048 tokens (key [hidden])."
    assert [row.charge_ncr for row in await house.events(1)] == [0]


async def test_the_log_holds_no_prompt_no_answer_and_no_key(house: House, scripted_upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    secrets = ("sk-proj-UPSTREAMKEY1234567890", "MY SECRET PROMPT", "THE PRIVATE ANSWER")
    said = " ".join(secrets)
    scripted_upstream.play(json_answer({"error": {"message": said, "type": "x"}}, status=401))
    scripted_upstream.play(json_answer({"error": {"message": said, "type": "x"}}, status=422))
    scripted_upstream.play(answer(said.encode()))
    scripted_upstream.play(STREAM_HEAD, piece(said.encode()), CLOSE)
    scripted_upstream.play(STREAM_HEAD, event(delta("fine")), event({"error": {"message": said}}), STREAM_END)
    for number in range(5):
        await house.chat(stream=number >= 3, messages=[{"role": "user", "content": secrets[1]}])
    await house.events(5)
    assert not [record.getMessage() for record in caplog.records if any(secret in record.getMessage() for secret in (*secrets, house.key))]


@pytest.mark.parametrize("status", [401, 403])
async def test_502_when_the_upstream_refuses_our_credentials(house: House, scripted_upstream: ScriptedUpstream, status: int) -> None:
    scripted_upstream.script = (json_answer({"error": "Unauthorized"}, status=status),)
    error(await house.chat(), 502, "server_error", "backend_unreachable")


async def test_429_of_an_upstream_is_passed_on_with_its_retry_after(house: House, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script = (json_answer({"error": {"message": "slow down", "type": "x", "code": "rpm"}}, status=429, headers=("retry-after: 7",)),)
    response = await house.chat()
    error(response, 429, "rate_limit_error", "rpm")
    assert response.headers["retry-after"] == "7"


async def test_503_when_the_upstream_is_overloaded(house: House, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script = (answer(b"busy", status=503, content_type="text/plain"),)
    error(await house.chat(), 503, "server_error", "server_is_overloaded")


async def test_the_upstream_is_left_at_once_when_the_client_leaves(house: House, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script = (STREAM_HEAD, event(delta("one ")), STALL)
    async with house.client.stream(
        "POST", "/v1/chat/completions", json={"model": "m", "messages": MESSAGES, "stream": True}, headers={"authorization": f"Bearer {house.key}"}
    ) as response:
        await anext(response.aiter_bytes())
    await asyncio.to_thread(scripted_upstream.client_gone.wait, 10)
    assert scripted_upstream.client_gone.is_set(), "the upstream went on after its client had left"
    [booked] = await house.events(1)
    assert (booked.outcome, booked.status, booked.source) == ("cut", 499, "partial")
    assert booked.output is not None and booked.output > 0
    assert house.account.held_ncr == 0


async def test_a_client_that_leaves_before_the_answer_is_charged_its_prompt(house: House, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script = (STALL,)
    await house.ask_and_leave(lambda: scripted_upstream.requests)
    [booked] = await house.events(1)
    assert house.services.metrics.backend_attempts.cells == {("m", "left"): 1}
    assert (booked.outcome, booked.source, booked.output) == ("cut", "partial", None)
    assert booked.input is not None and booked.input > 0


async def test_a_client_that_takes_nothing_of_its_answer_is_left_and_charged(impatient_house: House, scripted_upstream: ScriptedUpstream) -> None:
    house = impatient_house
    scripted_upstream.script = (STREAM_HEAD, *(event(delta("x" * 60_000)) for _ in range(300)), STALL)
    body = msgspec.json.encode({"model": "m", "messages": MESSAGES, "stream": True, "max_tokens": 10})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {house.key}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", house.settings.server.port, limit=1024)
    writer.write(head + body)
    await reader.readexactly(20)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    [booked] = await house.events(1)
    assert (booked.outcome, booked.source, booked.output) == ("cut", "partial", 10)
    assert house.services.gates["m"].queue.running == 0
    assert house.account.held_ncr == 0
    writer.close()


async def test_usage_that_is_absurd_is_estimated_instead(house: House, scripted_upstream: ScriptedUpstream) -> None:
    for usage in ({"prompt_tokens": -1, "completion_tokens": 3}, {"prompt_tokens": 10**15, "completion_tokens": 3}, {"prompt_tokens": "7"}, {}):
        body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello you"}}], "usage": usage}
        scripted_upstream.play(json_answer(body))
        assert (await house.chat()).status_code == 200
    events = await house.events(4)
    assert {row.source for row in events} == {"estimated"}
    assert all(row.output == 2 and row.input and row.charge_ncr for row in events)


async def test_an_idle_connection_that_the_upstream_closed_is_replaced_unnoticed(house: House, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.play(completion("one"), CLOSE)
    scripted_upstream.play(completion("two"), RESET)
    for _ in range(3):
        assert (await house.chat()).status_code == 200
    assert [row.attempts for row in await house.events(3)] == [1, 1, 1]


async def test_the_client_gets_usage_in_a_stream_only_if_it_asked_and_its_cost_with_it(house: House, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script = stream("a", "b")
    plain = await house.chat(stream=True)
    assert '"usage"' not in plain.text
    asked = await house.chat(stream=True, stream_options={"include_usage": True})
    chunk = msgspec.json.decode(asked.text.strip().split("\n\n")[-2][6:])
    assert chunk["choices"] == [] and chunk["usage"]["prompt_tokens"] == 7
    assert chunk["usage"]["cost"] == 0.013  # 7 x 0.001 + 2 x 0.003 credits
    assert [seen.json()["stream_options"]["include_usage"] for seen in scripted_upstream.requests] == [True, True]
    assert [row.charge_ncr for row in await house.events(2)] == [13_000_000] * 2


async def test_a_plan_is_not_changed_under_a_tenant_but_limits_of_a_new_plan_hold_at_once(house: House) -> None:
    services = house.services
    assert (await house.chat("echo")).status_code == 200
    now_us = services.clock.now_us()

    def move() -> None:
        plans.set_plan(services.database, PlanTerms(plan="narrow", allowance_ncr=NCR_PER_CREDIT, allowed_models=frozenset({"m"})), now_us=now_us)
        subscriptions.change_plan(services.database, TENANT, "narrow", now_us, when="now")

    await asyncio.to_thread(move)
    async with asyncio.timeout(2):
        while (await house.chat("echo")).status_code != 403:
            await asyncio.sleep(0.02)
    assert PLAN != "narrow"
