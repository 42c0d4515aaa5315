"""An upstream in a process of its own that keeps a log of what it served: the truth that the ledger is compared with.

It speaks chat completions, whole and streamed. The words of the last message say what it does, as in "out=20 token_ms=5":
`out` tokens of answer (at most `max_tokens`, where the request names it), `first_ms` before the first, `token_ms` before each.
Every word of the messages is one token of input, and every token of output is " one", which is one for tiktoken too.

A line is appended to the log when a request begins and when it ends; the last is written before the end of the answer is
sent, so whoever has seen the end of an answer finds it in the log.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import uvloop

from tests.real.child import Child, free_port

TOKEN = " one"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Served:
    """One request as the upstream saw it. `output` is what it had sent when it ended; `left`: the gateway was gone before the end."""

    id: str
    input: int
    output: int = 0
    end: Literal["whole", "left"] | None = None  # None: still under way


@dataclass
class Witness:
    """The upstream under test, and its log."""

    base_url: str
    log: Path
    child: Child
    since: int = 0  # where in the log this view of it begins

    def fresh(self) -> "Witness":
        """Return a view of the log that begins here; nothing may be under way."""
        self.wait_idle()
        return replace(self, since=self.log.stat().st_size)

    def served(self) -> dict[str, Served]:
        """Read the log: every request that ever reached the upstream, by the id that the gateway gave it.

        Raises where one id came twice: the gateway never sends a request again after its first byte, and these tests have one backend.
        """
        found: dict[str, Served] = {}
        for line in self.log.read_bytes()[self.since :].splitlines():
            one = Served(**json.loads(line))
            if (one.end is None) != (one.id not in found):
                raise AssertionError(f"request {one.id} came to the upstream twice")
            found[one.id] = one
        return found

    def wait_idle(self, limit_s: float = 20) -> dict[str, Served]:
        """Wait until nothing is under way, and return everything that was served."""
        deadline = time.monotonic() + limit_s
        while True:
            served = self.served()
            if all(one.end is not None for one in served.values()):
                return served
            if time.monotonic() > deadline:
                raise AssertionError("the upstream still serves requests")
            time.sleep(0.02)


@contextmanager
def witness(folder: Path) -> Iterator[Witness]:
    """Start the upstream; its log is in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "witness.jsonl"
    log.touch()
    child = Child([sys.executable, "-m", "tests.real.witness", str(port), log], folder / "witness.log")
    try:
        child.wait_ready(f"http://127.0.0.1:{port}/v1/models", 20)
        yield Witness(f"http://127.0.0.1:{port}/v1", log, child)
    finally:
        child.kill()


# ---- the process ----


def chunk(content: Any) -> bytes:
    data = b"data: " + (content if isinstance(content, bytes) else json.dumps(content).encode()) + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


def wishes(body: Mapping[str, Any]) -> tuple[int, dict[str, int]]:
    """Return the tokens of input, and what the last message wishes for."""
    texts = [str(message["content"]) for message in body["messages"]]
    pairs = (word.partition("=") for word in texts[-1].split())
    said = {name: int(value) for name, _, value in pairs if value}
    if (most := body.get("max_completion_tokens", body.get("max_tokens"))) is not None:
        said["out"] = min(said.get("out", 16), most)
    return sum(len(text.split()) for text in texts), said


class Connection:
    """One connection of the gateway's: requests one after another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note: Callable[[Served], None]) -> None:
        self.reader, self.writer, self.note = reader, writer, note

    @property
    def left(self) -> bool:
        return self.reader.at_eof() or self.writer.is_closing()

    async def serve(self) -> None:
        try:
            while head := await self.reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await self.reader.readexactly(int(headers.get("content-length", "0")))
                if first.startswith("GET "):
                    self.whole({"object": "list", "data": [{"id": "witness", "object": "model", "created": 0, "owned_by": "tests"}]})
                else:
                    await self.answer(headers["x-request-id"], json.loads(body))
                await self.writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the gateway has closed it, or is gone
        finally:
            self.writer.close()

    async def answer(self, request_id: str, body: Mapping[str, Any]) -> None:
        tokens_in, said = wishes(body)
        self.note(Served(request_id, tokens_in))
        send, sent = self.send if body.get("stream") else None, 0
        await asyncio.sleep(said.get("first_ms", 0) / 1000)
        with contextlib.suppress(ConnectionError):  # then it has left
            if send is not None:
                self.write(HEAD)
            while sent < said.get("out", 16) and not self.left:
                await asyncio.sleep(said.get("token_ms", 0) / 1000)
                sent += 1
                if send is not None:
                    send({"content": TOKEN})
                    await self.writer.drain()
        self.note(Served(request_id, tokens_in, sent, "left" if self.left else "whole"))
        usage = {"prompt_tokens": tokens_in, "completion_tokens": sent, "total_tokens": tokens_in + sent}
        if send is not None:
            send({}, finish_reason="stop")
            self.write(chunk({**ANSWER, "object": "chat.completion.chunk", "choices": [], "usage": usage}) + chunk(b"[DONE]") + b"0\r\n\r\n")
        else:
            message = {"role": "assistant", "content": TOKEN * sent}
            self.whole({**ANSWER, "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}], "usage": usage})

    def send(self, delta: dict[str, str], finish_reason: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        self.write(chunk({**ANSWER, "object": "chat.completion.chunk", "choices": [choice]}))

    def whole(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data))

    def write(self, data: bytes) -> None:
        """Raises `ConnectionResetError` when the gateway is gone; uvloop's transports know only that somebody wrote to a closed one."""
        if self.writer.is_closing():
            raise ConnectionResetError("the gateway is gone")
        self.writer.write(data)


ANSWER = {"id": "chatcmpl-witness", "object": "chat.completion", "created": 1700000000, "model": "witness"}


async def main(port: int, log: Path) -> None:
    """Serve until killed."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND)

    def note(one: Served) -> None:
        os.write(file, json.dumps({"id": one.id, "input": one.input, "output": one.output, "end": one.end}).encode() + b"\n")

    server = await asyncio.start_server(lambda reader, writer: Connection(reader, writer, note).serve(), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), Path(sys.argv[2])))
