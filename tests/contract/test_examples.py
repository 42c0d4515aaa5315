"""Every program in `examples/` is run as its reader would run it, against the real gateway in front of a real model."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real.child import ROOT
from tests.real.gateway import Gateway, StartGateway
from tests.real.servers import ModelServer

EXAMPLES = sorted(path.name for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".sh"))
SAYS = {
    "openai_sync.py": r"tokens: \d+ in, \d+ out\ncost: [\d.]+ credits\nlane: fast, credits left: \d+",
    "openai_async.py": r"Paris: .+\nKyoto: .+\nNairobi: .+",
    "openai_stream.py": r"tokens: \d+ in, \d+ out\ncost: [\d.]+ credits",
    "langchain_chat.py": r"usage: \{'input_tokens': \d+, 'output_tokens': \d+",
    "curl.sh": r"(?s)== models.*\"smollm2\".*x-weir-lane: fast.*data: \[DONE\].*== the balance\n\{",
}


@pytest.fixture(scope="module")
def gateway(shared_gateway_process: StartGateway, local_server: ModelServer) -> Gateway:
    return shared_gateway_process(
        {
            "backends": {"local": {"provider": "openai_compatible", "urls": [local_server.base_url], "slots": 4}},
            "models": {"smollm2": {"routes": [{"backend": "local", "model": local_server.model}], "context_tokens": 2048, "output_tokens_max": 256}},
            "seed": {
                "plans": {"reader": {"credits": "1000"}},
                "tenants": {"reader": {"plan": "reader"}},
                "rates": {"smollm2": {"input": "0.5", "output": "1.5"}},
            },
        }
    )


@pytest.fixture(scope="module")
def key(gateway: Gateway) -> str:
    return gateway.issue_key("reader")


def command(example: str) -> list[str]:
    path = str(ROOT / "examples" / example)
    if example.endswith(".py"):
        return [sys.executable, path]
    if shutil.which("curl") is None:
        pytest.skip("this machine has no curl")
    return ["bash", path]


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_says_what_it_promises(example: str, gateway: Gateway, key: str, tmp_path: Path) -> None:
    keys = {"WEIR_BASE_URL": gateway.base_url, "WEIR_API_KEY": key, "WEIR_MODEL": "smollm2"}
    done = subprocess.run(command(example), env={**os.environ, **keys}, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{gateway.log()[-2000:]}"
    assert re.search(SAYS[example], done.stdout), done.stdout
