"""How many requests a backend should have at once: as configured, for the replicas that may be used; or as its engines are seen to run."""

import asyncio
import logging

import pytest

from backends import health, pool
from backends.errors import Unreachable
from backends.load import START
from backends.pool import Pool
from tests.clock import ManualClock
from tests.transport import ScriptedTransport
from tests.unit.test_pool import pool_of


def metrics(running: int, waiting: int) -> tuple[int, bytes]:
    return 200, b'vllm:num_requests_running{engine="0"} %d.0\nvllm:num_requests_waiting{engine="0"} %d.0\n' % (running, waiting)


async def looks(learning: Pool, transport: ScriptedTransport, count: int) -> None:
    for replica in learning.replicas:
        for _ in range(count):
            await learning._look(replica, transport)


def test_slots_follow_the_replicas_that_may_be_used() -> None:
    clock = ManualClock()
    both = pool_of(ScriptedTransport(), "http://a/v1", "http://b/v1", clock=clock, slots=9)
    assert both.slots == 9
    health.hold_out(both.replicas[0])
    assert both.slots == 5
    both.drain("http://b/v1")
    assert both.slots == 9, "none is left: what is let through will find that out"


def test_what_runs_at_a_replica_that_is_out_is_stranded_there() -> None:
    both = pool_of(ScriptedTransport(), "http://a/v1", "http://b/v1", slots=9)
    both.replicas[0].inflight, both.replicas[1].inflight = 3, 4
    assert both.stranded == 0
    health.hold_out(both.replicas[0])
    assert (both.slots, both.stranded) == (5, 3)
    both.drain("http://b/v1")
    assert (both.slots, both.stranded) == (9, 0), "slots counts all of them"


def test_slots_follow_the_weights_of_the_replicas() -> None:
    urls = [{"url": "http://a/v1", "weight": 3}, {"url": "http://b/v1", "weight": 1}]
    uneven = pool_of(ScriptedTransport(), *urls, slots=8)  # type: ignore[arg-type]
    uneven.drain("http://a/v1")
    assert uneven.slots == 2


async def test_slots_are_learned_from_each_replicas_own_metrics() -> None:
    transport = ScriptedTransport(by_path={"/metrics": metrics(5, 3)})
    learning = pool_of(transport, "http://a/v1", "http://b/v1", provider="vllm", slots="auto")
    assert learning.slots == 2 * START
    await looks(learning, transport, 3)
    assert learning.slots == 10
    learning.drain("http://a/v1")
    assert learning.slots == 5
    assert {exchange.path for exchange in transport.sent} == {"/metrics"}


@pytest.mark.parametrize("answer", [(404, b"no"), (200, b"<html>"), Unreachable("refused"), ValueError("odd")])
async def test_an_engine_that_does_not_say_keeps_its_slots_and_is_named_once(answer: tuple[int, bytes] | Exception, caplog: pytest.LogCaptureFixture) -> None:
    transport = ScriptedTransport(by_path={"/metrics": answer})
    learning = pool_of(transport, provider="vllm", slots="auto")
    said = "does not say how loaded it is"
    with caplog.at_level(logging.WARNING):
        await looks(learning, transport, pool.MUTE_LOOKS - 1)
        assert said not in caplog.text, "a busy server may be late with its metrics"
        await looks(learning, transport, 5)
    assert learning.slots == START
    assert caplog.text.count(said) == 1


async def test_the_log_says_what_was_learned_first_and_when_it_changed_much_and_not_each_trial(caplog: pytest.LogCaptureFixture) -> None:
    transport = ScriptedTransport()
    learning = pool_of(transport, provider="vllm", slots="auto")

    async def engine_runs(capacity: int, count: int) -> list[str]:
        caplog.clear()
        for _ in range(count):
            transport.by_path["/metrics"] = metrics(min(capacity, learning.slots), max(0, learning.slots - capacity))
            await looks(learning, transport, 1)
        return [record.message for record in caplog.records]

    with caplog.at_level(logging.INFO):
        (*_, last) = await engine_runs(40, 30)
        assert last == "backend b: http://a/v1 is given 40 requests at once (40 run in it, 14 wait)"
        assert await engine_runs(40, 100) == []
        assert len(await engine_runs(10, 100)) == 1


async def test_the_watch_looks_every_second_and_ends_with_its_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LOAD_EVERY_S", 0.001)
    models = (200, b'{"data":[]}')
    transport = ScriptedTransport(by_path={"/metrics": metrics(7, 2), "/health": (200, b""), "/v1/models": models})
    learning = pool_of(transport, provider="vllm", slots="auto", probe_every_s=60)
    task = asyncio.create_task(learning.watch(transport))
    async with asyncio.timeout(5):
        while learning.slots != 7:
            await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0)
    assert not [one for one in asyncio.all_tasks() if "_follow_load" in repr(one)]
