"""The traffic of `lanes_vllm.py`: one tenant that asks now and then, others that flood, and what came of each request.

A stretch is some time of it at one door: Weir, the model server itself, or a pass-through that knows no lanes.
"""

import asyncio
import json
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

PAYING = "paying"
WORDS = (
    "river stone bridge market winter garden letter window silver morning paper engine forest harbor candle mirror orange travel music doctor"
    " summer island button cotton pencil ladder valley basket corner dinner"
).split()


@dataclass(frozen=True)
class Traffic:
    """Who sends what. Every prompt is another one (a word is about a token), every answer has the length that was asked for."""

    flooders: int = 20
    at_once: int = 3  # requests of one flooder
    flood_words: int = 60
    flood_tokens: tuple[int, int] = (64, 128)
    every_s: float = 2.0
    paying_words: int = 350
    paying_tokens: int = 16
    settle_s: float = 5  # until the flood has filled the engine
    alone_s: float = 10  # the flood by itself
    paying_s: float = 30  # and with the paying tenant
    idle_s: float = 20  # the paying tenant by itself
    idle_every_s: float = 2.0
    answer_s_max: float = 60  # so long its last requests may take; a slower one counts as so slow

    @property
    def names(self) -> list[str]:
        return [f"slow-{number:02d}" for number in range(1, self.flooders + 1)]


SHORT = Traffic(at_once=2, flood_tokens=(32, 64), settle_s=2, alone_s=6, paying_s=14, answer_s_max=30)


@dataclass
class Answer:
    """One request and what came of it; `sent_s` is from the begin of the run, `first_s` from `sent_s` to the first text, comments not counted.

    `queue_ms`: of the head, or of the comment that says it where the head went out before. `cut`: we ended it.
    """

    stretch: str
    round: int
    tenant: str
    sent_s: float
    status: int = 0
    first_s: float | None = None
    ended_s: float | None = None
    lane: str = ""
    reason: str = ""
    standing: str = ""
    queue_ms: int | None = None
    retry_after_s: float | None = None
    refusal: str = ""
    event: str = ""
    output: int | None = None
    cut: bool = False
    text_s: list[float] = field(default_factory=list)

    def head(self, headers: httpx.Headers, status: int) -> None:
        """Take down what the head says."""
        self.status = status
        self.lane, self.reason, self.standing, self.event = (headers.get(f"x-weir-{name}", "") for name in ("lane", "lane-reason", "standing", "event"))
        self.queue_ms = int(headers["x-weir-queue-ms"]) if "x-weir-queue-ms" in headers else None
        self.retry_after_s = float(headers["retry-after"]) if "retry-after" in headers else None

    def line(self, line: str, now_s: float) -> None:
        """Take down one line of the stream."""
        if line.startswith(": x-weir-queue-ms: "):
            self.queue_ms = int(line.split()[2].rstrip(","))
        if not line.startswith("data: {"):
            return
        said = json.loads(line[6:])
        if "error" in said:
            self.refused(said["error"])
        if said.get("usage"):
            self.output = said["usage"]["completion_tokens"]
        if any(choice["delta"].get("content") for choice in said.get("choices", ())):
            if self.first_s is None:
                self.first_s = now_s - self.sent_s
            self.text_s.append(now_s)

    def refused(self, error: Mapping[str, Any]) -> None:
        """Take down a refusal; inside a stream its message is what says when to come again."""
        self.refusal = str(error["code"])
        found = str(error["message"]).partition("Try again in ")[2].split(" ")[0]
        if self.retry_after_s is None and found.isdigit():
            self.retry_after_s = int(found)

    @property
    def wait_s(self) -> float:
        """Time to the first token, or how long there was none."""
        return self.first_s if self.first_s is not None else (self.ended_s or self.sent_s) - self.sent_s


@dataclass(frozen=True)
class Door:
    """A way to the model: `keys` by tenant where there are any. `drains`: what streams when a stretch ends is heard to its end."""

    name: str
    base_url: str
    keys: Mapping[str, str] = field(default_factory=dict)
    drains: bool = False


