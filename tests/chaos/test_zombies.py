"""Processes that are taken for dead and are not, and two that believe to be one: what is spent twice stays within a stated bound."""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.chaos.crowd import crowd
from tests.chaos.scene import PRICES, open_scene
from tests.real.witness import Witness

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.postgres, pytest.mark.timeout(200)]

CLIENTS = 8
TOKENS = 10
PRICE_NCR = TOKENS * PRICES["exact"][1]
OWED = "SELECT coalesce(sum(debt_ncr), 0) AS debt_ncr FROM credit_account"


async def test_one_that_was_stopped_past_its_term_begins_anew_and_admits_nothing_from_what_it_had(
    tmp_path: Path, upstream: Witness, own_pg_url: str, seed: int
) -> None:
    """What it had under way when it stopped may be paid twice; nothing else may."""
    with open_scene(tmp_path, upstream, own_pg_url, credits="30") as scene:  # a thousand requests
        first = scene.gateway(start=False)
        key = first.prepare()
        first.start()
        second = scene.gateway()
        async with crowd(scene.ports, [key], clients=CLIENTS, seed=seed, words=f"out={TOKENS} token_ms=2", model="exact", max_tokens=TOKENS) as people:
            await people.until(100)
            first.signal(signal.SIGSTOP)
            await scene.until("SELECT count(*) = 1 FROM replica", limit_s=40)  # the other one has lost patience
            people.only = [second.port]
            first.signal(signal.SIGCONT)
            await scene.until("SELECT count(*) = 2 FROM replica")
            people.only = None
            await people.until(1500, limit_s=60)
        assert "begins again under a new name" in first.log()
        await asyncio.to_thread(scene.stop)
        scene.check(people.seen)
        assert scene.rows(OWED)[0].debt_ncr <= CLIENTS * PRICE_NCR


async def test_two_that_believe_to_be_one_are_told_apart_by_the_next_beat(tmp_path: Path, upstream: Witness, own_pg_url: str, seed: int) -> None:
    """Until that beat both admit from the lease that is in the books for their name: at most so much is spent twice."""
    lease_ncr_max = 10 * PRICE_NCR
    more = {"leases": {"term_s": 3, "beat_s": 0.3, "credits_max": f"{lease_ncr_max / 10**9:.9f}"}}
    with open_scene(tmp_path, upstream, own_pg_url, credits="30", more=more) as scene:
        first = scene.gateway(start=False)
        key = first.prepare()
        first.start()
        async with crowd([first.port], [key], clients=CLIENTS, seed=seed, words=f"out={TOKENS} token_ms=2", model="exact", max_tokens=TOKENS) as people:
            await people.until(50)
            twin = await asyncio.to_thread(scene.gateway, env={"MORTAL_TWIN": "1"})
            people.only = scene.ports
            await scene.until("SELECT count(*) = 2 FROM replica")
            await people.until(1500, limit_s=60)
        assert "runs twice" in first.log() + twin.log()
        await asyncio.to_thread(scene.stop)
        scene.check(people.seen)
        assert scene.rows(OWED)[0].debt_ncr <= lease_ncr_max + CLIENTS * PRICE_NCR
