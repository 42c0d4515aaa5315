"""Four processes against one real Valkey: the limit holds for all together; a store that stalls, dies and comes back stops nobody."""

import asyncio
import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.clock import SystemClock
from gateway.lanes.limits import Limiter
from gateway.lanes.redis_link import RedisLink
from gateway.lanes.shared_windows import SharedWindows
from tests.house import open_house
from tests.raw_server import make_tls
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


@contextlib.contextmanager
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
        assert time.monotonic() - after_s < 5, "fifty waits were twelve seconds"
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


async def reached(url: str) -> bool:
    """Tell whether a process that starts with this URL shares its windows."""
    shared = SharedWindows(RedisLink(url), SystemClock(), prefix="weir", wait_s=1, jitter=random.Random(1))
    limiter = Limiter(shared=shared)
    await limiter.start(lambda name, work: asyncio.create_task(work, name=name))
    up = shared.up
    await limiter.aclose()
    return up


@pytest.mark.parametrize(("password", "userinfo", "up"), [("s3cret/#", ":s3cret%2F%23@", True), ("s3cret", ":wrong@", False), ("s3cret", "", False)])
async def test_a_password_comes_from_the_url(tmp_path: Path, password: str, userinfo: str, up: bool, caplog: pytest.LogCaptureFixture) -> None:
    with valkey_server(tmp_path, "--requirepass", password) as server:
        assert await reached(f"redis://{userinfo}127.0.0.1:{server.port}/0") is up
    assert up or "AuthenticationError" in caplog.text
    assert "s3cret" not in caplog.text
    assert ":wrong" not in caplog.text


async def test_tls_trusts_only_the_authority_that_the_url_names(tmp_path: Path, valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """This Valkey speaks no TLS itself: something in front of it does, as with most that are rented."""
    context, _ = make_tls(tmp_path)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", valkey.port)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    assert await reached(f"rediss://localhost:{port}/0?ssl_ca_certs={tmp_path}/cert.pem")
    assert not await reached(f"rediss://localhost:{port}/0")
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text
    server.close()


async def test_two_gateways_with_one_redis_hold_one_limit(tmp_path: Path, valkey: Valkey) -> None:
    config = f"limits: {{redis_url: '{valkey.url}', redis_wait_ms: 1000}}\n"
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    plan = {"requests_per_minute": 3, "tokens_per_minute": 1_000_000}
    async with (
        open_house(tmp_path / "one", {}, plan=plan, config=config) as one,
        open_house(tmp_path / "two", {}, plan=plan, config=config) as two,
    ):
        answers = [await house.chat("echo") for house in (one, two, one, two, one, two)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429, 429]
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers[:3]] == ["2", "1", "0"]
        assert 1 <= int(answers[3].headers["retry-after"]) <= 20
        metrics = (await one.client.get("/metrics")).text
        assert "weir_rate_windows_shared 1.0" in metrics and "weir_rate_windows_errors_total 0.0" in metrics
        valkey.kill()
        assert (await one.chat("echo")).status_code == 429  # it goes on from what it last heard
        assert "weir_rate_windows_shared 0.0" in (await one.client.get("/metrics")).text
