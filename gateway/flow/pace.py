"""A stream's text at the pace that a plan's slow lane has: the engine has long done the work, and its slot is free; what it made waits here.

Whole events are let out, one for each 1/n of a second. What holds no text (the end, usage, comments) goes with the one before, and so does a
tool call's: its JSON is of no use until it is whole. A process that stops lets everything out at once.
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from backends.sse import split_events
from gateway.flow.states import Reserved
from gateway.lanes.standing import FAST
from gateway.wire.caller import Client

if TYPE_CHECKING:
    from gateway.services import Services

BYTES_MAX = 4 * 2**20  # that wait to be let out; past it the upstream waits

_TOOL_CALL = re.compile(rb'"(?:tool_calls":\s*\[\s*\{|function_call":\s*\{)')  # in a text its quotes would be escaped


def pace_of(reserved: Reserved) -> int | None:
    """Return how many events a second are let out of a request's stream; None: all at once."""
    if reserved.lane is FAST or not reserved.admitted.received.call.stream:
        return None
    return reserved.admitted.terms.slow_tokens_per_second


@asynccontextmanager
async def paced(services: "Services", client: Client, per_s: int) -> AsyncGenerator[Client]:
    """Give the client to write to; at the end all that was written has been let out. An error or a cancellation ends it at once."""
    slowed = PacedClient(services, client, 1 / per_s)
    try:
        yield slowed
        await slowed.emptied()
    finally:
        await slowed.stop()


class PacedClient:
    """A client that takes everything and hands it on event by event, `every_s` seconds apart."""

    def __init__(self, services: "Services", client: Client, every_s: float) -> None:
        self._vitals = services.vitals
        self._client = client
        self._every_s = every_s
        self._events: deque[bytes] = deque()
        self._bytes = 0
        self._last: bytes | None = None  # what ends the answer
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    async def answer(self, status: int, written: bytes, body: bytes) -> None:
        """Send what turned out to be no stream, at once."""
        await self._client.answer(status, written, body)

    async def head(self, status: int, written: bytes) -> None:
        """Begin the answer."""
        await self._client.head(status, written)

    def put(self, data: bytes) -> bool:
        """Take whole events; False when too many wait. After `stop` nobody is there to read them."""
        if self._stopped:
            return True
        self._events.extend(split_events(data))
        self._bytes += len(data)
        self._begin()
        return self._bytes <= BYTES_MAX

    async def write(self, data: bytes) -> None:
        """Take whole events; returns when few enough wait."""
        self.put(data)
        await self.drained()

    async def drained(self) -> None:
        """Wait until few enough wait."""
        while self._bytes > BYTES_MAX and not self._stopped:
            self._room.clear()
            await self._room.wait()

    async def end(self, data: bytes = b"") -> None:
        """Take the last part; `emptied` waits until it is out."""
        if self._stopped:
            return
        self._last = data
        self._begin()

    async def emptied(self) -> None:
        """Wait until all that was written, and the end, is out."""
        if self._task is not None and self._last is not None:
            await self._task

    async def stop(self) -> None:
        """Let nothing more out; whoever waits to write goes on, as one whose answer is drained for a vendor that bills it anyway."""
        self._stopped = True
        self._room.set()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def _begin(self) -> None:
        self._news.set()
        if self._task is None:
            self._task = asyncio.create_task(self._let_out())

    async def _let_out(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            while self._events:
                event = self._events.popleft()
                self._bytes -= len(event)
                self._room.set()
                if _has_text(event) and not self._vitals.stopping:
                    due_s = max(due_s, loop.time())
                    await asyncio.sleep(due_s - loop.time())
                    due_s += self._every_s
                await self._client.write(event)
            if self._last is not None:
                await self._client.end(self._last)
                return
            self._news.clear()
            await self._news.wait()


def _has_text(event: bytes) -> bool:
    return event.startswith(b"data:") and _TOOL_CALL.search(event) is None
