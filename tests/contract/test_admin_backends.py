"""/admin/backends: the model servers of this process."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from backends.config import BackendConfig, ModelConfig
from backends.health import hold_out
from backends.pool import build_pools
from backends.transport.direct import DirectTransport
from tests.desk import AdminApi, open_admin_api


@pytest.fixture
def api(tmp_path: Path) -> Iterator[AdminApi]:
    with open_admin_api(tmp_path) as opened:
        yield opened


def test_every_backend_is_listed_with_its_replicas_and_models(api: AdminApi) -> None:
    own = BackendConfig(provider="vllm", urls="http://127.0.0.1:9/v1", api_key="sk-upstream", slots=7)
    pools = build_pools({"own": own, "echo": BackendConfig(provider="echo")}, {"direct": DirectTransport(), "httpx": DirectTransport()})
    models = {"m": ModelConfig.model_validate({"routes": [{"backend": "own", "model": "x"}, {"backend": "echo", "model": "y"}]})}
    api.app.state.services.pools = pools
    api.app.state.services.settings = SimpleNamespace(models=models)
    hold_out(pools["own"].replicas[0])
    answer = api.http.get("/admin/backends")
    assert "sk-upstream" not in answer.text
    listed = {backend["name"]: backend for backend in answer.json()}
    assert (listed["own"]["up"], listed["own"]["slots"], listed["own"]["models"]) == (False, 7, ["m"])
    assert listed["own"]["replicas"] == [{"url": "http://127.0.0.1:9/v1", "weight": 1, "inflight": 0, "failures": 0, "ejected": True, "draining": False}]
    assert (listed["echo"]["up"], listed["echo"]["models"]) == (True, ["m"])


def test_slots_that_are_learned_are_told_as_a_number(api: AdminApi) -> None:
    pools = build_pools({"own": BackendConfig(provider="vllm", urls="http://127.0.0.1:9/v1", slots="auto")}, {"direct": DirectTransport()})
    api.app.state.services.pools = pools
    api.app.state.services.settings = SimpleNamespace(models={})
    (own,) = api.http.get("/admin/backends").json()
    assert own["slots"] == pools["own"].slots >= 1
