"""`kill -9` of a gateway under load at every row of the crash matrix: what the upstream served is in the books, to the token.

One set of books is killed at one point after another, each time under load, and compared once at the end: no crash may spoil what
an earlier one left. Only requests whose end nobody saw may be booked by their evidence (`recovered`), at most those under way.
"""

import asyncio
from pathlib import Path

import pytest

from tests.chaos.crowd import crowd
from tests.chaos.scene import open_scene
from tests.real.witness import Witness

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(300)]

CLIENTS = 8
SEGMENT_BYTES = "30000"  # the journal rotates every hundred requests or so

POINTS = [
    "before_dispatch_record:30",  # nothing is known of it, and nothing was sent
    "after_dispatch_record:30",  # the evidence is there, and nothing was sent
    "after_upstream_head:30",  # the upstream answers, nothing of it is in the journal
    "before_settle_record:30",
    "torn_settle_record:30",
    "after_settle_record:30",  # on the disk, not booked; its client has not seen the end
    "after_new_segment:3",  # in the middle of a rotation
    "before_sweep:4",
    "after_sweep:4",
]
BOOKS_POINTS = [
    "before_lease_commit:1",
    "after_lease_commit:1",  # credits are set aside, and nobody knows
    "before_flush_commit:3",
    "after_flush_commit:3",
]
BEAT_POINTS = ["before_beat_commit:2", "after_beat_commit:2"]
LOSSES = ["lost_flush_commit:2", "lost_lease_commit:1", "lost_beat_commit:2"]  # it was committed, and nobody was told: the process lives and tells it again


async def die_at_each(tmp_path: Path, upstream: Witness, url: str | None, points: list[str], losses: list[str], *, seed: int) -> None:
    with open_scene(tmp_path, upstream, url) as scene:
        gateway = scene.gateway(env={"MORTAL_SEGMENT_BYTES": SEGMENT_BYTES}, start=False)
        key = gateway.prepare()
        seen: set[str] = set()
        for point in points:
            async with crowd([gateway.port], [key], clients=CLIENTS, seed=seed) as people:
                await asyncio.to_thread(gateway.start, point=point)
                await asyncio.to_thread(gateway.wait_dead)
            seen |= set(people.seen)
        for point in losses:
            await asyncio.to_thread(gateway.start, point=point)
            async with crowd([gateway.port], [key], clients=CLIENTS, seed=seed) as people:
                await people.until(10 * CLIENTS)
                await gateway.until_logged(f"mortal: {point.partition(':')[0]}")
                await scene.until("SELECT count(*) = 1 FROM replica")  # the dead are buried, and what they had set aside is back
            seen |= set(people.seen)
            await asyncio.to_thread(scene.stop)
        torn = sum(point.startswith("torn") for point in points)
        booked = scene.check(seen, recovered_max=CLIENTS * len(points), damaged=torn)
        assert len(booked) > 10 * len(points)
        recovered = sum(one.outcome == "recovered" for one in booked.values())
        said = (await asyncio.to_thread(gateway.weir, "ledger", "verify")).stdout
        assert f"{recovered} requests whose process died" in said, "what the crash matrix declares is found and reported"
        assert ("damaged-" in said) == bool(torn)


async def test_killed_at_any_point_the_books_equal_what_was_served(tmp_path: Path, upstream: Witness, seed: int) -> None:
    await die_at_each(tmp_path, upstream, None, POINTS + BOOKS_POINTS + BEAT_POINTS, LOSSES, seed=seed)


async def test_killed_around_a_commit_on_postgresql_the_books_equal_what_was_served(tmp_path: Path, upstream: Witness, own_pg_url: str, seed: int) -> None:
    await die_at_each(tmp_path, upstream, own_pg_url, ["after_settle_record:30", *BOOKS_POINTS], LOSSES[:2], seed=seed)
