"""A pool opens, counts, ejects and lets back; it tries another replica only while nothing of an answer was seen."""

import asyncio
import contextlib
import json

import pytest

from backends.config import BackendConfig
from backends.errors import BackendError, BadAnswer, BadConfig, Disconnected, Saturated, TimedOut, Unreachable
from backends.pool import Pool, build_pools
from backends.transport.seam import Answer, Exchange
from tests.clock import ManualClock
from tests.transport import ScriptedAnswer, ScriptedTransport, body_of, call_of

CALL = call_of(b'{"model":"public","messages":[]}')
STREAM = call_of(b'{"model":"public","stream":true,"messages":[]}', stream=True)


def pool_of(transport: ScriptedTransport, *urls: str, clock: ManualClock | None = None, **config: object) -> Pool:
    made = BackendConfig.model_validate({"urls": urls or ("http://a/v1",), **config})
    return Pool("b", made, transport, monotonic_s=(clock or ManualClock()).monotonic_s)


def good(*parts: bytes | BaseException, status: int = 200) -> ScriptedAnswer:
    return ScriptedAnswer(status, parts)


async def read_all(answer: Answer) -> bytes:
    parts = []
    while part := await answer.read():
        parts.append(part)
    return b"".join(parts)


async def test_a_replica_is_counted_from_the_request_to_the_end_of_its_answer() -> None:
    pool = pool_of(ScriptedTransport(good(b"a", b"b")))
    opened = await pool.open(CALL, "m")
    assert (pool.inflight, opened.status, opened.tried) == (1, 200, 1)
    assert await read_all(opened) == b"ab"
    assert pool.inflight == 0
    opened.abort()
    assert pool.inflight == 0


async def test_an_abort_gives_the_replica_back_once_and_holds_nothing_against_it() -> None:
    answer = good(b"a", b"b")
    pool = pool_of(ScriptedTransport(answer))
    opened = await pool.open(CALL, "m")
    await opened.read()
    opened.abort()
    opened.abort()
    assert (pool.inflight, pool.replicas[0].failures, answer.aborted) == (0, 0, True)


