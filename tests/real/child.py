"""A server as a child process of the tests: its own process group, its log in a file, an end that leaves nothing behind.

The child gets SIGKILL when the tests' own process dies, so that an aborted run leaves no server running.
"""

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)
_chance = random.SystemRandom()  # a test that seeds `random` must not find the port of the test before it


def free_port() -> int:
    """Find a TCP port that nobody listens on now, below those of outgoing connections: one of these could take it before its server does."""
    while True:
        port = _chance.randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def status_of(url: str) -> int | None:
    """GET a URL and return its status; None when nobody answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code
    except OSError:
        return None


def clean_environment() -> dict[str, str]:
    """Return this process's environment without any setting of the gateway."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WEIR_")}


def die_with_parent() -> None:
    """For `preexec_fn`: have the kernel end this child when its parent ends."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """One running server."""

    def __init__(self, command: Sequence[str | Path], log: Path, *, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> None:
        self.log_path = log
        self.command = [str(part) for part in command]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**clean_environment(), "PYTHONUNBUFFERED": "1", **(env or {})},
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        """Return all that the server has printed."""
        return self.log_path.read_text(errors="replace")

    def wait_ready(self, url: str, limit_s: float) -> None:
        """Wait until a GET of `url` answers 200. Raises with the end of the log when the server ends first or takes too long."""
        deadline = time.monotonic() + limit_s
        while status_of(url) != 200:
            if (code := self.process.poll()) is not None:
                raise RuntimeError(f"{self.command[:4]} ended with status {code} before it was ready:\n{self.log()[-4000:]}")
            if time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.command[:4]} was not ready after {limit_s:g} s:\n{self.log()[-4000:]}")
            time.sleep(0.05)

    def signal(self, number: int) -> None:
        """Send a signal to the process itself, not to its children."""
        self.process.send_signal(number)

    def stop(self, limit_s: float = 15) -> int:
        """End it in good order (SIGTERM) and return its status; whatever is left of its group afterwards is killed."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(limit_s)
            except subprocess.TimeoutExpired:
                self.kill()
        self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """End the whole process group at once, as `kill -9` would. Harmless when it has ended."""
        with contextlib.suppress(ProcessLookupError):  # nothing of the group is left
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
