"""`weir serve --workers 4`, on both databases: the story holds over all processes, and a scrape of any of them tells of all."""

import asyncio
import csv
import io
import json
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from billing.db import Database
from billing.leases import store as leases
from gateway.lanes import notes
from tests.real.gateway import Gateway, StartGateway, write_gateway

WORKERS = 4
CLIENTS = 12
BODY = {"model": "echo", "messages": [{"role": "user", "content": "one two three four"}]}
CONFIG = {
    "backends": {"echo": {"provider": "echo", "slots": 64}},
    "models": {"echo": {"routes": [{"backend": "echo", "model": "echo"}]}},
    "server": {"workers": WORKERS},
    "seed": {
        "plans": {"small": {"credits": "3", "on_exhausted": "slow"}},
        "tenants": {"acme": {"plan": "small"}},
        "rates": {"echo": {"input": "1000", "output": "3000"}},
    },
}

pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def gateway(request: pytest.FixtureRequest, gateway_process: StartGateway) -> Gateway:
    if request.param == "sqlite":
        return gateway_process(CONFIG)
    url = request.getfixturevalue("postgres_url")
    return gateway_process(CONFIG | {"database": {"url": url, "pool_max": 5}}, env={"WEIR_SECRET": "0123456789abcdef"})


class Application:
    """Several clients of one tenant, each question on a connection of its own; what they were told is added up."""

    def __init__(self, gateway: Gateway, key: str) -> None:
        headers, fresh = {"authorization": f"Bearer {key}"}, httpx.Limits(max_keepalive_connections=0)
        self._clients = [httpx.AsyncClient(base_url=gateway.base_url, headers=headers, limits=fresh, timeout=30, trust_env=False) for _ in range(CLIENTS)]
        self.lanes: Counter[str] = Counter()
        self.tokens = 0
        self.credits = Decimal(0)

    async def ask(self, times: int = 1) -> set[str]:
        """Have every client ask so many times; return the lanes of the last answers."""
        return set(await asyncio.gather(*(self._ask(client, times) for client in self._clients)))

    async def _ask(self, client: httpx.AsyncClient, times: int) -> str:
        lane = ""
        for _ in range(times):
            answer = await client.post("/chat/completions", json={**BODY, "max_tokens": 10})
            assert answer.status_code == 200, answer.text
            lane = answer.headers["x-weir-lane"]
            self.lanes[lane] += 1
            self.tokens += answer.json()["usage"]["total_tokens"]
            self.credits += Decimal(answer.headers["x-weir-cost"])
        return lane

    async def aclose(self) -> None:
        for client in self._clients:
            await client.aclose()


