"""Four processes against one real Valkey: the limit holds for all together; a store that stalls, dies and comes back stops nobody."""

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.clock import SystemClock
from gateway.lanes.limits import Limiter
from gateway.lanes.redis_link import RedisLink
from gateway.lanes.shared_windows import SharedWindows
from tests.real.valkey import Valkey, valkey_server

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

CHILD = Path(__file__).with_name("windows_child.py")
ROOT = CHILD.parents[2]
PROCESSES = 4
WAIT_MS = 250  # the machine that runs tests is a busy one


class Crowd:
    """So many processes, each with its own connection; `tell` gives all of them an order and returns what each answered."""

    def __init__(self, url: str, limit: int) -> None:
        command = [sys.executable, str(CHILD), url, str(limit), str(PROCESSES), str(WAIT_MS)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT, "env": {"PYTHONPATH": str(ROOT)}}
        self.children = [subprocess.Popen(command, **pipes) for _ in range(PROCESSES)]  # type: ignore[call-overload]
        assert self.hear() == ["ready"] * PROCESSES

    def say(self, order: str) -> None:
        for child in self.children:
            child.stdin.write(order + "\n")
            child.stdin.flush()

    def hear(self) -> list[str]:
        return [child.stdout.readline().strip() for child in self.children]

    def tell(self, order: str) -> list[str]:
        self.say(order)
        return self.hear()


@contextmanager
def crowd(url: str, limit: int) -> Iterator[Crowd]:
    together = Crowd(url, limit)
    try:
        yield together
    finally:
        for child in together.children:
            child.stdin.close()
            child.wait(10)
            child.stdout.close()


def test_four_processes_let_in_exactly_the_limit_in_a_burst(valkey: Valkey) -> None:
    limit = 6  # the next one comes after ten seconds
    with crowd(valkey.url, limit) as together:
        together.tell("up")
        started_s = time.monotonic()
        counts = [int(answer) for answer in together.tell("burst 200")]
        assert time.monotonic() - started_s < 10
    assert sum(counts) == limit


def test_a_stalled_store_holds_up_no_request_for_longer_than_the_wait(valkey: Valkey) -> None:
    limit = 60_000
    with crowd(valkey.url, limit) as together:
        together.tell("up")
        together.say("flood 3")
        time.sleep(1)  # the load is what is waited for, not a condition
        valkey.stall()
        answers = [answer.split() for answer in together.hear()]
        assert max(int(longest) for _, longest in answers) < WAIT_MS + 500
        after_s = time.monotonic()
        stalled = [int(answer) for answer in together.tell("burst 50")]
        assert time.monotonic() - after_s < 1
        assert sum(stalled) > 0
        valkey.go_on()
        assert together.tell("up") == ["up"] * PROCESSES


def test_a_store_that_is_killed_and_comes_back_empty_under_load(valkey: Valkey) -> None:
    limit = 600
    with crowd(valkey.url, limit) as together:
        together.tell("up")
        started_s = time.monotonic()
        together.say("flood 4")
        time.sleep(1)
        valkey.kill()
        time.sleep(1)
        valkey.start()
        counts = [answer.split() for answer in together.hear()]
        minutes = (time.monotonic() - started_s) / 60
        assert together.tell("up") == ["up"] * PROCESSES
    admitted = sum(int(count) for count, _ in counts)
    # A new store knows nothing: it begins with one whole limit again, less what was let in while there was none. Never more than that.
    assert limit <= admitted <= 2 * limit + limit * minutes + PROCESSES
    assert max(int(longest) for _, longest in counts) < WAIT_MS + 500


async def test_a_store_that_comes_back_with_its_memory_lets_in_no_second_limit(valkey: Valkey) -> None:
    """Stalled and resumed, it knows what was taken before; what the shares let in meanwhile is reported."""
    limit = 6
    with crowd(valkey.url, limit) as together:
        assert together.tell("up") == ["up"] * PROCESSES
        assert sum(int(answer) for answer in together.tell("burst 1")) == 4
        started_s = time.monotonic()
        valkey.stall()
        meanwhile = sum(int(answer) for answer in together.tell("burst 5"))
        assert meanwhile <= PROCESSES
        valkey.go_on()
        together.tell("up")
        after = sum(int(answer) for answer in together.tell("burst 50"))
    assert 4 + meanwhile + after <= limit + PROCESSES + (time.monotonic() - started_s) * limit / 60


@pytest.mark.parametrize(
    ("flags", "userinfo", "up"), [((), "", True), (("--requirepass", "s3cret/#"), ":s3cret%2F%23@", True), (("--requirepass", "right"), "", False)]
)
async def test_a_password_comes_from_the_url(tmp_path: Path, flags: tuple[str, ...], userinfo: str, up: bool, caplog: pytest.LogCaptureFixture) -> None:
    with valkey_server(tmp_path, *flags) as server:
        shared = SharedWindows(RedisLink(f"redis://{userinfo}127.0.0.1:{server.port}/0"), SystemClock(), prefix="weir", wait_s=1, jitter=random.Random(1))
        limiter = Limiter(shared=shared)
        await limiter.start(lambda name, work: asyncio.create_task(work, name=name))
        assert shared.up == up
        await limiter.aclose()
    assert "s3cret" not in caplog.text
    assert up or "AuthenticationError" in caplog.text
