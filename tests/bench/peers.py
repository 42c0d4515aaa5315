"""The gateways that Weir is measured beside, each as its makers ship it, one process or worker, nothing metered: a gift to them.

They are installed into `.bench/peers` at their first use: from PyPI into an environment of their own each, from npm, or, nginx, by the system's package
manager beforehand. One that cannot be installed or does not start is reported and left out.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.processes import TARGET_CORE, Process
from tests.bench.targets import MODEL, Mock, Target
from tests.real.child import free_port

KEY = "sk-bench-0123456789abcdef"
INSTALL_S_MAX = 900
AUTHORIZED = f"Authorization: Bearer {KEY}"

TENSORZERO_CONFIG = """
[gateway]
observability.enabled = false
[models.{model}]
routing = ["mock"]
[models.{model}.providers.mock]
type = "openai"
model_name = "{model}"
api_base = "http://127.0.0.1:{upstream}/v1/"
api_key_location = "none"
"""
TENSORZERO_START = """
import sys, time
from tensorzero.tensorzero import _start_http_gateway
gateway = _start_http_gateway(config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False)
open(sys.argv[2], "w").write(gateway.base_url)
time.sleep(10**9)
"""
LITELLM_CONFIG = """
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/{model}, api_base: "http://127.0.0.1:{upstream}/v1", api_key: sk-upstream}}
litellm_settings: {{telemetry: false, num_retries: 0, callbacks: []}}
general_settings: {{master_key: {key}}}
"""
# Portkey 1.15.2 cannot stream on newer releases of hono ("TypeError: immutable"), so it gets those it was built with.
PORTKEY_PACKAGE = '{"name": "peers", "dependencies": {"@portkey-ai/gateway": "1.15.2"}, "overrides": {"hono": "4.9.7", "@hono/node-server": "1.13.8"}}'


def start(name: str, mock: Mock, folder: Path) -> Target:
    """Install a peer, if need be, and start it. Raises `RuntimeError` saying what is lacking."""
    place = folder / "peers" / name
    place.mkdir(parents=True, exist_ok=True)
    try:
        return PEERS[name](mock, place)
    except (OSError, subprocess.SubprocessError) as error:
        raise RuntimeError(str(error)) from error


def vllm_router(mock: Mock, place: Path) -> Target:
    """The vLLM project's router, in Rust."""
    program, port = _from_pypi(place, "vllm-router") / "vllm-router", free_port()
    command = [program, "--worker-urls", f"http://127.0.0.1:{mock.port}", "--port", port, "--policy", "round_robin"]
    command += ["--log-level", "error", "--prometheus-port", free_port(), "--max-concurrent-requests", 16384]
    process = _started(command, place, port, "/health")
    return Target("vllm-router", port, process, (AUTHORIZED,))


def tensorzero(mock: Mock, place: Path) -> Target:
    """TensorZero's gateway, in Rust, out of its Python package; its own storage is off."""
    python, url = _from_pypi(place, "tensorzero") / "python", place / "url"
    url.unlink(missing_ok=True)
    config = place / "tensorzero.toml"
    config.write_text(TENSORZERO_CONFIG.format(model=MODEL, upstream=mock.port))
    process = Process([python, "-c", TENSORZERO_START, config, url], place / "log", core=TARGET_CORE)
    until_s = time.monotonic() + 60
    while not (url.exists() and url.read_text().count(":") == 2):
        if time.monotonic() > until_s:
            process.stop()
            raise RuntimeError(f"it does not start; see {place / 'log'}")
        time.sleep(0.05)
    port = int(url.read_text().rsplit(":", 1)[1].split("/")[0])
    return Target("tensorzero", port, process, (), path="/openai/v1/chat/completions", model=f"tensorzero::model_name::{MODEL}")


def portkey(mock: Mock, place: Path) -> Target:
    """Portkey's gateway, in TypeScript."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        raise RuntimeError("node and npm are not installed")
    program = place / "node_modules/@portkey-ai/gateway/build/start-server.js"
    if not program.exists():
        (place / "package.json").write_text(PORTKEY_PACKAGE)
        _installed([npm, "install", "--silent", "--prefix", place], place)
    port = free_port()
    process = _started([node, program, "--headless", f"--port={port}"], place, port, "/", NODE_ENV="production")
    headers = (AUTHORIZED, "x-portkey-provider: openai", f"x-portkey-custom-host: http://127.0.0.1:{mock.port}/v1")
    return Target("portkey", port, process, headers)


def litellm(mock: Mock, place: Path) -> Target:
    """LiteLLM's proxy, in Python, without its database."""
    program, port = _from_pypi(place, "litellm[proxy]", "uvloop", "httptools") / "litellm", free_port()
    config = place / "config.yaml"
    config.write_text(LITELLM_CONFIG.format(model=MODEL, upstream=mock.port, key=KEY))
    command = [program, "--config", config, "--host", "127.0.0.1", "--port", port, "--num_workers", 1]
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return Target("litellm", port, _started(command, place, port, "/health/liveliness", **quiet), (AUTHORIZED,))


PEERS: dict[str, Callable[[Mock, Path], Target]] = {"vllm-router": vllm_router, "tensorzero": tensorzero, "portkey": portkey, "litellm": litellm}


def _from_pypi(place: Path, *packages: str) -> Path:
    """Install packages into an environment of their own; return the folder of its programs."""
    programs, done = place / "venv/bin", place / "venv/installed"
    if not done.exists():
        print(f"installing {packages[0]} ...", file=sys.stderr)
        _installed([sys.executable, "-m", "venv", "--clear", place / "venv"], place)
        _installed([programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], place)
        done.touch()
    return programs


def _installed(command: list[str | Path], place: Path) -> None:
    with (place / "install.log").open("ab") as log:
        if subprocess.run([str(part) for part in command], stdout=log, stderr=log, timeout=INSTALL_S_MAX, check=False).returncode != 0:
            raise RuntimeError(f"it cannot be installed; see {place / 'install.log'}")


def _started(command: list[object], place: Path, port: int, ready: str, **env: str) -> Process:
    process = Process([str(part) for part in command], place / "log", core=TARGET_CORE, env=env)
    process.wait_ready(port, ready, 120)
    return process
