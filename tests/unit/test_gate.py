"""The gate's waiting: woken for a look around, called back, held back, refused with an instant; and left in good order however a wait ends."""

import asyncio
import random

import pytest

from gateway.errors import SlowDown
from gateway.lanes.gate import Gate
from gateway.lanes.queue import FairQueue, Ticket
from gateway.lanes.standing import Lane


class Hand:
    """A clock in microseconds that a test moves."""

    def __init__(self) -> None:
        self.now_us = 1

    def __call__(self) -> int:
        return self.now_us


def make_gate(slots: int = 1, depth: int = 10, wait_s: float = 60.0, hand: Hand | None = None) -> Gate:
    return Gate(FairQueue(slots, depths=dict.fromkeys(Lane, depth)), hand or Hand(), wait_s_max=dict.fromkeys(Lane, wait_s), jitter=random.Random(1))


def ticket(tenant: str = "t", lane: Lane = Lane.SLOW) -> Ticket:
    return Ticket(tenant=tenant, lane=lane, cost=10)


async def waiting(gate: Gate, mine: Ticket) -> "asyncio.Task[bool]":
    assert not gate.enter_now(mine)
    task = asyncio.create_task(gate.wait(mine))
    await asyncio.sleep(0)
    return task


async def test_a_request_that_looks_around_keeps_its_place() -> None:
    gate = make_gate()
    first, second, third = ticket("a"), ticket("b"), ticket("c")
    assert gate.enter_now(first)
    assert not gate.enter_now(second)
    later = await waiting(gate, third)
    assert await gate.wait(second, 0.0) is False
    assert gate.queue.waiting(Lane.SLOW) == 2
    gate.leave(first, 10)  # while nobody awaits the second
    assert await gate.wait(second, 60.0) is True
    gate.leave(second, 10)
    assert await later is True


async def test_a_tenants_waiting_requests_are_called_back_and_no_others() -> None:
    gate = make_gate()
    assert gate.enter_now(ticket("busy"))
    mine, other, fast = ticket("mine"), ticket("other"), ticket("mine", Lane.FAST)
    mine_task, other_task, fast_task = await waiting(gate, mine), await waiting(gate, other), await waiting(gate, fast)
    gate.recall("mine")
    assert await mine_task is False
    assert mine.recalled
    gate.abandon(mine)
    assert not other_task.done() and not fast_task.done()
    assert gate.queue.waiting(Lane.SLOW) == 1
    for task in (other_task, fast_task):
        task.cancel()
    await asyncio.gather(other_task, fast_task, return_exceptions=True)
    assert gate.queue.waiting(Lane.SLOW) == gate.queue.waiting(Lane.FAST) == 0


async def test_a_slot_that_came_with_the_recall_is_kept_or_given_back_once() -> None:
    gate = make_gate()
    first, mine = ticket("first"), ticket("mine")
    assert gate.enter_now(first)
    task = await waiting(gate, mine)
    gate.recall("mine")
    gate.leave(first, 10)  # grants it in the same turn of the loop
    assert await task is True, "it has a slot, whatever else it heard"
    gate.leave(mine, 10)
    gate.leave(mine, 10)
    gate.abandon(mine)
    assert gate.queue.running == 0


async def test_who_is_stirred_keeps_its_place_and_is_not_refused() -> None:
    gate = make_gate()
    running, mine = ticket("a"), ticket("b")
    assert gate.enter_now(running)
    task = await waiting(gate, mine)
    gate.stir()
    assert await task is False
    assert (mine.recalled, gate.queue.waiting(Lane.SLOW)) == (False, 1)
    gate.leave(running, 10)
    assert await gate.wait(mine) is True


