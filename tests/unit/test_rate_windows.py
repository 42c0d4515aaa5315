"""Rate windows of several processes: the share that each applies by itself, and what becomes of it when the common store is there, slow or gone."""

import asyncio
import random
import time
from collections.abc import Sequence

import pytest

from billing.operations.directory import Principal
from gateway.errors import RateLimited
from gateway.lanes.limits import Limiter, headers, spend
from gateway.lanes.shared_windows import Answer, Call, LinkDown, SharedWindows
from gateway.lanes.windows import MINUTE_US, Bucket
from tests.clock import ManualClock

START_US = ManualClock().now_us()


def principal(requests: int | None = None, tokens: int | None = None, key_id: str = "key_1") -> Principal:
    return Principal(
        key_id=key_id,
        kind="tenant",
        tenant_id="acme",
        project=None,
        active=True,
        expires_us=None,
        requests_per_minute=requests,
        tokens_per_minute=tokens,
        terms=None,
    )


def admitted(limiter: Limiter, asking: Principal, now_us: int, times: int) -> int:
    """How many of so many requests at one instant are let in."""
    count = 0
    for _ in range(times):
        try:
            limiter.admit(asking, now_us)
        except RateLimited:
            continue
        count += 1
    return count


# ---- the share of a process, without a store ----


@pytest.mark.parametrize(("limit", "processes", "at_once"), [(100, 1, 100), (100, 4, 25), (10, 4, 2), (4, 4, 1), (3, 4, 1), (1, 4, 1), (1, 100, 1), (5, 0, 5)])
def test_a_process_lets_in_its_share_at_once_and_never_none(limit: int, processes: int, at_once: int) -> None:
    assert admitted(Limiter(share=lambda: processes), principal(limit), START_US, 200) == at_once


