"""Fixtures that every test may ask for: a real PostgreSQL, real model servers, the gateway as a process, a scripted upstream.

A test that asks for `postgres_url` or `vllm_server` is marked by that, so that `-m "not vllm"` needs no hand-written marks.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real import postgres, servers
from tests.real.gateway import StartGateway, gateways
from tests.real.servers import ModelServer
from tests.real.upstream import ScriptedUpstream
from tests.real.valkey import Valkey, valkey_server

MARKED_BY_FIXTURE = {
    "postgres_url": pytest.mark.postgres,
    "vllm_server": pytest.mark.vllm,
    "gateway_process": pytest.mark.slow,
    "shared_gateway_process": pytest.mark.slow,
    "valkey": pytest.mark.slow,
    "local_server": pytest.mark.slow,
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the costly fixtures they use, before `-m` selects."""
    for item in items:
        for fixture, mark in MARKED_BY_FIXTURE.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(mark)


@pytest.fixture(scope="session")
def postgres_server_url() -> Iterator[str]:
    """One real PostgreSQL for the session; tests ask for `postgres_url`."""
    with postgres.postgres_server() as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server_url: str) -> Iterator[str]:
    """A fresh, empty PostgreSQL database for one test: "postgresql://..."."""
    with postgres.fresh_database(postgres_server_url) as url:
        yield url


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """Start a real Valkey for one test; it may be stalled, killed and started again."""
    with valkey_server(tmp_path) as server:
        yield server


@pytest.fixture(scope="session")
def local_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """llama.cpp's real server with real SmolLM2 weights, one for the session."""
    with servers.llama_cpp(tmp_path_factory.mktemp("local_server")) as server:
        yield server


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """A real vLLM with real SmolLM2 weights, one for the session; VLLM_URL names one that runs already."""
    with servers.vllm(tmp_path_factory.mktemp("vllm")) as server:
        yield server


@pytest.fixture
def gateway_process(tmp_path: Path) -> Iterator[StartGateway]:
    """Start gateways for one test: `gateway_process(config, env=..., flags=(...), start=True) -> Gateway`; all are killed at its end."""
    with gateways(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def shared_gateway_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartGateway]:
    """Start gateways for a whole module, where its tests do not get in each other's way."""
    with gateways(tmp_path_factory.mktemp("gateways")) as start:
        yield start


@pytest.fixture
def scripted_upstream() -> Iterator[ScriptedUpstream]:
    """An upstream that plays scripted answers; see `tests/real/upstream.py`."""
    upstream = ScriptedUpstream()
    yield upstream
    upstream.close()
