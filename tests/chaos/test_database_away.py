"""PostgreSQL stopped, killed, frozen, failed over, locked, under load: requests go on, and afterwards every event is in the books, once."""

import asyncio
import time
from pathlib import Path

import psycopg
import pytest

from tests.chaos.crowd import ask, crowd
from tests.chaos.scene import open_scene
from tests.real.own_postgres import OwnPostgres
from tests.real.witness import Witness

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.postgres, pytest.mark.timeout(200)]

CLIENTS = 8
STOPPED_S = 10.0


async def test_stopped_for_ten_seconds_under_load_no_request_fails_and_every_event_is_in_once(
    tmp_path: Path, upstream: Witness, own_pg: OwnPostgres, own_pg_url: str, seed: int
) -> None:
    with open_scene(tmp_path, upstream, own_pg_url, more={"leases": {"term_s": 30, "beat_s": 5}}) as scene:
        gateway = scene.gateway(start=False)
        key, stranger = gateway.prepare(), gateway.prepare("stranger")
        gateway.start()
        async with crowd([gateway.port], [key], clients=CLIENTS, seed=seed) as people:
            await people.until(50)
            own_pg.stop()
            until_s = time.monotonic() + STOPPED_S
            before = len(people.seen)
            refused = await ask(gateway.port, stranger)  # nothing of this tenant is in memory
            while time.monotonic() < until_s:
                await people.until(20, limit_s=5)
            served = len(people.seen) - before
            own_pg.start()
            await scene.until(f"SELECT count(*) >= {len(people.seen)} FROM usage_event")
        assert refused.status == 503
        assert served > 200
        assert all(one.status == 200 and one.fast for one in people.answers), [one for one in people.answers if not one.fast][:3]
        scene.stop()
        scene.check(people.seen)


@pytest.mark.parametrize("trouble", ["killed", "failed_over"])
async def test_after_a_break_of_its_connections_every_event_is_in_once(
    tmp_path: Path, upstream: Witness, own_pg: OwnPostgres, own_pg_url: str, trouble: str, seed: int
) -> None:
    with open_scene(tmp_path, upstream, own_pg_url) as scene:
        gateway = scene.gateway(start=False)
        key = gateway.prepare()
        gateway.start()
        async with crowd([gateway.port], [key], clients=CLIENTS, seed=seed) as people:
            for _ in range(3):
                await people.until(40)
                if trouble == "failed_over":
                    async with asyncio.timeout(10):
                        while not own_pg.terminate_backends():  # it has none while it waits after the last time
                            await asyncio.sleep(0.02)
                    continue
                own_pg.kill()
                await people.until(20)
                own_pg.start()
            await people.until(40)
        assert people.count(200) == len(people.answers)
        scene.stop()
        scene.check(people.seen)


async def test_while_it_hangs_requests_go_on(tmp_path: Path, upstream: Witness, own_pg: OwnPostgres, own_pg_url: str, seed: int) -> None:
    with open_scene(tmp_path, upstream, own_pg_url) as scene:
        gateway = scene.gateway(start=False)
        key = gateway.prepare()
        gateway.start()
        async with crowd([gateway.port], [key], clients=CLIENTS, seed=seed) as people:
            await people.until(50)
            with own_pg.frozen():
                await people.until(200)
            await people.until(20)
        assert people.count(200) == len(people.answers)
        scene.stop()
        scene.check(people.seen)


async def test_while_another_session_holds_the_account_requests_go_on(tmp_path: Path, upstream: Witness, own_pg_url: str, seed: int) -> None:
    with open_scene(tmp_path, upstream, own_pg_url) as scene:
        gateway = scene.gateway(start=False)
        key = gateway.prepare()
        gateway.start()
        async with crowd([gateway.port], [key], clients=CLIENTS, seed=seed) as people:
            await scene.until("SELECT count(*) >= 20 FROM usage_event")
            with psycopg.connect(own_pg_url) as held:
                assert held.execute("SELECT tenant_id FROM credit_account WHERE tenant_id = 't' FOR UPDATE").fetchone() == ("t",)
                booked = held.execute("SELECT count(*) FROM usage_event").fetchone()
                await people.until(300)
                assert held.execute("SELECT count(*) FROM usage_event").fetchone() == booked, "nothing of the tenant is booked past its lock"
            await people.until(20)
        assert people.count(200) == len(people.answers)
        scene.stop()
        scene.check(people.seen)
