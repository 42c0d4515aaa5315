"""Processes under measurement: pinned to a core, ended for certain, their CPU time and memory read from the kernel."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

CORES = sorted(os.sched_getaffinity(0))
TARGET_CORE, LOAD_CORE = CORES[-1], CORES[0]


class Process:
    """A server pinned to one core (None: to none), with everything it starts. Its output goes to a file."""

    def __init__(self, command: Sequence[str | Path], log: Path, *, core: int | None, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
            )

    def wait_ready(self, port: int, path: str, limit_s: float = 60) -> None:
        """Wait until a GET of `path` answers 200. Raises `RuntimeError`, naming the log, when it does not."""
        deadline = time.monotonic() + limit_s
        while not _answers(port, path):
            if self._popen.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self._popen.args!r:.60} is not ready; the end of {self.log}:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def pids(self) -> list[int]:
        """List the process and its descendants."""
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):  # it ended while we looked
                    stat = (entry / "stat").read_text()
                    children.setdefault(int(stat[stat.rindex(")") + 2 :].split()[1]), []).append(int(entry.name))
        found, queue = [], [self._popen.pid]
        while queue:
            found.append(pid := queue.pop())
            queue += children.get(pid, [])
        return found

    def cpu_us(self) -> float:
        """Sum user and system time of the tree so far, from each process's own CPU clock."""
        total_ns = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                total_ns += time.clock_gettime_ns((~pid << 3) | 2)  # linux: CPUCLOCK_SCHED of a process
        return total_ns / 1000

    def rss_kb(self) -> int:
        """Sum the resident memory of the tree, in kB."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
        return total

    def stop(self) -> None:
        """End it with SIGTERM, and its group with SIGKILL if that takes over 20 s."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait(5)


def get(port: int, path: str) -> bytes:
    """GET over a fresh connection and return the answer with its head. Raises `OSError`."""
    with socket.create_connection(("127.0.0.1", port), 2) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
        connection.settimeout(3)
        data = bytearray()
        with contextlib.suppress(TimeoutError):
            while part := connection.recv(65536):
                data += part
                head, gap, body = data.partition(b"\r\n\r\n")
                if gap and f"content-length: {len(body)}".encode() in head.lower():
                    break  # whoever keeps the connection open after a whole answer is not waited for
        return bytes(data)


def _answers(port: int, path: str) -> bool:
    try:
        return get(port, path)[9:12] == b"200"
    except OSError:
        return False