@pytest.mark.parametrize(("limit", "processes"), [(1, 4), (3, 4), (10, 4), (60, 7), (600, 3)])
def test_all_processes_together_keep_the_rate_however_small_the_limit(limit: int, processes: int) -> None:
    """Over twenty minutes of asking all the time: the limit every minute, and once the burst that the README states."""
    limiters = [Limiter(share=lambda: processes) for _ in range(processes)]
    total = 0
    for second in range(1200):
        total += sum(admitted(limiter, principal(limit), START_US + second * 1_000_000, 2 + limit // 60) for limiter in limiters)
    assert limit * 19 <= total <= limit * 20 + max(limit, processes)


def test_a_change_of_the_number_of_processes_refills_nothing_and_loses_nothing() -> None:
    processes = 1
    limiter, asking = Limiter(share=lambda: processes), principal(100)
    assert admitted(limiter, asking, START_US, 60) == 60  # 40 of 100 are left
    (limit,) = limiter._limits(asking, START_US)
    for limit.bucket.processes in (4, 3, 10, 1, 4):
        assert limit.bucket.remaining(START_US) == 40 // limit.bucket.processes
    processes = 4
    assert admitted(limiter, asking, START_US, 100) == 10  # a quarter of those 40
    processes = 1
    assert admitted(limiter, asking, START_US, 100) == 0
    assert admitted(limiter, asking, START_US + MINUTE_US // 10, 100) == 10  # ten in a tenth of a minute


def test_tokens_in_debt_wait_as_long_whatever_the_number_of_processes() -> None:
    bucket = Bucket(100, 0)
    bucket.spend(150, 0)
    waits = []
    for bucket.processes in (1, 4, 2, 1):
        waits.append(bucket.wait_us(0))
    assert waits == [MINUTE_US * 51 // 100, MINUTE_US * 54 // 100, MINUTE_US * 52 // 100, MINUTE_US * 51 // 100]


def test_nothing_is_taken_when_one_of_the_limits_refuses() -> None:
    limiter, both = Limiter(), principal(5, 10)
    spend(limiter.admit(both, START_US), 10, START_US)
    for _ in range(20):
        with pytest.raises(RateLimited, match="10 tokens per minute"):
            limiter.admit(both, START_US)
    later_us = START_US + MINUTE_US // 10
    assert dict(headers(limiter.admit(both, later_us), later_us))[b"x-ratelimit-remaining-requests"] == b"3"  # 5 - 1 + 0.5 - 1


def test_full_buckets_are_forgotten_and_others_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.lanes.limits.BUCKETS_MAX", 3)
    limiter = Limiter()
    limiter._forget_at = 3
    assert admitted(limiter, principal(1, key_id="used"), START_US, 1) == 1
    for number in range(50):
        limiter._limits(principal(1, key_id=f"idle{number}"), START_US)
    assert len(limiter._buckets) <= 3
    assert admitted(limiter, principal(1, key_id="used"), START_US, 1) == 0


# ---- the windows that processes share ----


class Store:
    """A link to windows in memory, which can be told to stall, to fail or to be slow. `calls` is all that it was asked, `opened` how often."""

    def __init__(self) -> None:
        self.windows: dict[str, Bucket] = {}
        self.calls: list[Call] = []
        self.flights = 0
        self.opened = 0
        self.away = ""
        self.stalled = asyncio.Event()
        self.stall = False

    async def open(self) -> None:
        self.opened += 1
        if self.away:
            raise LinkDown(self.away)

    async def run(self, calls: Sequence[Call]) -> list[Answer]:
        self.flights += 1
        if self.away:
            raise LinkDown(self.away)
        if self.stall:
            self.stalled.set()
            await asyncio.Event().wait()
        return [self._one(call) for call in calls]

    async def drop(self) -> None:
        pass

    def _one(self, call: Call) -> Answer:
        self.calls.append(call)
        windows = [self.windows.setdefault(name, Bucket(limit, START_US)) for name, limit in zip(call.names, call.limits, strict=True)]
        taken = not call.checked or all(window.ready(START_US) for window in windows)
        for window, units in zip(windows, call.units, strict=True):
            window.spend(units if taken else 0, START_US)
        return Answer(taken, START_US, tuple(window._micro for window in windows))


class House:
    """A limiter on a store, its background task running."""

    def __init__(self, store: Store, *, processes: int = 4, wait_s: float = 0.02) -> None:
        self.clock = ManualClock()
        self.shared = SharedWindows(store, self.clock, prefix="weir", wait_s=wait_s, jitter=random.Random(1))
        self.limiter = Limiter(share=lambda: processes, shared=self.shared)

    async def __aenter__(self) -> "House":
        await self.limiter.start(lambda name, work: asyncio.create_task(work, name=name))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.limiter.aclose()

    async def admit(self, asking: Principal) -> bool:
        try:
            await self.limiter.admit_shared(asking, self.clock.now_us())
        except RateLimited:
            return False
        return True

    async def until(self, up: bool) -> None:
        while self.shared.up != up:
            await asyncio.sleep(0.005)


async def test_processes_that_share_windows_let_in_the_limit_together() -> None:
    store = Store()
    async with House(store) as one, House(store) as two:
        answers = await asyncio.gather(*(house.admit(principal(10)) for _ in range(20) for house in (one, two)))
    assert sum(answers) == 10


async def test_what_gathers_during_a_round_trip_goes_with_the_next_one() -> None:
    store = Store()
    async with House(store) as house:
        before = store.flights
        await asyncio.gather(*(house.admit(principal(1000)) for _ in range(200)))
        assert store.flights - before <= 2


async def test_a_principal_without_limits_costs_no_round_trip() -> None:
    store = Store()
    async with House(store) as house:
        before = store.flights
        assert await house.admit(principal())
        assert store.flights == before


async def test_a_refusal_says_which_limit_and_how_long_and_takes_nothing() -> None:
    store = Store()
    async with House(store) as house:
        asking = principal(5, 100)
        limits = await house.limiter.admit_shared(asking, START_US)
        assert dict(headers(limits, START_US)) == {
            b"x-ratelimit-limit-requests": b"5",
            b"x-ratelimit-remaining-requests": b"4",
            b"x-ratelimit-reset-requests": b"12000ms",
            b"x-ratelimit-limit-tokens": b"100",
            b"x-ratelimit-remaining-tokens": b"100",
            b"x-ratelimit-reset-tokens": b"0ms",
        }
        spend(limits, 150, START_US)
        for _ in range(10):
            with pytest.raises(RateLimited, match="100 tokens per minute") as refused:
                await house.limiter.admit_shared(asking, START_US)
            assert refused.value.retry_after_s == pytest.approx(60 * 51 / 100)
        assert store.windows["weir:rate:rk:key_1:5"].remaining(START_US) == 4


async def test_tokens_used_reach_the_store_without_anybody_asking() -> None:
    store = Store()
    async with House(store) as house:
        limits = await house.limiter.admit_shared(principal(tokens=100), START_US)
        for _ in range(30):
            spend(limits, 1, START_US)
        while store.calls[-1].checked:
            await asyncio.sleep(0)
        assert store.windows["weir:rate:tk:key_1:100"].remaining(START_US) == 70
        assert [call.units for call in store.calls if not call.checked and "tk" in call.names[0]] == [(30,)]


async def test_a_store_that_is_away_at_the_start_leaves_each_process_its_share() -> None:
    store = Store()
    store.away = "refused"
    async with House(store) as house:
        assert not house.shared.up
        assert [await house.admit(principal(100)) for _ in range(100)].count(True) == 25
        assert store.flights == 0


async def test_a_stalled_store_holds_up_one_wait_and_no_later_request() -> None:
    store = Store()
    async with House(store, wait_s=0.3) as house:
        assert await house.admit(principal(100))
        store.stall = True
        loop = asyncio.get_running_loop()
        before_s = loop.time()
        assert await asyncio.gather(*(house.admit(principal(100)) for _ in range(10))) == [True] * 10
        assert 0.29 < loop.time() - before_s < 2, "ten waits were three seconds"
        assert not house.shared.up
        flights = store.flights
        for _ in range(5):
            pending = house.admit(principal(100))
            with pytest.raises(StopIteration):  # decided without giving up the loop once
                pending.send(None)
        assert store.flights == flights


async def test_a_process_that_was_late_itself_does_not_blame_the_store() -> None:
    class Prompt(Store):
        """Answers at once, but its answer takes some turns of the loop to be read."""

        async def run(self, calls: Sequence[Call]) -> list[Answer]:
            if calls[0].checked:
                await asyncio.sleep(0.001)
                for _ in range(5):
                    await asyncio.sleep(0)
            return await super().run(calls)

    async with House(Prompt()) as house:
        asking = asyncio.create_task(house.admit(principal(100)))
        for _ in range(3):
            await asyncio.sleep(0)  # the question is on its way
        time.sleep(0.1)  # noqa: ASYNC251 - the loop is held up for longer than the wait
        assert await asking
        assert house.shared.up


async def test_a_process_goes_on_from_what_it_last_heard_with_its_share() -> None:
    store = Store()
    async with House(store) as one, House(store) as two:
        for _ in range(40):
            assert await one.admit(principal(100))
        assert await two.admit(principal(100))
        store.away = "gone"
        assert [await one.admit(principal(100)) for _ in range(100)].count(True) == 60 // 4  # 60 were left when it last heard
        assert [await two.admit(principal(100)) for _ in range(100)].count(True) == 59 // 4


async def test_what_was_let_in_meanwhile_is_reported_when_the_store_is_back_and_once() -> None:
    store = Store()
    async with House(store) as house:
        assert await house.admit(principal(100))
        store.away = "gone"
        assert [await house.admit(principal(100)) for _ in range(10)].count(True) == 10
        store.away = ""
        await house.until(up=True)
        limits = await house.limiter.admit_shared(principal(100), START_US)
        assert store.windows["weir:rate:rk:key_1:100"].remaining(START_US) == 100 - 12
        assert dict(headers(limits, START_US))[b"x-ratelimit-remaining-requests"] == b"88"  # of all processes, no more of this one's share


async def test_what_has_refilled_meanwhile_is_not_reported() -> None:
    store = Store()
    async with House(store) as house:
        store.away = "gone"
        assert [await house.admit(principal(100)) for _ in range(10)].count(True) == 10
        house.clock.advance(3600)
        store.away = ""
        await house.until(up=True)
        assert await house.admit(principal(100))
        assert store.windows["weir:rate:rk:key_1:100"].remaining(START_US) == 99


async def test_a_client_that_left_before_the_question_was_sent_takes_nothing() -> None:
    store = Store()
    async with House(store) as house:
        gone = asyncio.create_task(house.admit(principal(100)))
        await asyncio.sleep(0)  # the question is put; the background task has not run yet
        gone.cancel()
        assert await house.admit(principal(100))
        assert store.windows["weir:rate:rk:key_1:100"].remaining(START_US) == 99


async def test_nobody_waits_for_a_background_task_that_has_ended() -> None:
    store = Store()
    async with House(store, wait_s=10) as house:
        store.stall = True
        waiting = asyncio.create_task(house.admit(principal(100)))
        await store.stalled.wait()
        queued = asyncio.create_task(house.admit(principal(100)))
        await asyncio.sleep(0)
        assert house.limiter._task is not None
        house.limiter._task.cancel()
        async with asyncio.timeout(5):
            assert all(await asyncio.gather(waiting, queued))
        store.stall = False


async def test_a_lost_store_is_said_once_and_asked_ever_more_seldom(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    store.away = "refused"
    async with House(store) as house:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        while store.opened < 4:
            await asyncio.sleep(0.005)
        assert loop.time() - started_s >= (0.1 + 0.2 + 0.4) / 2  # at most half of each pause is left to chance
        assert house.shared.errors == store.opened
        store.away = ""
        await house.until(up=True)
    assert [record.message for record in caplog.records if record.name == "weir.windows"] == [
        "rate windows are not shared now, each process applies its share of every limit: refused",
        "rate windows are shared between the processes again",
    ]


async def test_what_is_owed_at_the_end_is_still_reported() -> None:
    store = Store()
    async with House(store) as house:
        limits = await house.limiter.admit_shared(principal(tokens=100), START_US)
        assert house.limiter._task is not None
        house.limiter._task.cancel()
        spend(limits, 30, START_US)
    assert store.windows["weir:rate:tk:key_1:100"].remaining(START_US) == 70