async def test_a_tenant_that_fills_a_lane_makes_room_for_another_with_its_newest() -> None:
    gate = make_gate(depth=4)
    running = ticket("running")
    assert gate.enter_now(running)
    flood = [ticket("flood") for _ in range(4)]
    tasks = [await waiting(gate, one) for one in flood]
    with pytest.raises(SlowDown, match="full"):
        gate.enter_now(ticket("flood"))
    late = await waiting(gate, ticket("late"))
    with pytest.raises(SlowDown, match="this tenant has most there"):
        await tasks[3]
    again = await waiting(gate, ticket("late"))
    with pytest.raises(SlowDown, match="this tenant has most there"):
        await tasks[2]
    with pytest.raises(SlowDown, match="full"):  # both have as many now
        gate.enter_now(ticket("late"))
    gate.abandon(flood[3])  # harmless: it is out already
    assert gate.queue.waiting(Lane.SLOW) == 4
    for task in (*tasks, late, again):
        task.cancel()
    await asyncio.gather(*tasks, late, again, return_exceptions=True)
    assert gate.queue.waiting(Lane.SLOW) == 0


async def test_one_that_makes_room_while_it_looks_around_is_refused_when_it_comes_back() -> None:
    gate = make_gate(depth=2)
    assert gate.enter_now(ticket("running"))
    flood = [ticket("flood"), ticket("flood")]
    for one in flood:
        assert not gate.enter_now(one)
    assert await gate.wait(flood[1], 0.0) is False
    assert not gate.enter_now(ticket("late"))
    with pytest.raises(SlowDown, match="this tenant has most there"):
        await gate.wait(flood[1])


async def test_who_is_held_back_counts_for_the_lanes_depth_and_is_called_back_too() -> None:
    gate = make_gate(depth=1)
    held = ticket("held")
    task = asyncio.create_task(gate.pause(held, 60.0))
    await asyncio.sleep(0)
    assert gate.paced == 1
    with pytest.raises(SlowDown, match="full"):
        await gate.pause(ticket("next"), 60.0)
    gate.recall("held")
    await task
    assert held.recalled and gate.paced == 0
    gate.abandon(held)  # it never entered
    assert gate.queue.waiting(Lane.SLOW) == gate.queue.running == 0


async def test_more_slots_wake_who_waits_and_fewer_let_those_that_run_end() -> None:
    gate = make_gate(slots=1)
    first, second = ticket("a", Lane.FAST), ticket("b", Lane.FAST)
    assert gate.enter_now(first)
    task = await waiting(gate, second)
    gate.resize(2)
    assert await task is True
    gate.resize(1)
    third = await waiting(gate, ticket("c", Lane.FAST))
    gate.leave(first, 10)
    await asyncio.sleep(0)
    assert not third.done(), "one still runs, and that is all there is room for"
    gate.leave(second, 10)
    assert await third is True


async def test_retry_after_says_when_by_the_pace_of_the_lane() -> None:
    hand = Hand()
    gate = make_gate(depth=30, hand=hand)
    running = ticket("t0")
    assert gate.enter_now(running)
    waits = [ticket(f"t{number}") for number in range(1, 31)]
    tasks = [await waiting(gate, one) for one in waits]
    for one in waits[:20]:  # a slot every 8 s
        hand.now_us += 8_000_000
        gate.leave(running, 10)
        running = one
    refilled = [ticket(f"u{number}") for number in range(20)]
    tasks += [await waiting(gate, one) for one in refilled]
    with pytest.raises(SlowDown) as refused:
        gate.enter_now(ticket("late"))
    retry_s = refused.value.retry_after_s
    assert retry_s is not None and 100 <= retry_s <= 480, "30 wait, and a slot comes about every 8 s: not before some minutes"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_place_is_taken_elsewhere_only_where_nobody_need_wait() -> None:
    gate = make_gate(slots=2, depth=0)
    first, second = ticket("a", Lane.FAST), ticket("b", Lane.FAST)
    assert gate.enter_if_free(first) and gate.enter_if_free(second)
    assert not gate.enter_if_free(ticket("c", Lane.FAST))
    assert gate.queue.waiting(Lane.FAST) == 0


