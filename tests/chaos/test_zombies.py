"""Processes that are taken for dead and are not, and two that believe to be one: what is spent twice stays within a stated bound."""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.chaos.crowd import crowd
from tests.chaos.scene import PRICES, Mortal, open_scene
from tests.real.witness import Witness

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.postgres, pytest.mark.timeout(200)]

CLIENTS = 8
TOKENS = 10
PRICE_NCR = TOKENS * PRICES["exact"][1]
OWED = "SELECT coalesce(sum(debt_ncr), 0) AS debt_ncr FROM credit_account"


def has_a_new_name(gateway: Mortal) -> bool:
    """Whether it found, at a beat or at a draw, that it is not in the books under its name any more."""
    return "begins again under a new name" in gateway.log() or "goes on as" in gateway.log()


async def test_one_that_was_stopped_past_its_term_begins_anew_and_admits_nothing_from_what_it_had(
    tmp_path: Path, upstream: Witness, own_pg_url: str, seed: int
) -> None:
    """What it had under way when it stopped may be paid twice; nothing else may."""
    with open_scene(tmp_path, upstream, own_pg_url, credits="6") as scene:  # two hundred requests
        first = scene.gateway(start=False)
        key = first.prepare()
        first.start()
        second = scene.gateway()
        async with crowd(scene.ports, [key], clients=CLIENTS, seed=seed, words=f"out={TOKENS} token_ms=2", model="exact", max_tokens=TOKENS) as people:
            await people.until(40)
            first.signal(signal.SIGSTOP)
            await scene.until("SELECT count(*) = 1 FROM replica", limit_s=40)  # the other one has lost patience
            people.only = [second.port]
            first.signal(signal.SIGCONT)
            await scene.until("SELECT count(*) = 2 FROM replica")
            people.only = None
            await people.until(300, limit_s=60)
        assert has_a_new_name(first)
        await asyncio.to_thread(scene.stop)
        scene.check(people.seen)
        assert scene.rows(OWED)[0].debt_ncr <= CLIENTS * PRICE_NCR


async def test_two_that_believe_to_be_one_are_told_apart_by_the_next_beat(tmp_path: Path, upstream: Witness, own_pg_url: str, seed: int) -> None:
    """Until that beat both admit from the lease that is in the books for their name: at most so much is spent twice."""
    lease_ncr_max = 10 * PRICE_NCR
    more = {"leases": {"term_s": 3, "beat_s": 0.3, "credits_max": f"{lease_ncr_max / 10**9:.9f}"}}
    with open_scene(tmp_path, upstream, own_pg_url, credits="6", more=more) as scene:
        first = scene.gateway(start=False)
        key = first.prepare()
        first.start()
        async with crowd([first.port], [key], clients=CLIENTS, seed=seed, words=f"out={TOKENS} token_ms=2", model="exact", max_tokens=TOKENS) as people:
            await people.until(50)
            twin = await asyncio.to_thread(scene.gateway, env={"MORTAL_TWIN": "1"})
            people.only = scene.ports
            await scene.until("SELECT count(*) = 2 FROM replica")
            await people.until(300, limit_s=60)
        assert has_a_new_name(first) != has_a_new_name(twin)
        await asyncio.to_thread(scene.stop)
        scene.check(people.seen)
        assert scene.rows(OWED)[0].debt_ncr <= lease_ncr_max + CLIENTS * PRICE_NCR


async def test_one_that_freezes_inside_a_transaction_does_not_hold_the_tenant_for_the_others(
    tmp_path: Path, upstream: Witness, own_pg_url: str, seed: int
) -> None:
    with open_scene(tmp_path, upstream, own_pg_url) as scene:
        second = scene.gateway(start=False)
        key = second.prepare()
        second.start()
        first = scene.gateway(point="frozen_flush_commit:3")
        async with crowd([first.port], [key], clients=CLIENTS, seed=seed) as held, crowd([second.port], [key], clients=CLIENTS, seed=seed) as people:
            await first.until_logged("mortal: frozen")
            held.stopping.set()
            await people.until(50)
            booked = scene.rows("SELECT count(*) FROM usage_event")[0][0]
            await scene.until(f"SELECT count(*) > {booked + 50} FROM usage_event", limit_s=30)
            first.signal(signal.SIGCONT)
        await asyncio.to_thread(scene.stop)
        scene.check({**people.seen, **held.seen})
