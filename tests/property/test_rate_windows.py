"""One model of a rate window, in exact fractions, and both implementations held to it: the bucket in memory and the script in a real Valkey."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.lanes.redis_link import RedisLink
from gateway.lanes.shared_windows import Answer, Call
from gateway.lanes.windows import MINUTE_US, Bucket
from tests.real.valkey import Valkey, valkey_server

# From one a minute to one a microsecond: with the last, a window in a real server refills while a test runs.
LIMITS = st.sampled_from([1, 2, 7, 60, 999, 60_000_000, 149_999_999])


@dataclass
class Model:
    """A window: what is left of `limit` units, refilled evenly within a minute."""

    limit: int
    at_us: int = 0
    left: Fraction = field(default=Fraction(-1))

    def at(self, now_us: int) -> Fraction:
        if self.left == -1 and self.at_us == 0:
            self.left, self.at_us = Fraction(self.limit), now_us
        if now_us > self.at_us:
            self.left = min(Fraction(self.limit), self.left + Fraction(self.limit * (now_us - self.at_us), MINUTE_US))
            self.at_us = now_us
        return self.left

    def take(self, units: int) -> None:
        self.left -= units


Step = tuple[bool, tuple[int, ...], tuple[int, ...]]  # checked, indices of windows, units for each
STEPS = st.lists(
    st.tuples(
        st.booleans(),
        st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True).map(tuple),
        st.lists(st.integers(0, 3) | st.sampled_from([0, 1, 1, 1_000, 10_000_000]), min_size=4, max_size=4).map(tuple),
    ),
    min_size=1,
    max_size=12,
)


def expected(models: list[Model], step: Step, now_us: int) -> tuple[bool, list[Fraction]]:
    """All or nothing: a window without a whole unit refuses, unless the units were used already."""
    checked, chosen, units = step
    taken = not checked or all(models[index].at(now_us) >= 1 for index in chosen)
    for index, count in zip(chosen, units, strict=False):
        models[index].at(now_us)
        if taken:
            models[index].take(count)
    return taken, [models[index].left for index in chosen]


def in_memory(buckets: list[Bucket], step: Step, now_us: int) -> bool:
    checked, chosen, units = step
    ready = all(buckets[index].ready(now_us) for index in chosen)
    if checked and not ready:
        return False
    for index, count in zip(chosen, units, strict=False):
        buckets[index].spend(count, now_us)
    return True


def agree(model: Model, bucket: Bucket, now_us: int) -> None:
    """Hold every figure that a client is told to the model."""
    left = model.at(now_us)
    assert bucket.remaining(now_us) == max(0, left // 1)
    assert bucket.ready(now_us) == (left >= 1)
    assert bucket.wait_us(now_us) == max(0, -((left - 1) * MINUTE_US // model.limit))
    assert bucket.full_in_us(now_us) == -((left - model.limit) * MINUTE_US // model.limit)


@given(st.lists(LIMITS, min_size=4, max_size=4), STEPS, st.lists(st.integers(-5_000_000, 90_000_000), min_size=12, max_size=12))
def test_the_bucket_in_memory_is_the_model(limits: list[int], steps: list[Step], pauses: list[int]) -> None:
    now_us = 1_800_000_000_000_000
    models, buckets = [Model(limit) for limit in limits], [Bucket(limit, now_us) for limit in limits]
    for model in models:
        model.at(now_us)
    for step, pause in zip(steps, pauses, strict=False):
        now_us += pause
        taken, _ = expected(models, step, now_us)
        assert in_memory(buckets, step, now_us) == taken
        for model, bucket in zip(models, buckets, strict=True):
            agree(model, bucket, now_us)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with valkey_server(tmp_path_factory.mktemp("valkey")) as running:
        yield running


numbers = iter(range(10**9))


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=st.lists(LIMITS, min_size=4, max_size=4), steps=STEPS)
def test_the_script_in_a_real_valkey_is_the_same_model(server: Valkey, limits: list[int], steps: list[Step]) -> None:
    names = [f"t:{next(numbers)}" for _ in limits]
    models, buckets = [Model(limit) for limit in limits], [Bucket(limit, 0) for limit in limits]

    async def ask(step: Step) -> list[Answer]:
        checked, chosen, units = step
        return await link.run([Call(checked, tuple(names[i] for i in chosen), tuple(limits[i] for i in chosen), tuple(units[: len(chosen)]))])

    async def drive() -> None:
        await link.open()
        for step in steps:
            (answer,) = await ask(step)
            taken, levels = expected(models, step, answer.now_us)
            assert answer.taken == taken
            assert [Fraction(micro, MINUTE_US) for micro in answer.micros] == levels
            for index, micro in zip(step[1], answer.micros, strict=True):
                buckets[index].adopt(micro, answer.now_us)
                agree(models[index], buckets[index], answer.now_us)
        await link.drop()

    link = RedisLink(server.url)
    asyncio.run(drive())


@pytest.mark.slow
def test_a_window_in_valkey_expires_when_it_is_full_again(server: Valkey) -> None:
    async def drive() -> None:
        await link.open()
        await link.run([Call(True, ("fast", "slow"), (60_000_000, 60), (1, 1))])
        await link.run([Call(False, ("slow",), (60,), (600,))])
        await link.drop()

    link = RedisLink(server.url)
    asyncio.run(drive())
    with redis.Redis.from_url(server.url) as client:
        assert 0 < client.pttl("slow") <= 601_002
        assert client.pttl("fast") <= 2


@pytest.mark.slow
def test_a_server_whose_clock_steps_back_refills_nothing_until_it_has_caught_up(server: Valkey) -> None:
    """As after a failover to a host whose clock is behind."""

    async def drive() -> Answer:
        await link.open()
        (before,) = await link.run([Call(False, ("other",), (60,), (1,))])
        later_us = before.now_us + 30_000_000
        with redis.Redis.from_url(server.url) as client:
            client.set("back", f"{5 * MINUTE_US} {later_us}")
            (answer,) = await link.run([Call(True, ("back",), (60,), (1,))])
            assert client.get("back") == f"{4 * MINUTE_US} {later_us}".encode()
            assert 85_000 < client.pttl("back") < 87_000  # full 56 s after it has caught up
        await link.drop()
        return answer

    link = RedisLink(server.url)
    assert asyncio.run(drive()).micros == (4 * MINUTE_US,)
