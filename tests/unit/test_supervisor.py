"""A child is started, awaited, started again and never left behind, whichever way its parent ends."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backends.config import BackendConfig
from backends.errors import ChildFailed, TimedOut
from backends.opened import Opened
from backends.pool import Pool
from backends.supervisor import Child, State, Supervisor, free_port, has_gpu, local_child, vllm_child, without_secrets
from backends.transport.direct import DirectTransport
from backends.transport.seam import Answer, Exchange
from tests.transport import ScriptedAnswer, ScriptedTransport, call_of

SERVER = """
import http.server, subprocess, sys
print("hello from the child", flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def server(code: str = SERVER, **more: float) -> Child:
    return Child(name="test", command=(sys.executable, "-c", code, "{port}"), **{"ready_s": 20.0, "grace_s": 2, **more})  # type: ignore[arg-type]


def alive(pid: int) -> bool:
    """Say whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def until_gone(*pids: int) -> None:
    async with asyncio.timeout(10):
        while any(alive(pid) for pid in pids):
            await asyncio.sleep(0.02)


async def until(supervisor: Supervisor, state: State, restarts: int) -> None:
    async with asyncio.timeout(20):
        while (supervisor.state, supervisor.restarts) != (state, restarts):
            await asyncio.sleep(0.02)


async def gone(transport: DirectTransport) -> None:
    """Close a transport, and wait until its sockets are."""
    await transport.aclose()
    async with asyncio.timeout(10):
        while transport.pool.count:
            await asyncio.sleep(0.01)


async def test_a_child_is_ready_when_its_health_path_answers_and_gone_when_it_is_stopped(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "weir.child.test")
    supervisor = Supervisor(server(), DirectTransport())
    await supervisor.start()
    assert str(supervisor.state) == "ready"
    assert supervisor.base_url == f"http://127.0.0.1:{supervisor.port}/v1"
    assert supervisor.pid is not None
    (child,) = children_of(supervisor.pid)
    await supervisor.stop()
    await supervisor.stop()
    assert str(supervisor.state) == "stopped"
    await until_gone(supervisor.pid, child)
    assert "hello from the child" in caplog.text


@pytest.mark.parametrize("given", [("--api-key", "hush"), ("--api-key=hush",), ("--hf-token", "hush")])
async def test_the_log_of_a_start_holds_no_key_of_the_command(given: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "weir.child.test")
    with pytest.raises(ChildFailed):
        await Supervisor(Child(name="test", command=(sys.executable, "-c", "", *given, "--port", "{port}")), DirectTransport()).start()
    assert "hush" not in caplog.text and "[hidden] --port" in caplog.text


async def test_a_child_that_dies_is_started_again_on_the_same_port() -> None:
    supervisor = Supervisor(server(), DirectTransport())
    await supervisor.start()
    port = supervisor.port
    assert supervisor.pid is not None
    os.kill(children_of(supervisor.pid)[0], signal.SIGKILL)
    await until(supervisor, "ready", 1)
    assert supervisor.port == port
    await supervisor.stop()


async def test_a_child_that_hangs_is_ended_and_started_again_on_the_same_port(caplog: pytest.LogCaptureFixture) -> None:
    transport = DirectTransport()
    supervisor = Supervisor(server(poll_s=0.02, answer_s=0.2, misses_max=3, grace_s=1), transport)
    await supervisor.start()
    port = supervisor.port
    assert supervisor.pid is not None
    (child,) = children_of(supervisor.pid)
    os.kill(child, signal.SIGSTOP)
    await until(supervisor, "ready", 1)
    await until_gone(child)
    assert supervisor.port == port
    assert "has not answered /health 3 times" in caplog.text
    await supervisor.stop()
    await gone(transport)


async def test_a_child_that_misses_a_poll_now_and_then_is_left_alone() -> None:
    seen = asyncio.Event()

    class Forgetful(ScriptedTransport):
        """Loses two polls of three."""

        async def open(self, exchange: Exchange) -> Answer:
            self.sent.append(exchange)
            if len(self.sent) > 20:
                seen.set()
            if len(self.sent) > 2 and len(self.sent) % 3:
                raise TimedOut("first_byte", 10)
            return ScriptedAnswer(200, [])

    supervisor = Supervisor(server(poll_s=0.001, misses_max=3), Forgetful())
    await supervisor.start()
    await asyncio.wait_for(seen.wait(), 20)
    assert (supervisor.state, supervisor.restarts) == ("ready", 0)
    await supervisor.stop()


async def test_a_child_that_ends_before_it_is_ready_is_reported_with_its_last_words() -> None:
    with pytest.raises(ChildFailed, match=r"(?s)ended with status 3 .*no weights here"):
        await Supervisor(server("import sys; print('no weights here'); sys.exit(3)"), DirectTransport()).start()


async def test_a_command_that_does_not_exist_is_reported_by_name() -> None:
    with pytest.raises(ChildFailed, match="no-such-program cannot be started"):
        await Supervisor(Child(name="test", command=("no-such-program",)), DirectTransport()).start()


async def test_a_child_that_stays_silent_is_given_up_and_ended() -> None:
    supervisor = Supervisor(server("import time; time.sleep(600)", ready_s=0.5), DirectTransport())
    with pytest.raises(ChildFailed, match=r"not ready after 0\.5 s"):
        await supervisor.start()
    assert supervisor.pid is not None
    await until_gone(supervisor.pid)


async def test_a_child_that_ignores_sigterm_is_killed_after_its_grace_with_what_it_started() -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    stubborn = f"{deaf}\nimport subprocess, sys\nsubprocess.Popen([sys.executable, '-c', '{deaf}; import time; time.sleep(600)'])\n"
    supervisor = Supervisor(server(stubborn + SERVER, grace_s=1), DirectTransport())
    await supervisor.start()
    assert supervisor.pid is not None
    (child,) = children_of(supervisor.pid)
    (grandchild,) = children_of(child)
    await supervisor.stop()
    await until_gone(child, grandchild)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own tie exists on Linux")
@pytest.mark.parametrize("victim", ["gateway", "tether"])
async def test_nothing_is_left_when_the_gateway_or_the_tether_is_killed_with_9(victim: str) -> None:
    program = textwrap.dedent(f"""
        import asyncio, sys
        from backends.supervisor import Child, Supervisor
        from backends.transport.direct import DirectTransport
        async def main():
            supervisor = Supervisor(Child(name="test", command=(sys.executable, "-c", {SERVER!r}, "{{port}}"), grace_s=2), DirectTransport())
            await supervisor.start()
            print(supervisor.pid, flush=True)
            await asyncio.Event().wait()
        asyncio.run(main())
    """)
    gateway = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=subprocess.PIPE)
    assert gateway.stdout is not None
    tether = int(await gateway.stdout.readline())
    (child,) = children_of(tether)
    assert alive(child)
    os.kill(gateway.pid if victim == "gateway" else tether, signal.SIGKILL)
    await until_gone(child)
    with contextlib.suppress(ProcessLookupError):
        gateway.kill()
    await gateway.wait()
    await until_gone(tether)


def test_a_port_is_free() -> None:
    assert 1024 < free_port() < 65536


def test_the_embedded_server_is_told_its_port_and_name() -> None:
    command = local_child(alias="tiny", model=Path("m.gguf")).command
    assert command[1:] == ("-P", "-m", "backends.local_server", "--port", "{port}", "--alias", "tiny", "--model", "m.gguf")


def test_vllm_gets_what_a_cpu_needs_only_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.supervisor.has_gpu", lambda: True)
    on_gpu = vllm_child(Path("weights"), served_name="m", environ={"PATH": "/bin"})
    monkeypatch.setattr("backends.supervisor.has_gpu", lambda: False)
    on_cpu = vllm_child(Path("weights"), served_name="m", environ={"PATH": "/bin"})
    assert "--enforce-eager" not in on_gpu.command
    assert "OMP_NUM_THREADS" not in (on_gpu.env or {})
    assert "--enforce-eager" in on_cpu.command
    assert (on_cpu.env or {})["OMP_NUM_THREADS"] == "1"
    for child in (on_gpu, on_cpu):
        assert child.command[:5] == ("vllm", "serve", "weights", "--port", "{port}")
        assert "--scheduling-policy" in child.command
        assert (child.env or {})["PATH"] == "/bin"


def test_vllm_is_given_none_of_our_secrets_and_all_of_its_own_settings() -> None:
    secrets = ("WEIR_PEPPER", "WEIR_DATABASE__URL", "OPENAI_API_KEY", "DEEPSEEK_API_KEY", "PGPASSWORD", "DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "X_TOKEN")
    ours = dict.fromkeys(secrets, "s")
    its = {"PATH": "/bin", "HOME": "/h", "VLLM_API_KEY": "k", "HF_TOKEN": "t", "HF_HOME": "/m", "CUDA_VISIBLE_DEVICES": "0", "TOKENIZERS_PARALLELISM": "false"}
    env = vllm_child(Path("weights"), served_name="m", environ={**ours, **its}).env or {}
    assert not set(ours) & set(env)
    assert its.items() <= env.items()
    assert without_secrets({**ours, "PATH": "/bin"}) == {"PATH": "/bin"}


def test_the_operators_arguments_and_environment_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.supervisor.has_gpu", lambda: False)
    child = vllm_child(Path("weights"), served_name="m", environ={"OMP_NUM_THREADS": "8"}, arguments=("--max-model-len=4096", "--scheduling-policy", "fcfs"))
    assert child.command.count("--scheduling-policy") == 1
    assert "--max-model-len" not in child.command
    assert child.command[-3:] == ("--max-model-len=4096", "--scheduling-policy", "fcfs")
    assert (child.env or {})["OMP_NUM_THREADS"] == "8"
    assert isinstance(has_gpu(), bool)


@pytest.mark.slow
async def test_the_real_embedded_server_chats_embeds_and_tells_no_path_of_this_machine() -> None:
    transport = DirectTransport()
    supervisor = Supervisor(local_child(alias="tiny"), transport)
    await supervisor.start()
    try:
        pool = Pool("local", BackendConfig.model_validate({"provider": "local", "urls": supervisor.base_url}), transport)
        assert await pool.probe(pool.replicas[0], transport)
        assert (pool.models(), pool.context_tokens("tiny")) == (("tiny",), 2048)
        body = b'{"model":"x","messages":[{"role":"user","content":"Say hi"}],"max_tokens":4}'
        answer = await pool.open(call_of(body), "tiny")
        text = b"".join([part async for part in parts(answer)])
        told = json.loads(text)
        assert (answer.status, told["model"], told["usage"]["completion_tokens"] <= 4) == (200, "tiny", True)
        assert b"gguf" not in text
        answer = await pool.open(call_of(b'{"model":"x","input":["a","b"]}', endpoint="embeddings"), "tiny")
        assert len(json.loads(b"".join([part async for part in parts(answer)]))["data"]) == 2
        assert await pool.count("hello world", "tiny") == 2
        for _ in range(6):  # it closes connections that it called keep-alive: nobody may notice
            answer = await pool.open(call_of(body[:-1] + b',"stream":true}', stream=True), "tiny")
            assert b"[DONE]" in b"".join([part async for part in parts(answer)])
        assert (pool.inflight, pool.replicas[0].failures) == (0, 0)
    finally:
        await supervisor.stop()
        await transport.aclose()


async def parts(answer: Opened) -> AsyncIterator[bytes]:
    while part := await answer.read():
        yield part
