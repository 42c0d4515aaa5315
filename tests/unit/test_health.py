"""Probes hold a silent replica out, let it back, and learn what it is; nothing that a server says can break them."""

import asyncio
import contextlib
import json

import pytest

from backends import health
from backends.config import BackendConfig
from backends.errors import TimedOut, Unreachable
from backends.pool import Pool
from backends.replica import replica_at
from backends.transport.seam import Answer, Exchange
from tests.clock import ManualClock
from tests.transport import ScriptedTransport, body_of

MODELS = b'{"object":"list","data":[{"id":"smollm2","max_model_len":2048}]}'
LLAMA_MODELS = b'{"models":[],"object":"list","data":[{"id":"smollm2","meta":{"n_ctx":2048,"n_ctx_train":8192}}]}'
COMPLETION = b'{"choices":[{"text":"."}]}'


def vllm_pool(answers: dict[str, tuple[int, bytes] | Exception], clock: ManualClock | None = None, **config: object) -> tuple[Pool, ScriptedTransport]:
    transport = ScriptedTransport(by_path=answers)
    made = BackendConfig.model_validate({"provider": "vllm", "urls": "http://a/v1", **config})
    return Pool("b", made, transport, monotonic_s=(clock or ManualClock()).monotonic_s), transport


async def test_a_vllm_that_takes_priorities_is_found_out_with_one_token_behind_everybody() -> None:
    pool, transport = vllm_pool({"/health": (200, b""), "/v1/models": (200, MODELS), "/v1/completions": (200, COMPLETION)})
    assert not pool.priority_scheduling
    assert await pool.probe(pool.replicas[0], transport)
    assert pool.priority_scheduling
    asked = json.loads(body_of(transport.sent[-1]))
    assert (asked["model"], asked["max_tokens"], asked["priority"] > 0) == ("smollm2", 1, True)
    assert (pool.context_tokens("smollm2"), pool.models()) == (2048, ("smollm2",))
    before = len(transport.sent)
    assert await pool.probe(pool.replicas[0], transport)
    assert [exchange.path for exchange in transport.sent[before:]] == ["/health"]


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_a_server_that_refuses_a_priority_is_sent_none(status: int) -> None:
    pool, transport = vllm_pool(
        {"/health": (200, b""), "/v1/models": (200, MODELS), "/v1/completions": (status, b'{"error":{"message":"priority scheduling is not enabled"}}')}
    )
    await pool.probe(pool.replicas[0], transport)
    assert not pool.priority_scheduling


