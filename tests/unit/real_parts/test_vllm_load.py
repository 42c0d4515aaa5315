"""What a real vLLM says of its load is read, and what it runs at once is learned from it, from a flood of three times that."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from backends import pool as pools
from backends.config import BackendConfig
from backends.health import ask
from backends.load import read_load
from backends.pool import Pool
from backends.transport.direct import DirectTransport
from backends.transport.seam import Timeouts
from tests.real.servers import ModelServer
from tests.transport import call_of, target_at

SEQS = 16  # --max-num-seqs of deploy/vllm-cpu/serve
FLOOD = 3 * SEQS
ANSWER = call_of(b'{"model":"m","prompt":"Once upon a time","max_tokens":40,"ignore_eos":true}', endpoint="completions")


@pytest.fixture
async def learning(vllm_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pool]:
    """A pool that watches the server, twice a second."""
    monkeypatch.setattr(pools, "LOAD_EVERY_S", 0.5)
    transport = DirectTransport()
    pool = Pool("gpu", BackendConfig(provider="vllm", urls=vllm_server.base_url, slots="auto"), transport)
    watch = asyncio.create_task(pool.watch())
    yield pool
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    await transport.aclose()


async def flood(pool: Pool, model: str, room: Callable[[], int]) -> None:
    """Keep as many answers under way as there is room for, at most three times what the server runs at once."""

    async def one() -> None:
        opened = await pool.open(ANSWER, model)
        assert opened.status == 200
        while await opened.read():
            pass

    under_way: set[asyncio.Task[None]] = set()
    try:
        while True:
            under_way |= {asyncio.create_task(one()) for _ in range(min(FLOOD, room()) - len(under_way))}
            ended, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def test_the_real_servers_metrics_say_its_load(vllm_server: ModelServer) -> None:
    target = target_at(vllm_server.base_url)
    pool = Pool("gpu", BackendConfig(provider="vllm", urls=vllm_server.base_url), DirectTransport())
    exchange = pool.provider.load_exchange(target)
    assert exchange is not None
    status, metrics = await ask(pool.transport, exchange)
    load = read_load(metrics)
    assert (status, exchange.timeouts) == (200, Timeouts())
    assert load.running is not None and load.waiting is not None and load.kv_usage is not None
    assert 0 <= load.kv_usage <= 1
    await pool.transport.aclose()


@pytest.mark.timeout(240)
async def test_what_the_real_server_runs_at_once_is_learned_from_a_flood_and_kept(
    vllm_server: ModelServer, learning: Pool, capsys: pytest.CaptureFixture[str]
) -> None:
    (learner,) = learning._learners.values()
    learner.limit = FLOOD  # as if so many had fitted until now
    task = asyncio.create_task(flood(learning, vllm_server.model, lambda: learning.slots))
    seen = []
    async with asyncio.timeout(120):
        while not 0.85 * SEQS <= learning.slots <= 1.15 * SEQS:
            assert not task.done(), task.result()
            await asyncio.sleep(0.25)
    for _ in range(80):
        assert not task.done(), task.result()
        seen.append(learning.slots)
        await asyncio.sleep(0.25)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    with capsys.disabled():
        print(f"\nslots learned, four times a second: {seen}")
    assert 0.7 * SEQS <= min(seen) <= max(seen) <= 1.3 * SEQS
    assert sum(0.85 * SEQS <= one <= 1.15 * SEQS for one in seen) >= 0.8 * len(seen)
