"""Routes become attempts, in their order, less the backends that are down."""

import pytest

from backends import health
from backends.config import BackendConfig, ModelConfig
from backends.errors import BadConfig
from backends.planner import Planner
from backends.pool import Pool
from tests.transport import ScriptedTransport


def pools_named(*names: str) -> dict[str, Pool]:
    return {name: Pool(name, BackendConfig.model_validate({"urls": f"http://{name}/v1"}), ScriptedTransport()) for name in names}


def model(*routes: tuple[str, str], **more: object) -> ModelConfig:
    return ModelConfig.model_validate({"routes": [{"backend": backend, "model": upstream} for backend, upstream in routes], **more})


def take_down(pool: Pool) -> None:
    health.hold_out(pool.replicas[0])


def test_attempts_follow_the_routes() -> None:
    planner = Planner({"m": model(("a", "x"), ("b", "y"))}, pools_named("a", "b"))
    assert [(attempt.backend, attempt.model) for attempt in planner.plan("m")] == [("a", "x"), ("b", "y")]


def test_a_backend_that_is_down_is_skipped_and_comes_back() -> None:
    pools = pools_named("a", "b")
    planner = Planner({"m": model(("a", "x"), ("b", "y"))}, pools)
    take_down(pools["a"])
    assert [attempt.backend for attempt in planner.plan("m")] == ["b"]
    health.probe_succeeded(pools["a"].replicas[0], 0.0)
    assert [attempt.backend for attempt in planner.plan("m")] == ["a", "b"]


def test_when_all_are_down_all_are_tried() -> None:
    pools = pools_named("a", "b")
    planner = Planner({"m": model(("a", "x"), ("b", "y"))}, pools)
    for pool in pools.values():
        take_down(pool)
    assert [attempt.backend for attempt in planner.plan("m")] == ["a", "b"]


def test_an_unknown_model_has_no_attempts() -> None:
    assert Planner({}, {}).plan("nope") == ()
    assert Planner({}, {}).context_tokens("nope") is None


def test_a_configured_context_wins() -> None:
    assert Planner({"m": model(("a", "x"), context_tokens=77)}, pools_named("a")).context_tokens("m") == 77
    assert Planner({"m": model(("a", "x"))}, pools_named("a")).context_tokens("m") is None


@pytest.mark.parametrize(("routes", "why"), [((("c", "x"),), "no backend `c`; one of a, b"), ((("a", "x"), ("a", "x")), "same route twice")])
def test_a_model_that_leads_nowhere_stops_the_start(routes: tuple[tuple[str, str], ...], why: str) -> None:
    with pytest.raises(BadConfig, match=why):
        Planner({"m": model(*routes)}, pools_named("a", "b"))
