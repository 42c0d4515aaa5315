"""Fixtures that every test may ask for: a real PostgreSQL, real model servers, the gateway as a process, a scripted upstream.

A test that asks for `postgres_url` or `vllm_server` is marked by that, so that `-m "not vllm"` needs no hand-written marks.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.real import postgres, servers
from tests.real.gateway import Gateway, StartGateway, write_gateway
from tests.real.servers import ModelServer
from tests.real.upstream import ScriptedUpstream

MARKED_BY_FIXTURE = {
    "postgres_url": pytest.mark.postgres,
    "vllm_server": pytest.mark.vllm,
    "gateway_process": pytest.mark.slow,
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
    """Start gateways: `gateway_process(config, env=..., flags=(...), start=True) -> Gateway`, each with its own port and data; all are killed at the end."""
    started: list[Gateway] = []

    def start_gateway(config: Mapping[str, Any], *, env: Mapping[str, str] | None = None, flags: tuple[str, ...] = (), start: bool = True) -> Gateway:
        gateway = write_gateway(tmp_path / f"gateway-{len(started)}", config, env=env, flags=flags)
        started.append(gateway)
        return gateway.start() if start else gateway

    yield start_gateway
    for gateway in started:
        gateway.kill()


@pytest.fixture
def scripted_upstream() -> Iterator[ScriptedUpstream]:
    """An upstream that plays scripted answers; see `tests/real/upstream.py`."""
    upstream = ScriptedUpstream()
    yield upstream
    upstream.close()
