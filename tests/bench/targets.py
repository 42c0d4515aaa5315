"""What is measured: nothing in between (`direct`), nginx as a plain proxy, and Weir with everything on that a user would have on.

Weir runs as its users run it, one process: keys, plan, credits, holds, rates, journal and database, logs, metrics. The exactness of
its books is checked after the run: a fast gateway that loses an event has not won.
"""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import yaml

from tests.bench.processes import LOAD_CORE, TARGET_CORE, Process, get
from tests.real.child import free_port

ROOT = Path(__file__).resolve().parents[2]
MODEL = "mock-model"
WEIR = Path(sys.executable).with_name("weir")

NGINX_CONF = """
worker_processes 1; daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.err warn;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_buffer_size 512k; client_max_body_size 32m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream mock {{ server 127.0.0.1:{upstream}; keepalive 2048; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port}; tcp_nodelay on;
    location / {{ proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; proxy_read_timeout 600s; }} }}
}}
"""


@dataclass
class Target:
    """One thing that answers chat completions on a port. `process` is None for the mock itself."""

    name: str
    port: int
    process: Process | None = None
    headers: tuple[str, ...] = ()
    requests: int = 0  # that it passed on to the mock
    path: str = "/v1/chat/completions"
    model: str = MODEL

    def stop(self) -> None:
        if self.process:
            self.process.stop()

    def check(self) -> str:
        """Say, after `stop`, whether its books are exact; "" where it keeps none."""
        return ""


@dataclass
class Mock:
    """The instant upstream, on the load's core."""

    folder: Path
    port: int = field(default_factory=free_port)

    def start(self) -> "Mock":
        self.process = Process([self.folder / "mock", str(self.port)], self.folder / "mock.log", core=LOAD_CORE)
        self.process.wait_ready(self.port, "/v1/models")
        return self

    def served(self) -> int:
        """Count the chat completions served so far."""
        count: int = json.loads(get(self.port, "/stats").partition(b"\r\n\r\n")[2])["requests"]
        return count


def build(folder: Path) -> None:
    """Compile the mock and the load generator where they are missing or old."""
    folder.mkdir(parents=True, exist_ok=True)
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    for name in ("mock", "load"):
        source, program = Path(__file__).with_name(f"{name}.c"), folder / name
        if program.exists() and program.stat().st_mtime >= source.stat().st_mtime:
            continue
        if compiler is None:
            sys.exit("the bench needs a C compiler (on Debian and Ubuntu: apt install gcc libc6-dev)")
        subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True)


def direct(mock: Mock) -> Target:
    """Measure the mock without anything in between: the zero of the scale."""
    return Target("direct", mock.port)


def nginx(mock: Mock, folder: Path) -> Target:
    """Start nginx as a plain proxy: one worker, no log, keep-alive to the mock. Raises `RuntimeError` where there is none."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise RuntimeError("nginx is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX_CONF.format(folder=folder, port=port, upstream=mock.port))
    process = Process([program, "-c", config, "-e", folder / "nginx.err"], folder / "nginx.log", core=TARGET_CORE)
    process.wait_ready(port, "/v1/models")
    return Target("nginx", port, process)


def bare(mock: Mock, folder: Path) -> Target:
    """Start the yardstick: a relay of bytes on our own event loop, which knows no HTTP (`bare.py`)."""
    port = free_port()
    process = Process([sys.executable, "-m", "tests.bench.bare", str(port), str(mock.port)], folder / "bare.log", core=TARGET_CORE)
    process.wait_ready(port, "/v1/models")
    return Target("bare", port, process)


def other(name: str, spec: Mapping[str, str], folder: Path) -> Target:
    """Start another gateway: `command` (one process; it must route `mock-model` to the mock), `port`, `ready` path, `authorization`."""
    process = Process(["/bin/sh", "-c", f"exec {spec['command']}"], folder / f"{name}.log", core=TARGET_CORE)
    process.wait_ready(int(spec["port"]), spec.get("ready", "/health"), 120)
    return Target(name, int(spec["port"]), process, (f"Authorization: {spec.get('authorization', 'Bearer sk-bench')}",))


class Weir(Target):
    """The gateway with everything on; several workers have both cores, beside the mock and the load."""

    def __init__(self, mock: Mock, folder: Path, database_url: str | None = None, *, workers: int = 1) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        port = free_port()
        self.folder, self.database_url = folder, database_url
        self.config = folder / "weir.yaml"
        self.config.write_text(yaml.safe_dump(self._settings(port, mock.port), sort_keys=False))
        serve: list[str | Path] = [WEIR, "serve", "--config", self.config, "--workers", str(workers)]
        process = Process(serve, folder / "weir.log", core=TARGET_CORE if workers == 1 else None)
        process.wait_ready(port, "/ready")
        try:
            key = self._issue_key()
        except BaseException:  # also an interrupt: nothing that was started is left behind
            process.stop()
            raise
        super().__init__(folder.name, port, process, (f"Authorization: Bearer {key}",))

    def check(self) -> str:
        """Compare the usage events in the database with what the mock served for this gateway."""
        query = "SELECT count(*), count(DISTINCT id), coalesce(sum(output), 0) FROM usage_event"
        if self.database_url is None:
            with sqlite3.connect(self.folder / "data" / "weir.db") as database:
                events, distinct, tokens = database.execute(query).fetchone()
        else:
            with psycopg.connect(self.database_url) as connection:
                events, distinct, tokens = connection.execute(query).fetchone() or (0, 0, 0)
        verdict = "exact" if events == distinct == self.requests else "WRONG"
        return f"{self.name}: {self.requests:,} requests reached the upstream, {events:,} usage events ({tokens:,} output tokens): {verdict}"

    def _settings(self, port: int, upstream: int) -> dict[str, object]:
        return {
            "server": {"port": port},
            "data_dir": str(self.folder / "data"),
            **({"database": {"url": self.database_url}, "secret": "the bench has no secrets"} if self.database_url else {}),
            "backends": {"mock": {"provider": "openai_compatible", "urls": [f"http://127.0.0.1:{upstream}/v1"], "slots": 16384}},
            "models": {MODEL: {"routes": [{"backend": "mock", "model": MODEL}]}},
            "lanes": {"fast": {"depth_max": 8192}},
            "seed": {
                "plans": {"bench": {"credits": "9000000"}},
                "tenants": {"bench": {"plan": "bench"}},
                "rates": {MODEL: {"input": "0.5", "output": "1.5"}},
            },
        }

    def _issue_key(self) -> str:
        command: list[str | Path] = [WEIR, "key", "issue", "bench", "--quiet", "--config", self.config]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"no key could be issued:\n{done.stdout}{done.stderr}")
        return done.stdout.strip()