@pytest.mark.parametrize("status", [200, 400, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("end", ["abort at the head", "abort in the body", "read", "broken", "cancelled"])
async def test_however_an_exchange_ends_its_replica_is_given_back_once(status: int, end: str) -> None:
    last = {"broken": Disconnected("gone"), "cancelled": asyncio.CancelledError()}.get(end, b"b")
    pool = pool_of(ScriptedTransport(good(b"a", last, status=status)))
    opened = await pool.open(CALL, "m")
    assert pool.inflight == 1
    if end != "abort at the head":
        await opened.read()
    if not end.startswith("abort"):
        with contextlib.suppress(Disconnected, asyncio.CancelledError):
            await read_all(opened)
    opened.abort()
    opened.abort()
    assert pool.inflight == 0


async def test_a_provider_that_cannot_write_a_request_leaves_nothing_in_flight() -> None:
    pool = pool_of(ScriptedTransport())
    broken = call_of(b'{"model":"public","messages":[]}')
    broken.members = None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        await pool.open(broken, "m")
    assert (pool.inflight, pool.replicas[0].failures) == (0, 0)


async def test_a_cancelled_open_gives_the_replica_back() -> None:
    class Silent(ScriptedTransport):
        async def open(self, exchange: Exchange) -> Answer:
            await asyncio.Event().wait()
            raise AssertionError

    pool = pool_of(Silent())
    task = asyncio.create_task(pool.open(CALL, "m"))
    await asyncio.sleep(0)
    assert pool.inflight == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (pool.inflight, pool.replicas[0].failures) == (0, 0)


@pytest.mark.parametrize("refusal", [Unreachable("refused"), TimedOut("connect", 5)])
async def test_another_replica_is_tried_when_one_cannot_be_reached(refusal: BackendError) -> None:
    pool = pool_of(ScriptedTransport(refusal, good(b"ok")), "http://a/v1", "http://b/v1")
    opened = await pool.open(CALL, "m")
    assert (opened.tried, await read_all(opened)) == (2, b"ok")
    assert sorted(replica.failures for replica in pool.replicas) == [0, 1]


@pytest.mark.parametrize("error", [TimedOut("first_byte", 5), BadAnswer("html"), TimedOut("total", 5)])
async def test_no_other_replica_is_tried_once_a_request_may_have_been_answered(error: BackendError) -> None:
    transport = ScriptedTransport(error)
    pool = pool_of(transport, "http://a/v1", "http://b/v1")
    with pytest.raises(type(error)):
        await pool.open(CALL, "m")
    assert (len(transport.sent), pool.inflight) == (1, 0)


async def test_when_no_replica_can_be_reached_the_last_reason_is_given() -> None:
    pool = pool_of(ScriptedTransport(Unreachable("one"), Unreachable("two")), "http://a/v1", "http://b/v1")
    with pytest.raises(Unreachable, match="two"):
        await pool.open(CALL, "m")
    assert pool.inflight == 0


async def test_three_failures_in_a_row_eject_and_each_next_ejection_lasts_twice_as_long() -> None:
    clock = ManualClock()
    pool = pool_of(ScriptedTransport(*[Unreachable("no")] * 5, good(b"ok")), clock=clock)
    for _ in range(3):
        assert pool.up
        with pytest.raises(Unreachable):
            await pool.open(CALL, "m")
    assert not pool.up
    with pytest.raises(Saturated):
        await pool.open(CALL, "m")
    for lasts_s in (1, 2, 4):
        clock.advance(lasts_s - 0.001)
        assert not pool.up
        clock.advance(0.002)
        assert pool.up
        if lasts_s < 4:
            with pytest.raises(Unreachable):
                await pool.open(CALL, "m")
    await read_all(await pool.open(CALL, "m"))
    assert (pool.replicas[0].failures, pool.replicas[0].ejections) == (0, 0)


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_sick_servers_statuses_count_as_failures_and_are_still_answers(status: int) -> None:
    pool = pool_of(ScriptedTransport(*[good(b"{}", status=status) for _ in range(3)]))
    for _ in range(3):
        opened = await pool.open(CALL, "m")
        assert opened.status == status
        await read_all(opened)
    assert not pool.up


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_a_requests_own_fault_ejects_nobody(status: int) -> None:
    pool = pool_of(ScriptedTransport(*[good(b"{}", status=status) for _ in range(9)]))
    for _ in range(9):
        await read_all(await pool.open(CALL, "m"))
    assert pool.up


@pytest.mark.parametrize("error", [Disconnected("gone"), TimedOut("idle", 60)])
async def test_answers_that_break_off_eject_too(error: BackendError) -> None:
    pool = pool_of(ScriptedTransport(*[good(b"a", error) for _ in range(3)]))
    for _ in range(3):
        opened = await pool.open(STREAM, "m")
        await opened.read()
        with pytest.raises(type(error)):
            await opened.read()
    assert (pool.up, pool.inflight) == (False, 0)


async def test_a_draining_replica_gets_nothing_new() -> None:
    transport = ScriptedTransport(*[good() for _ in range(4)])
    pool = pool_of(transport, "http://a/v1", "http://b/v1")
    pool.drain("http://a/v1")
    for _ in range(4):
        await pool.open(CALL, "m")
    assert {exchange.origin.host for exchange in transport.sent} == {"b"}
    pool.drain("http://b/v1")
    assert not pool.up
    with pytest.raises(BadConfig, match="no replica"):
        pool.drain("http://c/v1")


async def test_load_is_spread_over_the_replicas() -> None:
    transport = ScriptedTransport(*[good() for _ in range(6)])
    pool = pool_of(transport, "http://a/v1", "http://b/v1", "http://c/v1")
    for _ in range(6):
        await pool.open(CALL, "m")
    assert sorted(replica.inflight for replica in pool.replicas) == [2, 2, 2]


async def test_weights_give_shares_in_a_smooth_order() -> None:
    transport = ScriptedTransport(*[good() for _ in range(6)])
    made = BackendConfig.model_validate({"picker": "weighted", "urls": [{"url": "http://a/v1", "weight": 2}, "http://b/v1"]})
    pool = Pool("b", made, transport)
    for _ in range(6):
        await pool.open(CALL, "m")
    assert "".join(exchange.origin.host for exchange in transport.sent) == "abaaba"


async def test_an_answer_that_is_not_streamed_may_take_longer_to_begin() -> None:
    transport = ScriptedTransport(good(), good())
    pool = pool_of(transport, timeouts={"first_byte_s": 7, "whole_s": 70})
    await pool.open(CALL, "m")
    await pool.open(STREAM, "m")
    assert [exchange.timeouts.first_byte_s for exchange in transport.sent] == [70, 7]


@pytest.mark.parametrize(
    ("configured", "whole"), [({}, 600), ({"whole_s": 70}, 70), ({"whole_s": 70, "total_s": 50}, 50), ({"whole_s": 70, "total_s": None}, 70)]
)
async def test_an_answer_that_is_not_streamed_is_bounded_as_a_whole(configured: dict[str, float | None], whole: float) -> None:
    """One byte every half second would else hold its slot for ever."""
    transport = ScriptedTransport(good(), good())
    pool = pool_of(transport, timeouts=configured)
    await pool.open(CALL, "m")
    await pool.open(STREAM, "m")
    assert [exchange.timeouts.total_s for exchange in transport.sent] == [whole, configured.get("total_s", 3600)]


async def test_a_tokenizer_that_is_slow_is_soon_given_up_and_no_client_can_eject_a_server_by_it() -> None:
    transport = ScriptedTransport(by_path={"/tokenize": TimedOut("first_byte", 2)})
    pool = pool_of(transport, provider="vllm")
    for _ in range(5):
        assert await pool.count("a", "m") is None
    assert pool.up
    limits = transport.sent[0].timeouts
    assert limits.total_s is not None and max(limits.connect_s, limits.first_byte_s, limits.idle_s, limits.total_s) <= 2


async def test_a_tokenizer_that_cannot_be_reached_counts_against_its_replica() -> None:
    transport = ScriptedTransport(by_path={"/tokenize": Unreachable("refused")})
    pool = pool_of(transport, provider="vllm")
    for _ in range(3):
        assert await pool.count("a", "m") is None
    assert not pool.up


async def test_a_tokenizer_of_another_shape_is_not_the_replicas_failure() -> None:
    for answer in ((404, b""), (200, b"<html>"), (200, b"[" * 100_000), (200, b'{"count":"\xff"}')):
        pool = pool_of(ScriptedTransport(by_path={"/tokenize": answer}), provider="vllm")
        for _ in range(3):
            assert await pool.count("a", "m") is None
        assert pool.up


async def test_a_probe_waits_no_longer_than_three_seconds_for_a_sign_of_life() -> None:
    transport = ScriptedTransport(by_path={"/health": (200, b""), "/v1/models": (200, b'{"data":[]}')})
    pool = pool_of(transport, provider="vllm")
    await pool.probe(pool.replicas[0], transport)
    assert [(exchange.path, exchange.timeouts.first_byte_s <= 3) for exchange in transport.sent] == [("/health", True), ("/v1/models", False)]


async def test_a_priority_is_sent_only_where_the_server_takes_one() -> None:
    for configured, expected in ((True, 5), (False, None), (None, None)):
        transport = ScriptedTransport(good())
        await pool_of(transport, provider="vllm", priority_scheduling=configured).open(CALL, "m", priority=5)
        assert json.loads(body_of(transport.sent[0])).get("priority") == expected


async def test_a_backends_own_tokenizer_counts_and_none_is_none() -> None:
    vllm = pool_of(ScriptedTransport(by_path={"/tokenize": (200, b'{"count":3}')}), provider="vllm")
    assert await vllm.count("a b c", "m") == 3
    assert await pool_of(ScriptedTransport()).count("a", "m") is None
    for trouble in ((500, b""), (200, b"<html>"), Unreachable("gone")):
        assert await pool_of(ScriptedTransport(by_path={"/tokenize": trouble}), provider="vllm").count("a", "m") is None


def test_a_wrong_backend_is_named() -> None:
    with pytest.raises(BadConfig, match=r"backend x: there is no picker `nope`"):
        build_pools({"x": BackendConfig.model_validate({"urls": "http://a/v1", "picker": "nope"})}, {"direct": ScriptedTransport()})


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"urls": ["http://a/v1", "http://a/v1"]},
        {"urls": "ftp://a"},
        {"urls": "http://u:p@a/v1"},
        {"urls": "http://a:99999/v1"},
        {"urls": "http://a/v1?x=1"},
        {"urls": "http://a /v1"},
        {"urls": "http://a/v1", "slots": 0},
        {"urls": "http://a/v1", "slots": "many"},
        {"urls": "http://a/v1", "slots": True},
        {"urls": "http://a/v1", "priority_scheduling": True},
        {"urls": "http://a/v1", "slot": 1},
        {"urls": "http://a/v1", "timeouts": {"connect_s": 0}},
        {"provider": "echo", "urls": "http://a/v1"},
    ],
)
def test_a_config_that_cannot_work_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        BackendConfig.model_validate(wrong)
