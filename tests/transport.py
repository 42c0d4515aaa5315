"""A transport that a test scripts: it answers each exchange with the next thing it was given, and remembers what was sent."""

from collections.abc import Iterable
from typing import Any

import msgspec

from backends.provider import Call, Target
from backends.replica import replica_at
from backends.transport.seam import Answer, Exchange, Timeouts


class ScriptedAnswer(Answer):
    """An answer made beforehand; an exception among its parts is raised when it is reached."""

    def __init__(self, status: int, parts: Iterable[bytes | BaseException]) -> None:
        self.status = status
        self.headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
        self.aborted = False
        self._parts = iter([*parts, b""])

    async def read(self) -> bytes:
        part = next(self._parts)
        if isinstance(part, BaseException):
            raise part
        return part

    def abort(self) -> None:
        self.aborted = True


class ScriptedTransport:
    """Gives out `script` in order; an exception in it is raised by `open`. `by_path` answers those paths whenever they are asked."""

    def __init__(self, *script: ScriptedAnswer | Exception, by_path: dict[str, tuple[int, bytes] | Exception] | None = None) -> None:
        self.script = list(script)
        self.by_path = by_path or {}
        self.sent: list[Exchange] = []

    async def open(self, exchange: Exchange) -> Answer:
        self.sent.append(exchange)
        if exchange.path in self.by_path:
            known = self.by_path[exchange.path]
            if isinstance(known, Exception):
                raise known
            return ScriptedAnswer(known[0], [known[1]])
        item = self.script.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    async def aclose(self) -> None:
        return None


def call_of(body: bytes, *, endpoint: Any = "chat/completions", stream: bool = False, request_id: str = "r-1", **more: Any) -> Call:
    """Make the call that the gateway would make of a client's body."""
    members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return Call(endpoint=endpoint, request_id=request_id, model="public", members=members, body_bytes=len(body), stream=stream, **more)


def target_at(url: str = "http://127.0.0.1:8000/v1", *, model: str = "upstream", **more: Any) -> Target:
    """Make a target."""
    return Target(replica=replica_at(url), model=model, timeouts=Timeouts(), **more)


def body_of(exchange: Exchange) -> bytes:
    """Join the parts of a body."""
    return b"".join(exchange.body)
