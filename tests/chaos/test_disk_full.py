"""A journal on a disk that fills up: new work is refused before money can be lost, what was served is booked, and it goes on once there is room."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chaos.crowd import ask, crowd
from tests.chaos.scene import open_scene
from tests.real.own_postgres import OwnPostgres
from tests.real.witness import Witness

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.postgres, pytest.mark.timeout(200)]

CLIENTS = 8


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Put a tmpfs of that size at a folder."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a disk of a test's own takes the right to mount one: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


async def test_a_full_disk_refuses_new_work_and_loses_nothing(tmp_path: Path, upstream: Witness, own_pg: OwnPostgres, own_pg_url: str, seed: int) -> None:
    with open_scene(tmp_path, upstream, own_pg_url) as scene:
        gateway = scene.gateway(start=False)
        with small_disk(gateway.data_dir / "journal", "256k"):
            key = gateway.prepare()
            gateway.start()
            ballast = gateway.data_dir / "journal" / "ballast"
            async with crowd([gateway.port], [key], clients=CLIENTS, seed=seed) as people:
                await people.until(50)
                own_pg.stop()  # so that nothing leaves the journal
                with ballast.open("wb") as file:
                    fill(file.fileno())
                async with asyncio.timeout(20):
                    while people.count(503) < 20 or (await ask(gateway.port, key)).status != 503:  # near the end some still find room
                        await asyncio.sleep(0.01)
                own_pg.start()
                ballast.unlink()
                await people.until(50)
            assert {one.status for one in people.answers} == {200, 503}
            scene.stop()
            scene.check(people.seen)


def fill(file: int) -> None:
    """Write until the disk takes no more byte."""
    piece = 4096
    while piece:
        try:
            os.write(file, b"\0" * piece)
        except OSError:
            piece //= 2
