"""uvicorn's server, and how it stops: requests under way get their grace, then an answer, and the books close after them."""

import asyncio
import gc
import socket
from collections.abc import Callable
from typing import Any, Protocol, cast

import uvicorn

from gateway.app import Gateway
from gateway.config import Settings
from gateway.server.guarded import HEAD_BYTES_MAX, Guarded
from gateway.vitals import Vitals

BACKLOG = 4096
GC_THRESHOLDS = (50_000, 20, 50)
ENDING_S = 2.0  # for all of them to end


def settle_heap() -> None:
    """Take what was loaded at start out of the garbage collector's sight, and let it look less often.

    Python's default walks the whole heap of imported code every few thousand requests: 40 us of CPU each, measured. What a request
    leaves behind is freed by reference counts; the few cycles (exceptions, cancelled tasks) are still found, later.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


class Entrance(Protocol):
    """Another way in than a listening socket of this process's own."""

    def open(self, make: Callable[[], asyncio.Protocol]) -> None:
        """Take connections from now on."""

    def close(self) -> None:
        """Take no more."""

    async def wait_closed(self) -> None:
        """Wait until none is taken any more."""


class Server(uvicorn.Server):
    """uvicorn's server, which says when it listens, and whose stop leaves no request behind. `entrance`: set before it is served."""

    entrance: Entrance | None = None

    def __init__(self, config: uvicorn.Config, vitals: Vitals, announce: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._vitals = vitals
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then say so."""
        await super().startup(sockets)
        if self.started and self.entrance is not None:
            self.entrance.open(self._protocol)
            self.servers.append(cast(Any, self.entrance))
        if self.started and self._announce is not None:
            await asyncio.to_thread(self._announce)

    def _protocol(self) -> asyncio.Protocol:
        """Make the protocol of one connection, as uvicorn does."""
        made: asyncio.Protocol = cast(Any, self.config.http_protocol_class)(config=self.config, server_state=self.server_state, app_state={}, _loop=None)
        return made

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests under way end until the deadline; end what is left of them, also when a second signal cut the wait short."""
        self._vitals.stop()
        await super().shutdown(sockets)
        tasks = set(self.server_state.tasks)
        for task in tasks:
            if not task.cancelling():  # one that is being ended already must not be disturbed while it says so
                task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=ENDING_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def build_server(app: Gateway, settings: Settings, announce: Callable[[], None] | None = None) -> Server:
    """Make the server of one process. `announce` is called, on a thread, once it listens."""
    limits = settings.server

    config = uvicorn.Config(
        app,
        host=limits.host,
        port=limits.port,
        http=type("Door", (Guarded,), {"app_behind": app, "header_timeout_s": limits.header_timeout_s, "write_timeout_s": limits.write_timeout_s}),
        loop="uvloop",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        date_header=True,
        timeout_keep_alive=limits.keep_alive_s,
        timeout_graceful_shutdown=limits.shutdown_grace_s,
        backlog=BACKLOG,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
    )
    return Server(config, app.services.vitals, announce)
