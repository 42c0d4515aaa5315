"""The idle connections of a transport, and how many there may be in all.

Last in, first out: the connection used a moment ago is the likeliest to be alive, and those that a lull leaves over grow old
together and close. Idle time and life are both bounded, so that a change of DNS is seen even under steady traffic.
"""

import asyncio
from collections import deque

from backends.transport.connection import NEVER, Connection
from backends.transport.seam import Origin


class Pool:
    """Keeps idle connections by origin (`connection.Keeper`). `count` is every connection there is, idle or not."""

    def __init__(self, *, idle_per_origin_max: int, idle_s: float, life_s: float, connections_max: int) -> None:
        self._idle: dict[Origin, list[Connection]] = {}
        self._idle_max = idle_per_origin_max
        self._idle_s = idle_s
        self._life_s = life_s
        self.connections_max = connections_max
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._held: set[Connection] = set()
        self._closed = False

    @property
    def count(self) -> int:
        """Connections that are open or being opened."""
        return len(self._held)

    def idle(self, origin: Origin) -> int:
        """Count the idle connections to an origin."""
        return len(self._idle.get(origin, ()))

    def take(self, origin: Origin) -> Connection | None:
        """Return the idle connection that was used last, or None."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if not connection.transport.is_closing() and connection.loop.time() < connection.idle_until_s:
                connection.deadline = NEVER
                return connection
            connection.transport.close()
        return None

    def put(self, connection: Connection) -> None:
        """Keep a connection for the next exchange, or close it where there are enough, or where it is old."""
        now_s = connection.loop.time()
        idle = self._idle.setdefault(connection.origin, [])
        if self._closed or len(idle) >= self._idle_max or now_s - connection.born_s > self._life_s or connection.transport.is_closing():
            connection.transport.close()
            return
        connection.used = True
        connection.idle_until_s = now_s + self._idle_s
        connection.due(connection.idle_until_s)
        idle.append(connection)
        if self._waiting:
            self._wake()

    def lost(self, connection: Connection) -> None:
        """Forget a connection that is gone, or that could not be made. Harmless when called twice."""
        self._held.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle is not None:
            if connection in idle:
                idle.remove(connection)
            if not idle:
                del self._idle[connection.origin]
        if self._waiting:
            self._wake()

    async def room(self, connection: Connection) -> Connection | None:
        """Reserve a place for a connection about to be opened; an idle one to the same origin that came free instead is returned.

        At the bound, an idle connection elsewhere makes way; if none is idle this waits, for as long as the caller lets it.
        """
        while len(self._held) >= self.connections_max:
            idle = self.take(connection.origin)
            if idle is not None:
                return idle
            if not self._evict():
                waiter: asyncio.Future[None] = connection.loop.create_future()
                self._waiting.append(waiter)
                try:
                    await waiter
                except asyncio.CancelledError:
                    if waiter.done() and not waiter.cancelled():
                        self._wake()  # the place was ours; it is somebody else's now
                    raise
        self._held.add(connection)
        return None

    def close(self) -> None:
        """Close what is idle; what is in use closes when its exchange ends."""
        self._closed = True
        for idle in list(self._idle.values()):
            for connection in list(idle):
                connection.transport.close()
        self._idle.clear()

    def _evict(self) -> bool:
        for idle in self._idle.values():
            if idle:
                oldest = idle.pop(0)
                self._held.discard(oldest)
                oldest.transport.abort()
                return True
        return False

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
