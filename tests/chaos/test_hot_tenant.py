"""One tenant, four processes, two thousand requests at once, credits for a hundred: not a nano-credit too much.

The model `exact` costs just what is held for it when the answer is as long as it may be, so a hundred requests use the credits up. All
are answered; those past the credits in the slow lane, from what is free when they end.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.crowd import Answer, ask
from tests.chaos.scene import OUTPUT_TOKENS_MAX, PRICES, Scene, open_scene
from tests.real.witness import Witness

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.postgres, pytest.mark.timeout(300)]

REQUESTS, WORTH = 2000, 100
TOKENS = 10
PRICE_NCR = TOKENS * PRICES["exact"][1]
CREDITS = "3"
LONG = 15  # tokens of an answer whose length nobody limited


async def all_at_once(scene: Scene, key: str, count: int, *, words: str, **members: Any) -> list[Answer]:
    asked = [ask(scene.ports[n % len(scene.ports)], key, words, model="exact", limit_s=200, **members) for n in range(count)]
    answers = await asyncio.gather(*asked)
    assert {one.status for one in answers} == {200}
    assert all(one.whole for one in answers)
    return list(answers)


def spent(scene: Scene, tenant: str) -> tuple[int, int, int]:
    """What grants paid, what is owed, and what is left, in ncr."""
    (account,) = scene.rows("SELECT consumed_ncr, debt_ncr FROM credit_account WHERE tenant_id = :tenant", tenant=tenant)
    left = scene.rows("SELECT sum(remaining_ncr) FROM grant_balance JOIN credit_grant ON id = grant_id WHERE tenant_id = :tenant", tenant=tenant)[0][0]
    return account.consumed_ncr, account.debt_ncr, int(left)


@pytest.mark.parametrize("workers", [True, False], ids=["workers", "gateways"])
async def test_credits_for_a_hundred_of_two_thousand_are_never_overshot(tmp_path: Path, upstream: Witness, own_pg_url: str, workers: bool) -> None:
    assert int(CREDITS) * 10**9 == WORTH * PRICE_NCR
    with open_scene(tmp_path, upstream, own_pg_url, credits=CREDITS) as scene:
        known, unknown = prepare(scene, workers)
        answers = await all_at_once(scene, known, REQUESTS, words=f"out={TOKENS} first_ms=200", max_tokens=TOKENS)
        longer = await all_at_once(scene, unknown, REQUESTS // 4, words=f"out={LONG} first_ms=200")
        await asyncio.to_thread(scene.stop)
        booked = scene.check(one.event for one in answers + longer if one.event)
    fast = [booked[one.event] for one in answers if one.event and one.fast]
    consumed, debt, left = spent(scene, "t")
    assert (debt, consumed + left) == (0, WORTH * PRICE_NCR)
    assert all(one.cover_ncr == one.covered_ncr == one.charge_ncr == PRICE_NCR for one in fast)
    assert len(fast) <= WORTH
    # Less than a request's worth may stay with a process whose last request has ended; more than that would have let in another one.
    assert left < PRICE_NCR, "what one process had left over was not there for the others"

    long = [booked[one.event] for one in longer if one.event and one.fast]
    assert OUTPUT_TOKENS_MAX == TOKENS
    consumed, debt, left = spent(scene, "u")
    assert len(long) <= WORTH
    assert debt <= sum(max(0, one.charge_ncr - PRICE_NCR) for one in long)
    assert consumed + left == WORTH * PRICE_NCR


def prepare(scene: Scene, workers: bool) -> tuple[str, str]:
    """Start four processes, and return a key of each of two tenants."""
    first = scene.gateway(start=False, flags=("--workers", "4") if workers else ())
    keys = first.prepare(), first.prepare("u")
    first.start()
    if not workers:
        for _ in range(3):
            scene.gateway()
    return keys