class Stretch:
    """Some time of traffic at one door."""

    def __init__(self, door: Door, traffic: Traffic, clock: Callable[[], float], *, name: str, round_: int, chance: random.Random) -> None:
        self.door, self.traffic, self.clock, self.name, self.round, self.chance = door, traffic, clock, name, round_, chance
        self.answers: list[Answer] = []
        self.alone = self.together = (0.0, 0.0)  # from, to: the flood by itself, and with the paying tenant
        self._over = asyncio.Event()
        self._now: dict[asyncio.Task[None], Answer] = {}

    async def each_once(self, tenants: Sequence[str]) -> None:
        """Have each of some tenants ask for one token."""
        async with self._client():
            await asyncio.gather(*(self._ask(tenant, self.traffic.flood_words, 1) for tenant in tenants))

    async def run(self, *, flood: bool) -> None:
        """Let the traffic go, and end it."""
        traffic = self.traffic
        async with self._client():
            seats = [asyncio.create_task(self._seat(tenant)) for tenant in traffic.names * traffic.at_once] if flood else []
            if flood:
                await asyncio.sleep(traffic.settle_s)
                begun_s = self.clock()
                await asyncio.sleep(traffic.alone_s)
                self.alone = (begun_s, self.clock())
            begun_s = self.clock()
            paid = await self._pay() if flood else await self._pay_alone()
            self.together = (begun_s, self.clock())
            await asyncio.wait(paid, timeout=traffic.answer_s_max)
            self._over.set()
            await self._end([*paid, *seats])

    def tokens_per_s(self, window: tuple[float, float]) -> float:
        """Return how much text the flood got in a time."""
        count = sum(window[0] <= at_s < window[1] for answer in self.answers if answer.tenant != PAYING for at_s in answer.text_s)
        return count / (window[1] - window[0])

    def _client(self) -> httpx.AsyncClient:
        self.client = httpx.AsyncClient(timeout=600, trust_env=False, limits=httpx.Limits(max_connections=None, max_keepalive_connections=0))
        return self.client

    async def _end(self, tasks: Sequence[asyncio.Task[Any]]) -> None:
        """Cut what has no text yet, and where the door drains hear the rest to its end."""
        for task in tasks:
            answer = self._now.get(task)
            if not (self.door.drains and answer is not None and answer.first_s is not None):
                task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def _pay(self) -> list[asyncio.Task[Answer]]:
        """Ask as the paying tenant at fixed times, whatever became of its last request."""
        traffic, begun_s, asked = self.traffic, self.clock(), []
        for number in range(round(traffic.paying_s / traffic.every_s)):
            await asyncio.sleep(max(0.0, begun_s + number * traffic.every_s - self.clock()))
            asked.append(asyncio.create_task(self._ask(PAYING, traffic.paying_words, traffic.paying_tokens)))
        return asked

    async def _pay_alone(self) -> list[asyncio.Task[Answer]]:
        """Ask as the paying tenant at an idle server: each request when the one before has ended, and not sooner than at its time."""
        traffic, begun_s, asked = self.traffic, self.clock(), []
        for number in range(round(traffic.idle_s / traffic.idle_every_s)):
            await asyncio.sleep(max(0.1, begun_s + number * traffic.idle_every_s - self.clock()))
            asked.append(asyncio.create_task(self._ask(PAYING, traffic.paying_words, traffic.paying_tokens)))
            await asyncio.wait(asked)
        return asked

    async def _seat(self, tenant: str) -> None:
        """Flood: the next request as soon as the last has ended, or when the refusal says."""
        while not self._over.is_set():
            answer = await self._ask(tenant, self.traffic.flood_words, self.chance.randint(*self.traffic.flood_tokens))
            if answer.refusal:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._over.wait(), answer.retry_after_s or 1)

    async def _ask(self, tenant: str, words: int, tokens: int) -> Answer:
        body = {
            "model": "smollm2",
            "messages": [{"role": "user", "content": " ".join(self.chance.choice(WORDS) for _ in range(words))}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        headers = {"connection": "close"} | ({"authorization": f"Bearer {self.door.keys[tenant]}"} if self.door.keys else {})
        answer = Answer(self.name, self.round, tenant, self.clock())
        self.answers.append(answer)
        task: Any = asyncio.current_task()
        self._now[task] = answer
        try:
            async with self.client.stream("POST", f"{self.door.base_url}/chat/completions", json=body, headers=headers) as response:
                answer.head(response.headers, response.status_code)
                if response.status_code != 200:
                    answer.refused(json.loads(await response.aread())["error"])
                else:
                    async for line in response.aiter_lines():
                        answer.line(line, self.clock())
        except asyncio.CancelledError:
            answer.cut = True
            raise
        finally:
            answer.ended_s = self.clock()
        return answer


class PassThrough:
    """A gateway without lanes: so many connections at once, the others wait in the order in which they came."""

    def __init__(self, port: int, slots: int) -> None:
        self._port, self._slots = port, asyncio.Semaphore(slots)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection, for `asyncio.start_server`."""
        async with self._slots:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
            ways = [asyncio.create_task(self._carry(reader, up_writer)), asyncio.create_task(self._carry(up_reader, writer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for one in (up_writer, writer):
                one.close()
            await asyncio.gather(*ways)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
