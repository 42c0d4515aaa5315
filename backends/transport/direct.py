"""HTTP/1.1 straight on asyncio and httptools: the hot road to model servers.

Written for one thing, relaying: bytes are handed over as they arrive, a connection goes back to the pool the moment its answer ends,
and a limit costs an assignment. Runs on uvloop and on asyncio's own loop. No HTTP/2, no proxies, no redirects, no cookies, no
decompression: `over_httpx.py` serves whoever needs a proxy.
"""

import asyncio
import resource
import ssl

from backends.errors import TimedOut, Unreachable
from backends.transport.connection import NEVER, Connection, DirectAnswer
from backends.transport.pool import Pool
from backends.transport.request import body_bytes, write_head
from backends.transport.seam import Answer, Exchange, Origin

CONNECTIONS_MIN, CONNECTIONS_MAX = 256, 1_000_000
HAPPY_EYEBALLS_S = 0.25  # RFC 8305's connection attempt delay; uvloop tries addresses one after the other instead


class DirectTransport:
    """`seam.Transport` over our own sockets. One per process and event loop.

    `tls`: the context for https origins (default: the system's certificates). Ages in seconds: an idle connection is closed after
    `idle_s`, and one older than `life_s` is not used again. Over `connections_max`, opening waits for a connection to come free; None: half of the
    files that this process may have open, for beside each there is a client's.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        idle_per_origin_max: int = 256,
        idle_s: float = 30.0,
        life_s: float = 300.0,
        connections_max: int | None = None,
    ) -> None:
        self._tls = tls
        if connections_max is None:
            files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            connections_max = CONNECTIONS_MAX if files == resource.RLIM_INFINITY else max(CONNECTIONS_MIN, files // 2)
        self.pool = Pool(idle_per_origin_max=idle_per_origin_max, idle_s=idle_s, life_s=life_s, connections_max=connections_max)

    async def open(self, exchange: Exchange) -> Answer:
        """Send a request and return the answer's head (`seam.Transport.open`). Raises ValueError for a head that HTTP does not allow."""
        length = body_bytes(exchange.body)
        head = write_head(exchange, length)
        timeouts = exchange.timeouts
        loop = asyncio.get_running_loop()
        total_at = NEVER if timeouts.total_s is None else loop.time() + timeouts.total_s
        connection, retried = self.pool.take(exchange.origin), False
        while True:
            if connection is None:
                connection = await self._connect(loop, exchange, total_at)
            answer = DirectAnswer(connection, timeouts, is_head=exchange.method == "HEAD", total_at=total_at)
            try:
                if not connection.begin(answer, head, exchange.body, length):
                    await connection.send_slices(answer, exchange.body)
                while not answer.headed:
                    if answer.error is not None:
                        raise answer.error
                    await answer.wait("first_byte", timeouts.first_byte_s)
                return answer
            except Unreachable:
                if retried or not connection.used:
                    raise
                connection, retried = None, True  # the server had closed it while it was idle: a fresh one, unnoticed by the caller
            except BaseException:  # cancelled in the middle of an exchange: the connection is good for nothing else
                answer.abort()
                raise

    async def aclose(self) -> None:
        """Close every idle connection; exchanges under way end on their own."""
        self.pool.close()

    async def _connect(self, loop: asyncio.AbstractEventLoop, exchange: Exchange, total_at: float) -> Connection:
        origin, limit_s = exchange.origin, exchange.timeouts.connect_s
        connection = Connection(loop, origin, self.pool)
        until = loop.time() + limit_s
        phase = "connect" if until < total_at else "total"
        try:
            async with asyncio.timeout_at(min(until, total_at)):
                freed = await self.pool.room(connection)
                if freed is not None:
                    return freed
                await self._create(loop, origin, connection)
            return connection
        except TimeoutError as error:
            self.pool.lost(connection)
            raise TimedOut(phase, limit_s if phase == "connect" else exchange.timeouts.total_s or 0.0) from error
        except (OSError, UnicodeError) as error:  # refused, no such host, no route, a certificate that does not hold
            self.pool.lost(connection)
            raise Unreachable(f"{origin.scheme}://{origin.host}:{origin.port}: {error}") from error
        except BaseException:  # cancelled while connecting: the place in the pool goes back
            self.pool.lost(connection)
            raise

    async def _create(self, loop: asyncio.AbstractEventLoop, origin: Origin, connection: Connection) -> None:
        options: dict[str, object] = {}
        if isinstance(loop, asyncio.BaseEventLoop):
            options["happy_eyeballs_delay"] = HAPPY_EYEBALLS_S
        if origin.scheme == "https":
            options["ssl"] = self._context()
        await loop.create_connection(lambda: connection, origin.host, origin.port, **options)  # type: ignore[call-overload]

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls
