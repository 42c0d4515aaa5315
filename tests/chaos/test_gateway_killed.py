"""`kill -9` of the whole gateway under load: what a client has seen the end of is in the books once, and nothing is in them twice."""

import asyncio
import json
import random
import sqlite3
import time

import httpx
import pytest

from tests.real.gateway import Gateway, StartGateway

pytestmark = pytest.mark.chaos

CLIENTS = 16
KILLS = 3


async def load(gateway: Gateway, key: str, ended: dict[str, int], stop: asyncio.Event, seed: int) -> None:
    """Ask without a pause, streams and whole answers in turn; note each event id whose answer's end was seen, with its completion tokens."""
    chance = random.Random(seed)
    body = {"model": "echo", "messages": [{"role": "user", "content": "one two three four five six seven"}], "stream_options": {"include_usage": True}}
    async with httpx.AsyncClient(base_url=gateway.base_url, headers={"authorization": f"Bearer {key}"}, timeout=10, trust_env=False) as client:
        while not stop.is_set():
            stream = chance.random() < 0.5
            try:
                async with client.stream("POST", "/chat/completions", json={**body, "stream": stream}) as response:
                    text = (await response.aread()).decode()
            except httpx.HTTPError:
                await asyncio.sleep(0.01)  # the gateway is gone: wait for the next one
                continue
            if response.status_code != 200:
                continue
            if stream and text.endswith("data: [DONE]\n\n"):
                usage = json.loads(text.strip().split("\n\n")[-2][6:])["usage"]
            elif not stream:
                usage = json.loads(text)["usage"]
            else:
                continue
            ended[response.headers["x-weir-event"]] = usage["completion_tokens"]


async def test_what_a_client_saw_the_end_of_is_booked_once_after_kill_nine(gateway_process: StartGateway) -> None:
    seed = int(time.time())
    print(f"seed {seed}")
    chance = random.Random(seed)
    gateway = gateway_process(
        {
            "backends": {"echo": {"provider": "echo", "echo": {"token_ms": 1}}},
            "models": {"echo": {"routes": [{"backend": "echo", "model": "echo"}]}},
            "seed": {
                "plans": {"p": {"credits": "100000"}},
                "tenants": {"t": {"plan": "p"}},
                "rates": {"echo": {"input": "1000", "output": "3000"}},
            },
        }
    )
    key = await asyncio.to_thread(gateway.issue_key, "t")
    ended: dict[str, int] = {}
    stop = asyncio.Event()
    clients = [asyncio.create_task(load(gateway, key, ended, stop, seed + number)) for number in range(CLIENTS)]
    for _ in range(KILLS):
        before = len(ended)
        async with asyncio.timeout(30):
            while len(ended) < before + 100 + chance.randrange(200):
                await asyncio.sleep(0.005)
        gateway.kill()
        await asyncio.to_thread(gateway.start)
    stop.set()
    await asyncio.gather(*clients)
    assert await asyncio.to_thread(gateway.stop) == 0

    with sqlite3.connect(gateway.data_dir / "weir.db") as books:
        booked = dict(books.execute("select id, output from usage_event"))
        [(count,)] = books.execute("select count(*) from usage_event")
        recovered = dict(books.execute("select id, charge_ncr from usage_event where outcome = 'recovered'"))
        [(charged, covered)] = books.execute("select sum(charge_ncr), sum(covered_ncr) from usage_event")
        [(left,)] = books.execute("select sum(remaining_ncr) from grant_balance")
    books.close()
    assert len(ended) > KILLS * 100
    missing = ended.keys() - booked.keys()
    assert not missing, f"{len(missing)} of {len(ended)} answers that were seen to their end are in no book"
    assert {event: booked[event] for event in ended} == ended
    assert count == len(booked)
    assert not recovered.keys() & ended.keys()
    assert len(recovered) <= KILLS * CLIENTS
    assert charged == covered and left == 100_000 * 10**9 - charged
    verified = gateway.weir("ledger", "verify")
    assert verified.returncode == 0, verified.stdout
    assert not list((gateway.data_dir / "journal").glob("damaged-*")), "a torn record of a killed process is no damage"
