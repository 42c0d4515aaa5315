"""Slots that are learned: an engine's metrics are read or left alone, and the limit finds what the engine runs, from below and above."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backends.config import BackendConfig
from backends.load import LIMIT_MAX, RECENT_LOOKS, START, STEP, Learner, Load, read_load
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
    """Runs `capacity` requests at once and queues the others. Always has the whole limit, of which the slow lane takes seven eighths, under way."""

    def __init__(self, capacity: int, *, slow: bool = False) -> None:
        self.capacity, self.slow = capacity, slow

    def look(self, limit: int) -> Load:
        given = slow_slots_of(limit) if self.slow else limit
        return Load(running=min(given, self.capacity), waiting=max(0, given - self.capacity), kv_usage=0.3)


class Stepping:
    """An engine that works as vLLM does, in steps of one token for all that run, some 40 of them between two looks: what a step has ended is not seen
    to run after it. Always has the whole limit under way, in answers of `lengths` tokens, from and to.
    """

    def __init__(self, capacity: int, lengths: tuple[int, int]) -> None:
        self.capacity, self.lengths = capacity, lengths
        self.running: list[int] = []  # tokens left of each
        self.waiting = self.answered = 0
        self._chance = random.Random(capacity)

    def look(self, limit: int) -> Load:
        for _ in range(self._chance.randint(30, 50)):
            self._step(limit)
        return Load(running=len(self.running), waiting=self.waiting, kv_usage=0.3)

    def _step(self, limit: int) -> None:
        self.waiting += max(0, limit - len(self.running) - self.waiting)
        started = max(0, min(self.waiting, self.capacity - len(self.running)))
        self.waiting -= started
        self.running += [self._chance.randint(*self.lengths) for _ in range(started)]
        left = [tokens - 1 for tokens in self.running if tokens > 1]
        self.answered += len(self.running) - len(left)
        self.running = left


def learn(learner: Learner, engine: Engine | Stepping, looks: int) -> list[int]:
    limits = []
    for _ in range(looks):
        learner.heard(engine.look(learner.limit))
        limits.append(learner.limit)
    return limits


def looks_until(learner: Learner, engine: Engine | Stepping, low: float, high: float, *, at_most: int) -> int:
    return next(look for look in range(1, at_most + 2) if look > at_most or low <= learn(learner, engine, 1)[0] <= high)


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


@pytest.mark.parametrize("lengths", [(200, 600), (40, 40), (16, 16), (8, 24)], ids=str)
@pytest.mark.parametrize("capacity", [4, 16, 64, 256])
def test_looks_that_fall_between_two_steps_do_not_lead_it_astray(capacity: int, lengths: tuple[int, int]) -> None:
    learner, engine = Learner(), Stepping(capacity, lengths)
    learn(learner, engine, 60)
    stays = learn(learner, engine, 300)
    assert 0.85 * capacity <= min(stays) <= max(stays) <= max(1.15 * capacity, capacity + 1)


@pytest.mark.parametrize("capacity", [16, 64, 256])
def test_answers_of_a_few_tokens_cost_little_of_what_the_engine_could_answer(capacity: int) -> None:
    """Of five that run one or two have always just ended, so the limit comes to rest somewhat low; it must not go down from look to look."""
    learner, engine, all_of_it = Learner(), Stepping(capacity, (2, 6)), Stepping(capacity, (2, 6))
    learn(learner, engine, 400)
    for _ in range(400):
        all_of_it.look(LIMIT_MAX)
    assert engine.answered >= 0.8 * all_of_it.answered


@pytest.mark.parametrize(("before", "after", "looks"), [(8, 64, 40), (32, 256, 30), (2, 256, 60), (256, 32, 25), (256, 64, 20)])
def test_it_follows_an_engine_that_gets_more_or_less_room(before: int, after: int, looks: int) -> None:
    """Less room is seen as fast as what runs comes to its end, and once what ran before is out of sight."""
    learner, engine = Learner(), Stepping(before, (200, 600))
    learn(learner, engine, 80)
    assert 0.85 * before <= learner.limit <= max(1.15 * before, before + 1)
    engine.capacity = after
    assert looks_until(learner, engine, 0.85 * after, 1.15 * after, at_most=looks) <= looks


@pytest.mark.parametrize("capacity", [1, 16, 100])
def test_a_flood_of_our_own_is_out_of_the_engine_in_a_few_looks(capacity: int) -> None:
    learner, engine = Learner(), Engine(capacity)
    learner.limit = LIMIT_MAX
    assert learn(learner, engine, 3)[-1] == capacity


def test_an_engine_that_is_still_starting_what_it_was_given_is_not_taken_for_full() -> None:
    """A burst of long prompts on an idle engine: it has a queue at each look, and runs more each time."""
    learner = Learner()
    for running in (0, 3, 5, 9, 12):
        assert not learner.heard(Load(running=running, waiting=16 - running if running else 0))
    assert learner.limit == START
    learner.heard(Load(running=11, waiting=5))
    learner.heard(Load(running=12, waiting=4))
    assert learner.limit == 12, "it grew no further, and there was a queue all the same"


def test_a_queue_where_nothing_is_ever_seen_to_run_says_nothing_of_what_fits() -> None:
    """As with answers of one token: each step ends all that it began."""
    learner = Learner()
    for _ in range(20):
        assert not learner.heard(Load(running=0, waiting=5))
    assert learner.limit == START


def test_what_others_run_in_the_engine_is_heard_of_by_a_process_that_is_new_to_it() -> None:
    old, new, engine = Learner(), Learner(), Stepping(256, (200, 600))
    learn(old, engine, 60)
    for _ in range(60):
        load = engine.look(old.limit)
        old.heard(load)
        new.heard(load)
    assert abs(new.limit - old.limit) <= 256 // STEP


def test_one_look_at_a_queue_is_no_congestion_and_an_idle_engine_teaches_nothing() -> None:
    learner = Learner()
    learner.heard(Load(running=5, waiting=0))
    assert not learner.heard(Load(running=4, waiting=1))
    assert not learner.heard(Load(running=0, waiting=0))
    assert not learner.heard(Load(running=4, waiting=1))
    for _ in range(50):
        assert not learner.heard(Load(running=2, waiting=0))
        assert not learner.heard(Load())
        assert not learner.heard(Load(running=0))
    assert learner.limit == START


def test_a_full_cache_is_too_much_even_where_nothing_waits_and_never_raises_the_limit() -> None:
    learner = Learner()
    for _ in range(3):
        learner.heard(Load(running=9, waiting=0, kv_usage=0.99))
    assert learner.limit == 9
    for _ in range(RECENT_LOOKS):
        learner.heard(Load(running=400, waiting=0, kv_usage=0.99))
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