def figures(gateway: Gateway, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Scrape whichever worker takes the connection."""
    text = httpx.get(f"{gateway.root_url}/metrics", trust_env=False).text
    families = text_string_to_metric_families(text)
    return {tuple(sorted(sample.labels.items())): sample.value for family in families for sample in family.samples if sample.name == name}


async def until(holds: Callable[[], bool], limit_s: float = 15) -> None:
    async with asyncio.timeout(limit_s):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.02)


async def test_the_story_holds_over_all_workers(gateway: Gateway) -> None:
    application = Application(gateway, await asyncio.to_thread(gateway.issue_key, "acme"))
    async with asyncio.timeout(60):
        while await application.ask(2) != {"slow"}:
            pass
    assert application.lanes["fast"] and application.lanes["slow"]
    await asyncio.to_thread(gateway.weir, "grant", "add", "acme", "--credits", "500", "--kind", "topup")
    async with asyncio.timeout(15):
        while await application.ask() != {"fast"}:
            await asyncio.sleep(0.05)
    asked = sum(application.lanes.values())

    def counted() -> dict[str, float]:
        found = figures(gateway, "weir_requests_total")
        return {dict(labels)["worker"]: value for labels, value in found.items() if dict(labels)["endpoint"] == "chat/completions"}

    await until(lambda: sum(counted().values()) == asked)
    assert set(counted()) == {str(index) for index in range(WORKERS)}, "a worker got no connection"
    assert figures(gateway, "weir_workers_unheard") == {(): 0} and figures(gateway, "weir_workers") == {(): WORKERS}
    assert sum(figures(gateway, "weir_slots").values()) == 64, "the workers share the slots that were configured"
    await application.aclose()
    assert await asyncio.to_thread(gateway.stop) == 0
    said = gateway.weir("usage", "export", "--month", time.strftime("%Y-%m", time.gmtime()), "--format", "csv").stdout
    lines = list(csv.DictReader(io.StringIO(said)))
    assert sum(int(line["requests"]) for line in lines) == asked
    assert sum(int(line["input_tokens"] or 0) + int(line["cache_read_tokens"] or 0) + int(line["output_tokens"] or 0) for line in lines) == application.tokens
    assert sum(Decimal(line["credits"]) for line in lines) == application.credits
    verified = gateway.weir("ledger", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def workers_of(gateway: Gateway) -> list[psutil.Process]:
    return [child for child in psutil.Process(gateway.pid).children() if "gateway.cli.worker" in child.cmdline()]


def shares(gateway: Gateway) -> dict[int, int]:
    """Read what each worker claims of the echo's slots, by its process id."""
    database = Database(f"sqlite:///{gateway.data_dir / 'weir.db'}")
    with database.read() as session:
        found = {replica.pid: notes.read(replica.note) for replica in leases.replicas(session)}
    database.close()
    return {pid: note.backends["echo"].share for pid, note in found.items() if note is not None}


async def test_a_stalled_workers_slots_go_to_the_others_and_come_back(gateway_process: StartGateway) -> None:
    gateway = gateway_process(CONFIG)
    even = {worker.pid: 64 // WORKERS for worker in workers_of(gateway)}
    await until(lambda: shares(gateway) == even, 30)
    stalled = workers_of(gateway)[0]
    stalled.suspend()
    try:
        await until(lambda: sum(share for pid, share in shares(gateway).items() if pid != stalled.pid) == 64, 30)
        assert stalled.pid in shares(gateway), "it is not buried yet"
        told = json.loads(gateway.weir("lanes", "--format", "json").stdout)
        assert {process["pid"] for process in told["processes"]} == even.keys() - {stalled.pid}
        assert [(backend["slots"], backend["processes"]) for backend in told["backends"]] == [(64, WORKERS - 1)]
    finally:
        stalled.resume()
    await until(lambda: shares(gateway) == even, 30)


async def test_a_stop_lets_every_worker_end_what_it_has_begun(gateway_process: StartGateway) -> None:
    slow = {"backends": {"echo": {"provider": "echo", "echo": {"token_ms": 40}}}, "seed": CONFIG["seed"] | {"plans": {"small": {"credits": "100"}}}}  # type: ignore[operator]
    gateway = gateway_process(CONFIG | slow)
    key = await asyncio.to_thread(gateway.issue_key, "acme")
    begun = asyncio.Semaphore(0)

    async def stream() -> tuple[str, str]:
        body = {"model": "echo", "stream": True, "messages": [{"role": "user", "content": "word " * 40}]}
        headers = {"authorization": f"Bearer {key}"}
        async with (
            httpx.AsyncClient(base_url=gateway.base_url, headers=headers, timeout=30, trust_env=False) as client,
            client.stream("POST", "/chat/completions", json=body) as response,
        ):
            text = ""
            async for piece in response.aiter_text():
                if not text:
                    begun.release()
                text += piece
            return response.headers["x-weir-event"], text

    streams = [asyncio.create_task(stream()) for _ in range(CLIENTS)]
    async with asyncio.timeout(20):
        for _ in streams:
            await begun.acquire()
    ran = workers_of(gateway)
    assert len(ran) == WORKERS
    assert await asyncio.to_thread(gateway.stop) == 0
    ended = [await task for task in streams]
    assert all(text.endswith("data: [DONE]\n\n") for _, text in ended)
    assert not psutil.wait_procs(ran, 5)[1]
    said = gateway.weir("usage", "export", "--month", time.strftime("%Y-%m", time.gmtime()), "--format", "csv").stdout
    assert sum(int(line["requests"]) for line in csv.DictReader(io.StringIO(said))) == CLIENTS


def test_workers_that_cannot_start_stop_the_whole_with_a_status_and_a_reason(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nif 'gateway.cli.worker' in sys.orig_argv:\n    sys.exit('no worker starts on this machine')\n")
    gateway = write_gateway(tmp_path / "gateway", CONFIG | {"server": {"workers": 2}}, env={"PYTHONPATH": str(tmp_path)})
    done = gateway.weir("serve", check=False)
    assert done.returncode == 1
    assert "before it served, 3 times in a row; its lines in the log say why" in done.stderr
    assert "no worker starts on this machine" in done.stderr
    assert "Admin key" not in done.stdout, "a start that failed issued a key"


def test_a_journal_that_cannot_be_had_is_said_before_any_worker_starts(tmp_path: Path) -> None:
    gateway = write_gateway(tmp_path / "gateway", CONFIG | {"server": {"workers": 2}})
    gateway.data_dir.mkdir()
    (gateway.data_dir / "journal").write_text("this is no folder")
    done = gateway.weir("serve", check=False)
    assert done.returncode == 1
    assert "the journal in" in done.stderr and "worker=" not in done.stderr
    assert "Admin key" not in done.stdout, "a start that failed issued a key"
