"""What a transport is: it opens one exchange and hands the answer over as it arrives.

A transport knows HTTP and nothing of models, retries or tokens. `open` returns at the answer's head; the body is then pulled
with `read`, as many bytes at a time as have arrived, so that several events cost one write. Whoever opened an exchange ends it:
by reading to the end, or with `abort`.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

Buffer = bytes | bytearray | memoryview
Take = Callable[[bytes], bool]  # takes a piece of a body; False: no more for now


class Origin(msgspec.Struct, frozen=True, cache_hash=True):
    """Where a connection goes. `scheme` is http or https."""

    scheme: str
    host: str
    port: int


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Limits in seconds: to connect, to the answer's head, between two reads, and over all (None: no limit)."""

    connect_s: float = 5.0
    first_byte_s: float = 120.0
    idle_s: float = 60.0
    total_s: float | None = None


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """One request, ready to be written. `body` is a list of parts, sent one after the other without being joined.

    `headers` are the same in request after request, so that their lines may be kept; `own_headers` are this one's. Neither holds Host,
    Content-Length, Connection or Transfer-Encoding: the transport writes those.
    """

    method: str
    origin: Origin
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    own_headers: tuple[tuple[str, str], ...] = ()
    body: tuple[Buffer, ...] = ()
    timeouts: Timeouts = Timeouts()


class Answer(Protocol):
    """The head of an answer, and its body as it comes. Header names are lower case."""

    status: int
    headers: list[tuple[bytes, bytes]]

    async def read(self) -> bytes:
        """Return the bytes that have arrived since the last call, waiting for the first; b"" once the body has ended properly.

        Raises `Disconnected` when the connection broke before the body's proper end, `TimedOut` (idle, total) when nothing came.
        """
        ...

    async def whole(self, bytes_max: int) -> bytes | None:
        """Return the body to its proper end; None, and the exchange is given up, when it is longer than that. Raises as `read` does."""
        return await whole(self, bytes_max)

    async def pump(self, take: Take) -> bool:
        """Hand over what arrives, as it arrives, until `take` wants no more (False) or the body has ended properly (True).

        What `take` raises is raised here; else this raises as `read` does, and either may be used after the other.
        """
        while data := await self.read():
            if not take(data):
                return False
        return True

    def abort(self) -> None:
        """Give the exchange up now: the connection is closed, the server sees it go. Harmless after the end, and when called twice."""
        ...


async def whole(answer: Answer, bytes_max: int) -> bytes | None:
    """Read a body to its end (`Answer.whole`)."""
    parts, size = [], 0
    while data := await answer.read():
        parts.append(data)
        size += len(data)
        if size > bytes_max:
            answer.abort()
            return None
    return b"".join(parts)


class Transport(Protocol):
    """Opens exchanges over a pool of connections that lives as long as the process."""

    async def open(self, exchange: Exchange) -> Answer:
        """Send a request and return the answer's head.

        Raises `Unreachable` while no byte of an answer has been seen, `TimedOut` (connect, first_byte), `BadAnswer` for bytes that are no HTTP.
        An idle connection that the server had closed meanwhile is replaced by a fresh one, once, without the caller noticing.
        """
        ...

    async def aclose(self) -> None:
        """Close every idle connection; exchanges under way end on their own."""
        ...
