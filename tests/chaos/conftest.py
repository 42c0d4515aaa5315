"""What the chaos tests share: a PostgreSQL of their own to be hurt, an empty database on it, and the seed of a test's chances."""

import os
import time
from collections.abc import Iterator

import pytest

from tests.real.own_postgres import OwnPostgres, own_postgres
from tests.real.witness import Witness, witness


@pytest.fixture(scope="package")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Witness]:
    """The upstream that keeps a log; each scene looks at its own part of it."""
    with witness(tmp_path_factory.mktemp("witness")) as running:
        yield running


@pytest.fixture(scope="package")
def running_postgres() -> Iterator[OwnPostgres]:
    with own_postgres() as server:
        yield server


@pytest.fixture
def own_pg(running_postgres: OwnPostgres) -> Iterator[OwnPostgres]:
    """A PostgreSQL that this test may stop and kill; it is started again for the next."""
    yield running_postgres
    if not running_postgres.running:
        running_postgres.start()


@pytest.fixture
def own_pg_url(own_pg: OwnPostgres) -> Iterator[str]:
    """An empty database on `own_pg`."""
    with own_pg.fresh() as url:
        yield url
        if not own_pg.running:
            own_pg.start()


@pytest.fixture
def seed() -> int:
    """The seed of this run; printed, and given again with CHAOS_SEED."""
    value = int(os.environ.get("CHAOS_SEED") or time.time_ns() % 1_000_000)
    print(f"CHAOS_SEED={value}")
    return value
