"""The gateway as its users meet it: `weir serve --config` in a process of its own, on a free port, with its data in a folder.

Keys are issued with the `weir` command on the same books, or read from what the first start prints, as a person would.
"""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from tests.real.child import Child, clean_environment, free_port

WEIR = Path(sys.executable).with_name("weir")
ADMIN_KEY = re.compile(r"sk-weir-admin-[A-Za-z0-9_-]{43}")
TENANT_KEY = re.compile(r"sk-weir-(?!admin-)[A-Za-z0-9_-]{43}")


@dataclass
class Gateway:
    """One gateway under test. `start` may be called again after `kill` or `stop`: same port, same data."""

    folder: Path
    config_path: Path
    port: int
    env: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    child: Child | None = None

    @property
    def root_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.root_url}/v1"

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @cached_property
    def admin_key(self) -> str:
        """An admin's key, issued on the command line."""
        return self.weir("key", "issue", "--admin", "--quiet").stdout.strip()

    def issue_key(self, tenant: str, *flags: str) -> str:
        """Issue a tenant's key on the command line and return its secret."""
        return self.weir("key", "issue", tenant, "--quiet", *flags).stdout.strip()

    def printed_keys(self) -> tuple[str, str]:
        """Return the admin's and the demo tenant's key that the first start printed."""
        return self._printed(ADMIN_KEY, "admin key"), self._printed(TENANT_KEY, "tenant key")

    @property
    def pid(self) -> int:
        return self._child().pid

    def log(self) -> str:
        """Return all that the gateway has printed since the first start."""
        return (self.folder / "gateway.log").read_text(errors="replace")

    def start(self, *, limit_s: float = 60) -> "Gateway":
        """Start it and wait for /ready."""
        command: list[str | Path] = [WEIR, "serve", "--config", self.config_path, *self.flags]
        self.child = Child(command, self.folder / "gateway.log", env=self.env, cwd=self.folder)
        self.child.wait_ready(f"{self.root_url}/ready", limit_s)
        return self

    def stop(self, limit_s: float = 40) -> int:
        """End it with SIGTERM and return its exit status."""
        return self._child().stop(limit_s)

    def kill(self) -> None:
        """End it as `kill -9` would."""
        if self.child is not None:
            self.child.kill()

    def weir(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the `weir` command against the same configuration and data."""
        env = {**clean_environment(), **self.env, "WEIR_CONFIG": str(self.config_path)}
        done = subprocess.run([WEIR, *arguments], cwd=self.folder, env=env, capture_output=True, text=True, timeout=60, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"weir {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def admin(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> tuple[int, Any]:
        """Call the admin API with the admin key; returns the status and the decoded body (None where there is none)."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {key or self.admin_key}", "content-type": "application/json"}
        request = urllib.request.Request(f"{self.root_url}{path}", data=data, headers=headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=30) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as refusal:
            with refusal:
                status, text = refusal.code, refusal.read()
        return status, json.loads(text) if text else None

    def _child(self) -> Child:
        if self.child is None:
            raise RuntimeError("the gateway has not been started")
        return self.child

    def _printed(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.search(self.log())
        if found is None:
            raise AssertionError(f"no {what} was printed:\n{self.log()[-4000:]}")
        return found[0]


StartGateway = Callable[..., Gateway]


@contextmanager
def gateways(folder: Path) -> Iterator[StartGateway]:
    """Yield a function that starts a gateway with a configuration; each has its own port and data, and all are killed at the end."""
    started: list[Gateway] = []

    def start_gateway(config: Mapping[str, Any], *, env: Mapping[str, str] | None = None, flags: tuple[str, ...] = (), start: bool = True) -> Gateway:
        gateway = write_gateway(folder / f"gateway-{len(started)}", config, env=env, flags=flags)
        started.append(gateway)
        return gateway.start() if start else gateway

    try:
        yield start_gateway
    finally:
        for gateway in started:
            gateway.kill()


def write_gateway(folder: Path, config: Mapping[str, Any], *, env: Mapping[str, str] | None = None, flags: tuple[str, ...] = ()) -> Gateway:
    """Write the configuration with a free port and a data folder put in (unless it names its own), ready to be started."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"data_dir": str(folder / "data"), **config}
    content["server"] = {"port": free_port(), **content.get("server", {})}
    path = folder / "weir.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return Gateway(folder, path, content["server"]["port"], env or {}, flags)