@pytest.mark.parametrize(
    ("declared", "answer", "sent", "said"),
    [
        (True, (200, COMPLETION), True, "sent (declared, and taken)"),
        (True, (400, b""), False, "not sent (declared, but refused)"),
        (True, (503, b""), True, "sent (declared; not tried)"),
        (False, (200, COMPLETION), False, "not sent (priority_scheduling: false)"),
        (None, (200, COMPLETION), True, "sent (not declared, but taken: without --scheduling-policy priority some versions take and ignore them)"),
        (None, (400, b""), False, "not sent (refused)"),
        (None, (503, b""), False, "not sent (not declared; not tried)"),
    ],
)
async def test_priorities_are_tried_at_start_and_the_log_says_what_is_sent_and_why(
    declared: bool | None, answer: tuple[int, bytes], sent: bool, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    pool, transport = vllm_pool({"/health": (200, b""), "/v1/models": (200, MODELS), "/v1/completions": answer}, priority_scheduling=declared)
    assert pool.priority_scheduling is (declared is True), "before it is seen, as declared"
    with caplog.at_level("INFO"):
        await pool.probe(pool.replicas[0], transport)
    assert pool.priority_scheduling is sent
    assert caplog.records[-1].levelname == ("WARNING" if "but refused" in said else "INFO")
    assert caplog.messages[-1].endswith(f"http://a/v1 serves smollm2; context {{'smollm2': 2048}} tokens; priorities: {said}")
    await pool.probe(pool.replicas[0], transport)
    tries = [exchange.path for exchange in transport.sent].count("/v1/completions")
    assert tries == (0 if declared is False else 2 if declared is None and answer[0] == 503 else 1)


async def test_a_backend_of_which_no_replica_may_be_used_takes_priorities_if_all_do() -> None:
    pool, transport = vllm_pool({"/health": (200, b""), "/v1/models": (200, MODELS), "/v1/completions": (400, b"")})
    await pool.probe(pool.replicas[0], transport)
    pool.drain("http://a/v1")
    assert not pool.priority_scheduling


async def test_a_replica_that_misses_two_probes_is_held_out_until_one_succeeds_and_is_then_asked_anew() -> None:
    clock = ManualClock()
    pool, transport = vllm_pool({"/health": Unreachable("refused"), "/v1/models": (200, MODELS), "/v1/completions": (400, b"")}, clock)
    assert not await pool.probe(pool.replicas[0], transport)
    assert pool.up
    assert not await pool.probe(pool.replicas[0], transport)
    assert not pool.up
    clock.advance(3600)
    assert not pool.up
    transport.by_path["/health"] = (200, b"")
    assert await pool.probe(pool.replicas[0], transport)
    assert pool.up
    assert pool.models() == ("smollm2",)


@pytest.mark.parametrize("trouble", [(500, b""), (503, b'{"error":"Loading model"}'), TimedOut("first_byte", 10)])
async def test_a_probe_fails_on_silence_and_on_a_5xx(trouble: tuple[int, bytes] | Exception) -> None:
    pool, transport = vllm_pool({"/health": trouble})
    assert not await pool.probe(pool.replicas[0], transport)


async def test_a_refused_key_is_no_death() -> None:
    transport = ScriptedTransport(by_path={"/v1/models": (401, b'{"error":"Unauthorized"}')})
    pool = Pool("b", BackendConfig.model_validate({"urls": "http://a/v1"}), transport)
    assert await pool.probe(pool.replicas[0], transport)
    assert len(transport.sent) == 1


@pytest.mark.parametrize(
    "listing",
    [
        b"", b"<html>", b"[]", b"null", b'{"data":null}', b'{"data":[1]}', b'{"data":[{"name":"x"}]}', b'{"data":[{"id":"m","max_model_len":"long"}]}',
        b'{"data":' + b"[" * 200_000, b'{"data":[{"id":"\xff\xfe"}]}', b'{"data":[{"id":"m","max_model_len":{"a":1}}]}',
    ],
    ids=range(11),
)  # fmt: skip
async def test_a_list_of_models_of_another_shape_harms_nothing(listing: bytes) -> None:
    pool, transport = vllm_pool({"/health": (200, b""), "/v1/models": (200, listing), "/v1/completions": (400, b"")})
    assert await pool.probe(pool.replicas[0], transport)
    assert pool.context_tokens("m") is None


async def test_llamas_context_of_one_slot_is_learned_under_any_name_it_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    transport = ScriptedTransport(by_path={"/health": (200, b""), "/v1/models": (200, LLAMA_MODELS)})
    pool = Pool("b", BackendConfig.model_validate({"provider": "local", "urls": "http://a/v1"}), transport)
    with caplog.at_level("INFO"):
        await pool.probe(pool.replicas[0], transport)
    assert pool.context_tokens("anything") == 2048
    assert not pool.priority_scheduling and caplog.messages[-1].endswith("priorities: none there")


def test_a_server_that_answers_probes_and_fails_requests_waits_out_its_back_off_after_two_quick_returns() -> None:
    replica = replica_at("http://a/v1")
    restored = []
    for _ in range(3):
        while not health.failed(replica, 0.0):
            pass
        restored.append(health.probe_succeeded(replica, 0.0))
    assert restored == [True, True, False]
    assert replica.ejected_until_s == 4.0
    health.answered(replica)
    assert health.usable(replica, 0.0)


def test_the_back_off_is_bounded() -> None:
    replica = replica_at("http://a/v1")
    for _ in range(100):
        health.eject(replica, 0.0)
    assert replica.ejected_until_s == health.BACK_OFF_S_MAX


async def test_a_dialect_without_a_free_probe_is_judged_by_its_requests_alone() -> None:
    transport = ScriptedTransport()
    pool = Pool("b", BackendConfig.model_validate({"vendor": "zhipu"}), transport)
    health.eject(pool.replicas[0], 10**9)
    assert await pool.probe(pool.replicas[0], transport)
    assert not pool.up
    assert transport.sent == []


async def test_watching_probes_until_it_is_cancelled() -> None:
    seen = asyncio.Event()

    class Counting(ScriptedTransport):
        async def open(self, exchange: Exchange) -> Answer:
            if len(self.sent) == 4:
                seen.set()
            return await super().open(exchange)

    side = Counting(by_path={"/health": (200, b""), "/v1/models": (200, MODELS), "/v1/completions": (200, COMPLETION)})
    pool, own = vllm_pool({}, probe_every_s=0.001)
    task = asyncio.create_task(pool.watch(side))
    await seen.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert pool.priority_scheduling
    assert own.sent == []


async def watched_until(pool: Pool, side: ScriptedTransport, seen: asyncio.Event) -> None:
    task = asyncio.create_task(pool.watch(side))
    done, _ = await asyncio.wait((task, asyncio.create_task(seen.wait())), return_when=asyncio.FIRST_COMPLETED, timeout=20)
    ended = task in done
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert not ended and seen.is_set()


async def test_a_probe_that_breaks_us_is_a_missed_probe_and_neither_ends_the_watch_nor_fills_the_log(caplog: pytest.LogCaptureFixture) -> None:
    later = asyncio.Event()

    class Breaking(ScriptedTransport):
        async def open(self, exchange: Exchange) -> Answer:
            if len(self.sent) == 6:
                later.set()
            self.sent.append(exchange)
            raise RecursionError("maximum recursion depth exceeded")

    pool, _ = vllm_pool({}, probe_every_s=0.001)
    await watched_until(pool, Breaking(), later)
    assert not pool.up
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_one_replica_whose_probe_breaks_us_does_not_keep_the_others_from_being_watched() -> None:
    later = asyncio.Event()

    class HalfBroken(ScriptedTransport):
        async def open(self, exchange: Exchange) -> Answer:
            if exchange.origin.host == "a":
                raise KeyError("surprise")
            if len(self.sent) == 6:
                later.set()
            return await super().open(exchange)

    made = BackendConfig.model_validate({"provider": "local", "urls": ["http://a/v1", "http://b/v1"], "probe_every_s": 0.001})
    pool = Pool("b", made, ScriptedTransport())
    await watched_until(pool, HalfBroken(by_path={"/health": (200, b""), "/v1/models": (200, LLAMA_MODELS)}), later)
    assert [health.usable(replica, 0.0) for replica in pool.replicas] == [False, True]
