"""Lanes: standings, limits, and the gate's waiting, with time in our hand."""

import asyncio
import random

import pytest

from gateway.errors import SlowDown
from gateway.lanes.gate import Gate
from gateway.lanes.queue import FairQueue, Ticket
from gateway.lanes.standing import Lane, Standing, standing
from gateway.lanes.windows import MINUTE_US, Bucket


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (100, Standing.FAST),
        (21, Standing.FAST),
        (20, Standing.WARN),
        (11, Standing.WARN),
        (10, Standing.GLIDE),
        (1, Standing.GLIDE),
        (0, Standing.SLOW),
        (-5, Standing.SLOW),
    ],
)
def test_standing_follows_what_is_left(free: int, expected: Standing) -> None:
    assert standing(free, 100) is expected


def test_a_plan_that_refuses_past_its_credits_is_capped() -> None:
    assert standing(0, 100, capped=True) is Standing.CAPPED
    assert standing(1, 100, capped=True) is Standing.GLIDE


def test_a_bucket_gives_its_limit_at_once_and_then_refills_over_the_minute() -> None:
    bucket = Bucket(3, 0)
    assert [bucket.take(0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait_us(0) == MINUTE_US // 3
    assert not bucket.take(MINUTE_US // 3 - 1)
    assert bucket.take(MINUTE_US // 3)
    assert not bucket.take(MINUTE_US // 3)


def test_a_bucket_refills_nothing_when_the_clock_steps_back() -> None:
    bucket = Bucket(1, 10 * MINUTE_US)
    assert bucket.take(10 * MINUTE_US)
    assert not bucket.take(5 * MINUTE_US)
    assert not bucket.take(10 * MINUTE_US)
    assert bucket.take(11 * MINUTE_US)


def test_tokens_spent_past_the_limit_are_waited_out() -> None:
    bucket = Bucket(100, 0)
    bucket.spend(250, 0)
    assert bucket.remaining(0) == 0
    assert bucket.remaining(MINUTE_US) == 0
    assert bucket.remaining(2 * MINUTE_US) == 50


def make_gate(slots: int = 1, depth: int = 10, wait_s: float = 60.0, now: list[int] | None = None) -> Gate:
    moment = now or [0]
    return Gate(FairQueue(slots, depths=dict.fromkeys(Lane, depth)), lambda: moment[0], wait_s_max=dict.fromkeys(Lane, wait_s), jitter=random.Random(1))


def ticket(tenant: str, lane: Lane = Lane.FAST) -> Ticket:
    return Ticket(tenant=tenant, lane=lane, cost=10)


async def waiting(gate: Gate, mine: Ticket) -> "asyncio.Task[bool]":
    assert not gate.enter_now(mine)
    task = asyncio.create_task(gate.wait(mine))
    await asyncio.sleep(0)
    return task


async def test_a_fast_request_passes_every_slow_one_that_waits() -> None:
    gate = make_gate()
    first = ticket("first")
    assert gate.enter_now(first)
    slow, fast = ticket("slow", Lane.SLOW), ticket("fast")
    slow_task, fast_task = await waiting(gate, slow), await waiting(gate, fast)
    gate.leave(first, 10)
    await fast_task
    assert not slow_task.done()
    gate.leave(fast, 10)
    await slow_task


async def test_429_when_the_slow_lane_is_full() -> None:
    gate = make_gate(depth=1)
    assert gate.enter_now(ticket("first"))
    queued = await waiting(gate, ticket("a", Lane.SLOW))
    with pytest.raises(SlowDown) as refused:
        gate.enter_now(ticket("b", Lane.SLOW))
    assert refused.value.status == 429
    assert refused.value.retry_after_s is not None and 10 <= refused.value.retry_after_s <= 20
    queued.cancel()


async def test_429_when_the_wait_is_over_and_the_place_is_free_again() -> None:
    gate = make_gate(depth=1, wait_s=0.0)
    first = ticket("first")
    assert gate.enter_now(first)
    late = ticket("late")
    assert not gate.enter_now(late)
    with pytest.raises(SlowDown, match="did not come"):
        await gate.wait(late)
    assert gate.queue.waiting(Lane.FAST) == 0
    gate.leave(first, 10)
    assert gate.queue.running == 0


async def test_a_client_that_leaves_gives_up_its_place() -> None:
    gate = make_gate()
    first = ticket("first")
    assert gate.enter_now(first)
    gone, stays = ticket("gone"), ticket("stays")
    gone_task, stays_task = await waiting(gate, gone), await waiting(gate, stays)
    gone_task.cancel()
    await asyncio.gather(gone_task, return_exceptions=True)
    gate.leave(first, 10)
    await stays_task
    gate.leave(stays, 10)
    assert gate.queue.running == 0


async def test_a_slot_granted_to_a_client_that_leaves_at_that_moment_goes_to_the_next() -> None:
    gate = make_gate()
    first = ticket("first")
    assert gate.enter_now(first)
    gone, stays = ticket("gone"), ticket("stays")
    gone_task, stays_task = await waiting(gate, gone), await waiting(gate, stays)
    gate.leave(first, 10)  # grants to `gone`, whose task has not run yet
    gone_task.cancel()
    await asyncio.gather(gone_task, return_exceptions=True)
    await stays_task
    gate.leave(stays, 10)
    assert gate.queue.running == 0


async def test_a_tenant_at_its_own_limit_waits_beside_a_free_slot_and_holds_up_nobody() -> None:
    gate = make_gate(slots=3)
    first = Ticket(tenant="a", lane=Lane.FAST, cost=1, limit=1)
    second = Ticket(tenant="a", lane=Lane.FAST, cost=1, limit=1)
    assert gate.enter_now(first)
    second_task = await waiting(gate, second)
    assert gate.enter_now(ticket("b")) and gate.enter_now(ticket("c", Lane.SLOW))
    gate.leave(first, 1)
    await second_task


async def test_a_tenant_that_waits_for_its_own_seats_keeps_nobody_else_waiting() -> None:
    gate = make_gate(slots=16, depth=100)

    def seated() -> Ticket:
        return Ticket(tenant="batch", lane=Lane.FAST, cost=10, limit=2)

    batch = [seated() for _ in range(102)]
    assert [gate.enter_now(one) for one in batch].count(True) == 2
    assert gate.queue.waiting(Lane.FAST) == 100, "the queue is at its depth"
    assert gate.enter_now(ticket("other")), "with fourteen slots free"
    assert gate.enter_if_free(ticket("from another backend"))
    assert not gate.enter_if_free(Ticket(tenant="batch", lane=Lane.FAST, cost=10)), "before its tenant's own, which came first"
    with pytest.raises(SlowDown):
        gate.enter_now(seated())
    gate.leave(batch[0], 10)
    assert [one.granted for one in batch[2:4]] == [True, False]
