"""`books.durability: disk`: no client sees the end of an answer before its charge is on the medium; a medium that fails lets no new work in."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.house import House, open_house
from tests.unit.test_journal_durability import Disk


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    found = Disk()
    monkeypatch.setattr("billing.usage.segment.fdatasync", found)
    return found


@pytest.fixture
async def house(tmp_path: Path, disk: Disk) -> AsyncIterator[House]:
    """`echo` answers; nothing listens behind `gone`."""
    async with open_house(tmp_path, {"gone": "http://127.0.0.1:9"}, config="books:\n  durability: disk\n") as house:
        yield house


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def unfinished(work: "asyncio.Task[Any]") -> bool:
    """Give what is not held up the time to end, and tell whether it has not."""
    await asyncio.wait({work}, timeout=0.1)
    return not work.done()


@pytest.mark.parametrize(("model", "status"), [("echo", 200), ("gone", 502)])
async def test_an_answer_waits_for_the_medium_and_so_does_a_refusal_of_what_was_sent(house: House, disk: Disk, model: str, status: int) -> None:
    await house.chat(model="echo")
    disk.began.clear()
    disk.go.clear()
    asked = asyncio.create_task(house.chat(model=model))
    await until(disk.began.is_set)
    assert await unfinished(asked)
    disk.go.set()
    assert (await asked).status_code == status
    assert house.services.recorder.durable() is None


async def test_a_stream_is_passed_on_and_only_its_end_waits(house: House, disk: Disk) -> None:
    await house.chat(model="echo")
    disk.began.clear()
    disk.go.clear()
    seen: list[str] = []
    body = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}], "stream": True}

    async def read() -> None:
        async with house.client.stream("POST", "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {house.key}"}) as response:
            async for line in response.aiter_lines():
                seen.append(line)  # noqa: PERF401 - looked at while more comes

    reading = asyncio.create_task(read())
    await until(disk.began.is_set)
    assert await unfinished(reading)
    assert any("three" in line for line in seen)
    assert "data: [DONE]" not in seen
    disk.go.set()
    await reading
    assert "data: [DONE]" in seen


async def test_whoever_leaves_while_waiting_is_charged_once(house: House, disk: Disk) -> None:
    await house.chat(model="echo")
    disk.began.clear()
    disk.go.clear()
    asked = asyncio.create_task(house.chat(model="echo"))
    await until(disk.began.is_set)
    asked.cancel()
    disk.go.set()
    found = await house.events(2)
    assert [(one.outcome, one.status) for one in found] == [("complete", 200)] * 2


async def test_a_medium_that_fails_ends_the_answers_under_way_and_refuses_new_work_until_it_is_mended(house: House, disk: Disk) -> None:
    disk.broken = True
    assert (await house.chat(model="echo")).status_code == 200, "it was served: its end is not held back"
    await house.events(1)
    refused = await house.chat(model="echo")
    assert (refused.status_code, refused.json()["error"]["type"]) == (503, "server_error")
    ready = await house.client.get("/ready")
    assert ready.status_code == 503
    assert "the usage journal cannot be written" in ready.text
    disk.broken = False
    house.services.recorder._journal._mend_at_s = 0.0  # tried anew every few seconds

    async def ready_again() -> httpx.Response:
        async with asyncio.timeout(10):
            while (answer := await house.client.get("/ready")).status_code != 200:
                await asyncio.sleep(0.01)
        return answer

    await ready_again()
    assert (await house.chat(model="echo")).status_code == 200
    assert len(await house.events(2)) == 2


async def test_with_process_an_answer_does_not_wait(tmp_path: Path, disk: Disk) -> None:
    async with open_house(tmp_path, {}) as house:
        await house.chat(model="echo")
        await house.events(1)
        disk.go.clear()
        assert (await house.chat(model="echo")).status_code == 200
        disk.go.set()
