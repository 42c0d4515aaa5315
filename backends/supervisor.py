"""Servers that we run ourselves: started, watched, started again, and never left behind.

One `Supervisor` is one child: the embedded local model, or `vllm serve`. Its log lines go into ours under its name. It keeps its port over
restarts, so that the pool's address stays true. `tether.py` stands between and ends it when this process dies, however it dies.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from backends import tether
from backends.errors import BackendError, ChildFailed
from backends.health import ask, probe
from backends.transport.seam import Exchange, Origin, Timeouts, Transport

READY_POLL_S = 0.1
READY_TIMEOUTS = Timeouts(connect_s=1.0, first_byte_s=5.0, idle_s=5.0, total_s=10.0)
BACK_OFF_S = 0.5
BACK_OFF_S_MAX = 30.0
STABLE_S = 60.0  # a run this long clears what was held against it
LINE_BYTES_MAX = 4096
LAST_WORDS = 20  # lines

State = Literal["stopped", "starting", "ready", "waiting"]

# What the real vLLM needs to be well on a CPU: one process, one OpenMP thread (more collapse when anything else uses a core).
VLLM_ALWAYS = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
VLLM_ON_CPU = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
VLLM_ON_CPU_ARGUMENTS = {"--dtype": "bfloat16", "--enforce-eager": "", "--max-model-len": "2048", "--max-num-seqs": "16", "--kv-cache-memory-bytes": "67108864"}

_SECRET = re.compile(r"^WEIR_|(?:_KEY|_SECRET|_TOKEN|PASSWORD|PASSWD|_CREDENTIALS|DATABASE_URL)$", re.IGNORECASE)
_THEIR_OWN = ("VLLM_", "HF_")


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. `{port}` in the command becomes the port; `port` 0 picks a free one. `env` is the whole environment (None: ours).

    Once ready it is polled every `poll_s`; one that misses `misses_max` polls of `answer_s` in a row hangs, and is ended.
    """

    name: str
    command: tuple[str, ...]
    env: dict[str, str] | None = None
    host: str = "127.0.0.1"
    port: int = 0
    health_path: str = "/health"
    ready_s: float = 120.0
    grace_s: int = 10
    poll_s: float = 5.0
    answer_s: float = 10.0
    misses_max: int = 6  # more than a minute: a server that computes on the thread it answers from may be silent for a while