@pytest.mark.parametrize("seed", range(20))
async def test_whoever_enters_leaves_also_when_cancelled_at_any_await(seed: int) -> None:
    """Requests that wait, look around, are held back, called back and cancelled at any moment: at the end all slots are free and nobody waits."""
    dice = random.Random(seed)
    gate = make_gate(slots=3, depth=1000)
    most = 0

    async def request(tenant: str, lane: Lane) -> None:
        nonlocal most
        mine = ticket(tenant, lane)
        try:
            if dice.random() < 0.3 and lane is Lane.SLOW:
                await gate.pause(mine, dice.choice([0.0, 0.001, 60.0]))
            if not gate.enter_now(mine):
                while not await gate.wait(mine, dice.choice([None, 0.0, 0.001])):
                    if mine.recalled:
                        gate.abandon(mine)
                        return
            most = max(most, gate.queue.running)
            await asyncio.sleep(dice.choice([0, 0, 0.001]))
            gate.leave(mine, 10)
        except BaseException:  # cancelled wherever it was, as a client that leaves; who entered leaves
            gate.abandon(mine)
            raise

    tasks: list[asyncio.Task[None]] = []
    for _ in range(300):
        tasks.append(asyncio.create_task(request(dice.choice("abc"), dice.choice(list(Lane)))))
        if dice.random() < 0.4:
            dice.choice(tasks).cancel()
        if dice.random() < 0.2:
            gate.recall(dice.choice("abc"))
        if dice.random() < 0.1:
            gate.stir()
        if dice.random() < 0.5:
            await asyncio.sleep(0)
    for task in tasks:
        if dice.random() < 0.3:
            task.cancel()
    for tenant in "abc":  # those held back for a minute
        gate.recall(tenant)
    async with asyncio.timeout(20):
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0.001)
            for tenant in "abc":
                gate.recall(tenant)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert most <= 3
    assert gate.queue.running == gate.paced == 0
    assert [gate.queue.waiting(lane) for lane in Lane] == [0, 0]
    assert not gate._waiters and not gate._slow


async def test_requests_at_a_server_that_is_out_take_no_slot_of_those_that_are_left() -> None:
    stranded = [0]
    queue = FairQueue(16, depths=dict.fromkeys(Lane, 100))
    gate = Gate(queue, Hand(), wait_s_max=dict.fromkeys(Lane, 60.0), jitter=random.Random(1), stranded=lambda: stranded[0])
    running = [ticket(f"t{number}", Lane.FAST) for number in range(16)]
    assert all(gate.enter_now(one) for one in running)
    waiters = [ticket(f"w{number}", Lane.FAST) for number in range(20)]
    assert not any(gate.enter_now(one) for one in waiters)
    stranded[0] = 8  # half of the servers hang, with what runs there
    gate.resize(8)
    for one in running[:8]:  # those of the other half end
        gate.leave(one, 10)
    assert sum(one.granted for one in waiters) == 8
    for one in running[8:]:  # and now the stranded, as their time is over: the servers that are left have as many as they may have
        stranded[0] -= 1
        gate.leave(one, 10)
    assert (sum(one.granted for one in waiters), queue.running, queue.slots) == (8, 8, 8)


async def test_slow_requests_at_a_server_that_is_out_do_not_stall_the_slow_lane() -> None:
    queue = FairQueue(16, depths=dict.fromkeys(Lane, 100))
    stranded = [0]
    gate = Gate(queue, Hand(), wait_s_max=dict.fromkeys(Lane, 60.0), jitter=random.Random(1), stranded=lambda: stranded[0])
    running = [ticket(f"t{number}") for number in range(14)]
    assert all(gate.enter_now(one) for one in running)
    stranded[0] = 7
    gate.resize(8)
    gate.leave(running[0], 10)
    assert gate.enter_now(ticket("next"))
    assert not gate.enter_now(ticket("one more")), "a slot is kept for the fast lane"
    assert gate.enter_now(ticket("fast", Lane.FAST))
