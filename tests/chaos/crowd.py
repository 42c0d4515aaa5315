"""Clients as many and as light as a test wants: one connection a request, on the loop of the test, and what each has seen."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a client saw. `status` None: the gateway could not be reached, or hung up without an answer; `whole`: the end was seen."""

    status: int | None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False

    @property
    def event(self) -> str | None:
        """The id of its usage event."""
        return self.headers.get("x-weir-event")

    @property
    def fast(self) -> bool:
        return self.headers.get("x-weir-lane") == "fast"

    def json(self) -> Any:
        return json.loads(self.body)


NOBODY = Answer(None)


async def ask(port: int, key: str, words: str = "out=5", *, model: str = "m", stream: bool = False, limit_s: float = 60, **members: Any) -> Answer:
    """Ask for one chat completion. `words` are the witness's."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": words}], "stream": stream, **members}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    try:
        async with asyncio.timeout(limit_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
                return read_answer(await reader.read(-1))
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return NOBODY


def read_answer(data: bytes) -> Answer:
    """Read what came until the connection was closed."""
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return NOBODY
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status = int(first.split(" ")[1])
    if "content-length" in headers:
        return Answer(status, headers, body, len(body) == int(headers["content-length"]))
    whole, pieces = body.endswith(b"0\r\n\r\n"), []
    while body:
        size, _, rest = body.partition(b"\r\n")
        if not size or not (length := int(size, 16)):
            break
        pieces.append(rest[:length])
        body = rest[length + 2 :]
    return Answer(status, headers, b"".join(pieces), whole)


@dataclass
class Crowd:
    """Clients that ask again and again until told to stop, and all that they have seen."""

    answers: list[Answer] = field(default_factory=list)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    only: list[int] | None = None  # ask at these ports now

    @property
    def seen(self) -> dict[str, Answer]:
        """The answers that were seen to their end, by event."""
        return {one.event: one for one in self.answers if one.status == 200 and one.whole and one.event}

    def count(self, status: int | None) -> int:
        """How many ended with this status (None: nobody was reached)."""
        return sum(one.status == status for one in self.answers)

    async def until(self, count: int, limit_s: float = 30) -> None:
        """Wait until so many answers more were seen to their end."""
        target = len(self.seen) + count
        async with asyncio.timeout(limit_s):
            while len(self.seen) < target:
                await asyncio.sleep(0.01)

    async def client(self, ports: list[int], key: str, words: str, chance: random.Random, **members: Any) -> None:
        while not self.stopping.is_set():
            answer = await ask(chance.choice(self.only or ports), key, words, stream=chance.random() < 0.5, **members)
            self.answers.append(answer)
            if answer.status != 200:
                await asyncio.sleep(0.02)  # the gateway is gone, or refuses: do not storm it


@asynccontextmanager
async def crowd(ports: list[int], keys: list[str], *, clients: int, seed: int, words: str = "out=5 token_ms=1", **members: Any) -> AsyncGenerator[Crowd]:
    """Let so many clients of each key ask until the block ends; then wait for what is under way. Streams and whole answers by chance of the seed."""
    people = Crowd()
    members = {"max_tokens": 20, **members}
    asking = [asyncio.create_task(people.client(ports, key, words, random.Random(f"{seed}/{key}/{n}"), **members)) for key in keys for n in range(clients)]
    try:
        yield people
    finally:
        people.stopping.set()
        await asyncio.gather(*asking)
