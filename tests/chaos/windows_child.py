"""One process of several that share rate windows: told by lines on its standard input, it asks and says how many were let in.

burst N     ask N times at once; answers the number let in
flood S     ask all the time for S seconds; answers the number let in and the longest wait in ms
up          wait until the windows are shared; answers "up"
"""

import asyncio
import random
import sys

from billing.operations.directory import Principal
from gateway.clock import SystemClock
from gateway.errors import RateLimited
from gateway.lanes.limits import Limiter
from gateway.lanes.redis_link import RedisLink
from gateway.lanes.shared_windows import SharedWindows

CLOCK = SystemClock()


async def ask(limiter: Limiter, principal: Principal) -> tuple[bool, float]:
    """Tell whether a request was let in, and how long that took in seconds."""
    before_s = CLOCK.monotonic_s()
    try:
        await limiter.admit_shared(principal, CLOCK.now_us())
    except RateLimited:
        return False, CLOCK.monotonic_s() - before_s
    return True, CLOCK.monotonic_s() - before_s


async def flood(limiter: Limiter, principal: Principal, seconds: float) -> str:
    """Ask without a pause, ten at once."""
    count, longest_s, by_s = 0, 0.0, CLOCK.monotonic_s() + seconds
    while CLOCK.monotonic_s() < by_s:
        for admitted, took_s in await asyncio.gather(*(ask(limiter, principal) for _ in range(10))):
            count, longest_s = count + admitted, max(longest_s, took_s)
        await asyncio.sleep(0.001)
    return f"{count} {longest_s * 1000:.0f}"


async def main(url: str, limit: int, processes: int, wait_ms: int) -> None:
    """Follow orders until the input ends."""
    shared = SharedWindows(RedisLink(url), CLOCK, prefix="weir", wait_s=wait_ms / 1000, jitter=random.Random())
    limiter = Limiter(share=lambda: processes, shared=shared)
    await limiter.start(lambda name, work: asyncio.create_task(work, name=name))
    principal = Principal(
        key_id="key_1",
        kind="tenant",
        tenant_id="acme",
        project=None,
        active=True,
        expires_us=None,
        requests_per_minute=limit,
        tokens_per_minute=10**9,
        terms=None,
    )
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        order, _, argument = line.strip().partition(" ")
        if order == "burst":
            answers = await asyncio.gather(*(ask(limiter, principal) for _ in range(int(argument))))
            print(sum(admitted for admitted, _ in answers), flush=True)
        elif order == "flood":
            print(await flood(limiter, principal, float(argument)), flush=True)
        else:
            while not shared.up:
                await asyncio.sleep(0.01)
            print("up", flush=True)
    await limiter.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *(int(argument) for argument in sys.argv[2:5])))
