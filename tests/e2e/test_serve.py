"""`weir serve` as a newcomer meets it: what it prints works when pasted; what it starts it also ends."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.real.child import ROOT, Child, clean_environment, free_port, status_of
from tests.real.gateway import ADMIN_KEY, TENANT_KEY, WEIR

pytestmark = pytest.mark.slow


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Child]]:
    children: list[Child] = []
    yield children
    for child in children:
        child.kill()


def start(started: list[Child], folder: Path, port: int, *flags: str, limit_s: float = 60) -> Child:
    child = Child([WEIR, "serve", "--port", str(port), *flags], folder / f"serve-{len(started)}.log", cwd=folder)
    started.append(child)
    child.wait_ready(f"http://127.0.0.1:{port}/ready", limit_s)
    deadline = time.monotonic() + 10
    while not re.search("left:|weir key issue", child.log()):  # the last line of what it prints once it listens
        assert time.monotonic() < deadline, child.log()
        time.sleep(0.02)
    return child


def paste(command: list[str], stdin: str, folder: Path) -> str:
    """Run lines as they were printed, as a person pastes them."""
    done = subprocess.run(command, input=stdin, cwd=folder, env=clean_environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_lines_that_a_first_start_prints_work_when_pasted_and_a_second_start_prints_no_key(tmp_path: Path, started: list[Child]) -> None:
    port = free_port()
    child = start(started, tmp_path, port)
    log = child.log()
    assert len(set(ADMIN_KEY.findall(log))) == 1 and len(set(TENANT_KEY.findall(log))) == 1
    curls = [line for line in log.splitlines() if line.startswith("curl ")]
    assert len(curls) == 2
    if shutil.which("curl"):  # a machine with Python and nothing else has none
        answered = paste(["bash"], "\n".join(curls), tmp_path)
        assert re.search(r'"content":"[A-Z][a-z]+ [^"]{20,}"', answered), answered
        assert '"cost":0.0' in answered and '"remaining":"999.' in answered
    snippet = log[log.index("from openai import OpenAI") :]
    said = paste([sys.executable, "-"], "\n".join(snippet.splitlines()[:6]), tmp_path)
    assert re.search(r"cost: 0\.0\d+ credits; left: 999\.\d+", said), said
    assert child.stop() == 0
    again = start(started, tmp_path, port)
    assert not ADMIN_KEY.search(again.log()) and not TENANT_KEY.search(again.log())
    assert "weir key issue" in again.log()


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def gone(processes: list[psutil.Process], limit_s: float) -> bool:
    _, alive = psutil.wait_procs(processes, limit_s)
    return not alive


def is_model_server(process: psutil.Process) -> bool:
    try:
        return "backends.local_server" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it has ended meanwhile
        return False


def test_the_embedded_server_is_started_again_when_it_dies_and_ends_with_the_gateway(tmp_path: Path, started: list[Child]) -> None:
    port = free_port()
    child = start(started, tmp_path, port)
    [server] = [process for process in descendants(child.pid) if is_model_server(process)][-1:]
    server.kill()
    assert gone([server], 10)
    deadline = time.monotonic() + 30
    while not any(map(is_model_server, descendants(child.pid))) or status_of(f"http://127.0.0.1:{port}/ready") != 200:
        assert time.monotonic() < deadline, child.log()
        time.sleep(0.05)
    left = descendants(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    assert gone(left, 20), "a gateway that was killed left its model server behind"


@pytest.mark.vllm
def test_vllm_is_supervised_as_a_child(tmp_path: Path, started: list[Child]) -> None:
    venv, model = ROOT / ".vllm" / "venv", ROOT / ".vllm" / "smollm2"
    port = free_port()
    child = start(started, tmp_path, port, "--vllm", str(model), "--vllm-bin", str(venv / "bin" / "vllm"), "--", "--enable-prompt-tokens-details", limit_s=240)
    curls = [line for line in child.log().splitlines() if line.startswith("curl ")]
    answered = paste(["bash"], "\n".join(curls), tmp_path)
    assert '"content":"' in answered and '"cost":0.0' in answered
    left = descendants(child.pid)
    assert left
    assert child.process.poll() is None
    child.signal(signal.SIGTERM)
    assert child.process.wait(60) == 0
    assert gone(left, 20), "the gateway left its vLLM behind"