class Supervisor:
    """Keeps one child running. Belongs to one event loop, whose thread must live as long as the child (the kernel ties them)."""

    def __init__(self, child: Child, transport: Transport) -> None:
        self.child = child
        self.port = child.port
        self.state: State = "stopped"
        self.restarts = 0
        self.pid: int | None = None  # of the tether
        self._transport = transport
        self._log = logging.getLogger(f"weir.child.{child.name}")
        self._last_words: deque[str] = deque(maxlen=LAST_WORDS)
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def base_url(self) -> str:
        """The base URL of its OpenAI endpoints; true once it was started."""
        return f"http://{self.child.host}:{self.port}/v1"

    async def start(self) -> None:
        """Start the child and wait until it answers its health path. Raises `ChildFailed`, with its last words, if it ends or stays silent."""
        try:
            await self._spawn()
            await self._await_ready()
        except BaseException:  # cancelled or failed, a child that was begun is ended; then whatever it was goes on
            await self._end()
            raise
        self._keeper = asyncio.create_task(self._keep(), name=f"supervisor {self.child.name}")

    async def stop(self) -> None:
        """End the child: asked with SIGTERM, killed after its grace. Harmless when it is not running."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
        await self._end()

    async def _spawn(self) -> None:
        self.state = "starting"
        if self.port == 0:
            self.port = free_port(self.child.host)
        command = [part.replace("{port}", str(self.port)) for part in self.child.command]
        self._last_words.clear()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(Path(tether.__file__)), str(self.child.grace_s), str(os.getpid()), *command,
            env=self.child.env, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.pid = self._process.pid
        self._reader = asyncio.create_task(self._read_lines(self._process), name=f"log of {self.child.name}")
        self._log.info("started as process %d on port %d: %s", self._process.pid, self.port, _shown(command))

    async def _await_ready(self) -> None:
        """Poll the health path. Raises `ChildFailed`."""
        assert self._process is not None
        began_s = time.monotonic()
        exchange = self._health(READY_TIMEOUTS)
        while self._process.returncode is None:
            with contextlib.suppress(BackendError):  # it is not there yet: that is what is being waited for
                status, _ = await ask(self._transport, exchange)
                if status == 200 and self._process.returncode is None:
                    self.state = "ready"
                    self._log.info("ready after %.1f s at %s", time.monotonic() - began_s, self.base_url)
                    return
            if time.monotonic() - began_s > self.child.ready_s:
                raise ChildFailed(f"{self.child.name} was not ready after {self.child.ready_s:g} s; its last words:\n{self._said()}")
            await asyncio.sleep(READY_POLL_S)
        await self._drained()
        raise ChildFailed(f"{self.child.name} ended with status {self._process.returncode} before it was ready; its last words:\n{self._said()}")

    async def _keep(self) -> None:
        """Wait for the child's end, or bring it about when it hangs, and start it again, later each time; a long run clears the record."""
        failures = 0
        while True:
            assert self._process is not None
            began_s = time.monotonic()
            status = await self._ended_or_hung(self._process)
            await self._drained()
            failures = 0 if time.monotonic() - began_s >= STABLE_S else failures
            while self.state != "ready" or self._process.returncode is not None:
                pause_s = min(BACK_OFF_S * 2.0**failures, BACK_OFF_S_MAX)
                failures = min(failures + 1, 16)
                self.state = "waiting"
                self._log.warning("ended with status %s; starting it again in %.1f s", status, pause_s)
                await asyncio.sleep(pause_s)
                self.restarts += 1
                try:
                    await self._spawn()
                    await self._await_ready()
                except (ChildFailed, OSError) as error:
                    self._log.error("%s", error)
                    await self._end()

    async def _ended_or_hung(self, process: asyncio.subprocess.Process) -> int | None:
        """Return the child's status when it has ended; one that hangs is ended first."""
        child = self.child
        exchange = self._health(Timeouts(connect_s=child.answer_s, first_byte_s=child.answer_s, idle_s=child.answer_s, total_s=child.answer_s))
        missed = 0
        while missed < child.misses_max:
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(process.wait(), child.poll_s)
            why = await probe(self._transport, exchange)
            missed = 0 if why is None else missed + 1
        if process.returncode is None:
            self._log.error("has not answered %s %d times in a row: it hangs, and is ended", child.health_path, missed)
            await self._end()
        return process.returncode

    def _health(self, timeouts: Timeouts) -> Exchange:
        origin = Origin(scheme="http", host=self.child.host, port=self.port)
        return Exchange(method="GET", origin=origin, path=self.child.health_path, timeouts=timeouts)

    async def _end(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
                process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), self.child.grace_s + 5)
            except TimeoutError:
                self._log.error("did not end: killed")
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        await self._drained()
        self.state = "stopped"

    async def _drained(self) -> None:
        """Wait for the last log lines; a grandchild that keeps the pipe open is not waited for."""
        if self._reader is not None:
            await asyncio.wait((self._reader,), timeout=1.0)
            self._reader.cancel()
        if self._process is not None:  # its pipe too, which a reader that was not waited for leaves open; asyncio offers no other way
            self._process._transport.close()  # type: ignore[attr-defined]

    async def _read_lines(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        pending = b""
        while data := await process.stdout.read(65_536):
            *lines, pending = (pending + data).replace(b"\r", b"\n").split(b"\n")
            if len(pending) > LINE_BYTES_MAX:
                lines, pending = [*lines, pending], b""
            for line in lines:
                self._say(line)
        self._say(pending)

    def _say(self, line: bytes) -> None:
        text = line[:LINE_BYTES_MAX].decode("utf-8", "replace").rstrip()
        if text:
            self._last_words.append(text)
            self._log.info("%s", text)

    def _said(self) -> str:
        return "\n".join(self._last_words) or "(it said nothing)"


def _shown(command: Sequence[str]) -> str:
    """Write a command for the log: the value of an argument that is named like a key is hidden."""
    shown: list[str] = []
    for part in command:
        name, given, _ = part.partition("=")
        if shown and "=" not in shown[-1] and _is_secret(shown[-1]) and not part.startswith("--"):
            part = "[hidden]"
        shown.append(f"{name}=[hidden]" if given and _is_secret(name) else part)
    return " ".join(shown)


def _is_secret(argument: str) -> bool:
    return argument.startswith("--") and _SECRET.search("_" + argument[2:].replace("-", "_")) is not None


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that was free a moment ago."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def local_child(*, model: Path | None = None, alias: str = "smollm2", name: str = "local") -> Child:
    """Describe the embedded default: llama.cpp's server over a small model, in a process of its own."""
    chosen = () if model is None else ("--model", str(model))
    command = (sys.executable, "-P", "-m", "backends.local_server", "--port", "{port}", "--alias", alias, *chosen)
    return Child(name=name, command=command, ready_s=60.0, grace_s=3)


def vllm_child(model_dir: Path, *, served_name: str, environ: Mapping[str, str], arguments: Sequence[str] = (), executable: str = "vllm") -> Child:
    """Describe `vllm serve MODEL_DIR`. The operator's arguments and environment win over ours; CPU settings are added only where there is no GPU.

    No secret of ours is in its environment, for a model may bring code. It schedules by priority and names its answers as we do, unless the
    arguments say otherwise.
    """
    ours = {
        "--host": "127.0.0.1",
        "--served-model-name": served_name,
        "--scheduling-policy": "priority",
        "--enable-request-id-headers": "",
        "--enable-prompt-tokens-details": "",
    }
    defaults = dict(VLLM_ALWAYS)
    if not has_gpu():
        ours |= VLLM_ON_CPU_ARGUMENTS
        defaults |= VLLM_ON_CPU
    given = {argument.split("=", 1)[0] for argument in arguments if argument.startswith("--")}
    added = [part for name, value in ours.items() if name not in given for part in (name, value) if part]
    command = (executable, "serve", str(model_dir), "--port", "{port}", *added, *arguments)
    return Child(name="vllm", command=command, env={**defaults, **without_secrets(environ)}, ready_s=600.0, grace_s=20)


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without our settings and without what is named like a secret; vLLM's own and the model hub's may stay."""
    return {name: value for name, value in environ.items() if name.startswith(_THEIR_OWN) or not _SECRET.search(name)}


def has_gpu() -> bool:
    """Say whether this machine shows an accelerator's device file (NVIDIA or AMD)."""
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd"))
