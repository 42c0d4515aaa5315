"""The parent of several workers: what it does about one that dies, hangs, cannot be started or does not end. The workers here are tiny scripts."""

import asyncio
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli import workers
from gateway.cli.failure import Failure
from gateway.cli.workers import AWAY, Workers, run_directory
from gateway.config import Settings
from gateway.config.load import load_settings

SERVES = "import os,sys,time; os.write(int(sys.argv[3]), b'r'); "
LIVES = "time.sleep(60)"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "BACK_OFF_S", 0.01)
    monkeypatch.setattr(workers, "LOOK_S", 0.02)


def settings(tmp_path: Path, count: int = 2, grace_s: int = 5) -> Settings:
    path = tmp_path / "weir.yaml"
    path.write_text(
        f"data_dir: {tmp_path}\nserver: {{workers: {count}, shutdown_grace_s: {grace_s}}}\n"
        "backends: {echo: {provider: echo, slots: 5}, one: {provider: echo, slots: 1}}\n"
    )
    return load_settings(path)


def script(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(workers, "COMMAND", (sys.executable, "-I", "-S", "-c", text))


async def served(crew: Workers) -> None:
    async with asyncio.timeout(20):
        for worker in crew.all:
            await worker.ready.wait()


async def test_all_are_announced_once_and_end_when_asked(tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, "import signal,sys; signal.signal(15, lambda *_: sys.exit(0)); " + SERVES + LIVES)
    crew, said = Workers(settings(tmp_path, 3), listener, tmp_path, dict), asyncio.Event()
    loop = asyncio.get_running_loop()

    def announce() -> None:
        loop.call_soon_threadsafe(said.set)

    running = asyncio.create_task(crew.run(announce))
    async with asyncio.timeout(20):
        await said.wait()
    crew.stopping.set()
    assert await asyncio.wait_for(running, 20) == 0
    assert crew.figures()["weir_worker_restarts_total"] == {"0": 0, "1": 0, "2": 0}


async def test_one_that_dies_after_it_served_is_started_again_and_counted(tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, SERVES + "os.kill(os.getpid(), 9)")
    crew = Workers(settings(tmp_path, 1), listener, tmp_path, dict)
    running = asyncio.create_task(crew.run(lambda: None))
    async with asyncio.timeout(20):
        while crew.all[0].restarts < 5:  # more often than it may die before it serves
            await asyncio.sleep(0.005)
    crew.stopping.set()
    await asyncio.wait_for(running, 20)


async def test_one_that_keeps_dying_before_it_serves_stops_all(tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, "raise SystemExit(3)")
    crew, announced = Workers(settings(tmp_path), listener, tmp_path, dict), []
    with pytest.raises(Failure, match=r"worker [01] ended with status 3 before it served, 3 times in a row"):
        await asyncio.wait_for(crew.run(lambda: announced.append(1)), 20)
    assert not announced


async def test_a_database_away_at_a_restart_stops_nobody(tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "served"
    script(
        monkeypatch,
        f"import os,sys; here=os.path.exists({str(marker)!r}); here and sys.exit({AWAY}); open({str(marker)!r},'w'); os.write(int(sys.argv[3]), b'r')",
    )
    crew = Workers(settings(tmp_path, 1), listener, tmp_path, dict)
    running = asyncio.create_task(crew.run(lambda: None))
    async with asyncio.timeout(20):
        while crew.all[0].restarts < 5:
            await asyncio.sleep(0.005)
    assert not running.done()
    crew.stopping.set()
    assert await asyncio.wait_for(running, 20) == 0


async def test_one_whose_loop_stands_still_is_killed_and_started_again(
    tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "HANG_S", 0.2)
    script(monkeypatch, SERVES + LIVES)
    crew = Workers(settings(tmp_path, 1), listener, tmp_path, dict)
    running = asyncio.create_task(crew.run(lambda: None))
    async with asyncio.timeout(20):
        while crew.all[0].restarts < 1:
            await asyncio.sleep(0.005)
    crew.stopping.set()
    await asyncio.wait_for(running, 20)
    assert re.search(r"worker 0 \(process \d+\) has given no sign for \d+ s: killed", caplog.text)


async def test_one_that_does_not_end_is_killed_and_the_status_says_so(tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "END_S", 0.2)
    script(monkeypatch, "import signal; signal.signal(15, signal.SIG_IGN); " + SERVES + LIVES)
    crew = Workers(settings(tmp_path, 2, grace_s=0), listener, tmp_path, dict)
    running = asyncio.create_task(crew.run(lambda: None))
    await served(crew)
    crew.stopping.set()
    assert await asyncio.wait_for(running, 20) == 1


def test_the_run_directory_is_nobody_elses_and_too_long_a_path_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with run_directory() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(Failure, match="too long for a socket; name a shorter folder with TMPDIR"), run_directory():
        pass
    assert not list(deep.iterdir())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(Failure, match="name a folder that is writable with TMPDIR"), run_directory():
        pass


def test_a_signal_for_one_that_is_not_there_is_harmless(tmp_path: Path, listener: socket.socket) -> None:
    crew = Workers(settings(tmp_path, 1), listener, tmp_path, dict)
    crew.all[0].signal(signal.SIGTERM)
    crew.hurry()
