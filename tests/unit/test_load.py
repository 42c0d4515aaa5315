"""Slots that are learned: an engine's metrics are read or left alone, and the limit finds what the engine runs, from below and above."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backends.config import BackendConfig
from backends.load import LIMIT_MAX, START, STEP, Learner, Load, read_load
from gateway.lanes.queue import slow_slots_of

EXPOSITION = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a } b"} 3.0
vllm:num_requests_running{engine="1",model_name="a } b"} 4.0
vllm:num_requests_waiting{engine="0",model_name="a } b"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0
vllm:kv_cache_usage_perc{engine="0",model_name="a } b"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="a } b"} 5e-1
"""


def test_the_engines_behind_one_address_add_up_and_the_fullest_cache_counts() -> None:
    assert read_load(EXPOSITION) == Load(running=7, waiting=1, kv_usage=0.5)


@pytest.mark.parametrize("text", [b"", b"<html>", b"vllm:num_requests_running", b"vllm:num_requests_running NaN", b"vllm:num_requests_running 1e", b"\xff\x00"])
def test_what_is_not_said_is_not_zero(text: bytes) -> None:
    assert read_load(text) == Load()


@given(st.binary(max_size=300) | st.builds(lambda text: b"vllm:num_requests_running " + text, st.binary(max_size=40)))
def test_nothing_that_a_server_says_breaks_the_reader(text: bytes) -> None:
    load = read_load(text)
    assert load.running is None or load.running >= 0


class Engine:
    """Runs `capacity` requests at once and queues the others; its clients always have more than the limit, of which the slow lane takes seven eighths."""

    def __init__(self, capacity: int, *, slow: bool = False) -> None:
        self.capacity, self.slow = capacity, slow

    def look(self, limit: int) -> Load:
        given = slow_slots_of(limit) if self.slow else limit
        return Load(running=min(given, self.capacity), waiting=max(0, given - self.capacity), kv_usage=0.3)


def learn(learner: Learner, engine: Engine, looks: int) -> list[int]:
    limits = []
    for _ in range(looks):
        learner.heard(engine.look(learner.limit))
        limits.append(learner.limit)
    return limits


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("capacity", [1, 2, 5, 16, 64, 200, 256, 700])
def test_it_comes_to_what_the_engine_runs_and_stays_there(capacity: int, slow: bool) -> None:
    learner, engine = Learner(), Engine(capacity, slow=slow)
    learn(learner, engine, 40)
    stays = learn(learner, engine, 300)
    assert min(stays) >= min(capacity, LIMIT_MAX)
    given = [slow_slots_of(limit) if slow else limit for limit in stays]
    assert max(given) <= capacity + max(1, capacity // STEP) + 2, "an eighth too much at most"
    assert sum(one > capacity for one in given) <= len(stays) / 3, "and not for long"


def test_it_follows_an_engine_that_has_less_or_more_room() -> None:
    learner, engine = Learner(), Engine(256)
    learn(learner, engine, 40)
    engine.capacity = 32
    assert learn(learner, engine, 3)[-1] == 32
    engine.capacity = 64
    assert 64 <= learn(learner, engine, 120)[-1] <= 73


def test_one_look_at_a_queue_is_no_congestion_and_an_idle_engine_teaches_nothing() -> None:
    learner = Learner()
    assert not learner.heard(Load(running=4, waiting=1))
    assert not learner.heard(Load(running=0, waiting=0))
    assert not learner.heard(Load(running=4, waiting=1))
    for _ in range(50):
        assert not learner.heard(Load(running=2, waiting=0))
        assert not learner.heard(Load())
    assert learner.limit == START


def test_a_full_cache_is_too_much_even_where_nothing_waits() -> None:
    learner = Learner()
    for _ in range(3):
        learner.heard(Load(running=9, waiting=0, kv_usage=0.99))
    assert learner.limit == 9


@given(st.lists(st.builds(Load, running=st.none() | st.integers(0, 10**6), waiting=st.none() | st.integers(0, 10**6), kv_usage=st.none() | st.floats(0, 2))))
def test_the_limit_keeps_its_bounds_whatever_an_engine_says(loads: list[Load]) -> None:
    learner = Learner()
    for load in loads:
        before = learner.limit
        assert learner.heard(load) == (learner.limit != before)
        assert 1 <= learner.limit <= LIMIT_MAX


def test_a_dialect_without_metrics_needs_a_number() -> None:
    assert BackendConfig(provider="vllm", urls="http://a/v1", slots="auto").slots == "auto"
    with pytest.raises(ValidationError, match="give a number"):
        BackendConfig(provider="openai_compatible", urls="http://a/v1", slots="auto")
