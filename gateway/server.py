"""The HTTP server: uvicorn on httptools and uvloop, with the time limits that it lacks.

uvicorn waits for ever for a request's head, and for a client to take its answer. Here a connection that has not sent a whole head in time
is closed, and one whose client takes nothing of an answer is ended by the kernel (TCP_USER_TIMEOUT: a timer of ours would cost
each chunk more than the rest of its way), which cancels the request like any client that leaves. So a client that drips or stalls holds a
slot for seconds. The body's limit is the endpoint's (`wire/asgi.py`).
"""

import asyncio
import gc
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.app import Gateway
from gateway.config import Settings

BACKLOG = 4096
GC_THRESHOLDS = (50_000, 20, 50)


def settle_heap() -> None:
    """Take what was loaded at start out of the garbage collector's sight, and let it look less often.

    Python's default walks the whole heap of imported code every few thousand requests: 40 us of CPU each, measured. What a request
    leaves behind is freed by reference counts; the few cycles (exceptions, cancelled tasks) are still found, later.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def build_server(app: Gateway, settings: Settings) -> uvicorn.Server:
    """Make the server of one process."""
    limits = settings.server

    class Guarded(HttpToolsProtocol):
        """uvicorn's protocol, which closes a connection whose request's head is late."""

        _late: asyncio.TimerHandle | None = None
        _in_head = False

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            raw = transport.get_extra_info("socket")
            if raw is not None and hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limits.write_timeout_s * 1000))
            self._wait_for_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._in_head and self._late is None:
                self._wait_for_head()

        def on_message_begin(self) -> None:
            self._in_head = True
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._in_head = False
            if self._late is not None:
                self._late.cancel()
                self._late = None
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None
            super().connection_lost(exc)

        def _wait_for_head(self) -> None:
            self._late = self.loop.call_later(limits.header_timeout_s, self.transport.close)

    config = uvicorn.Config(
        app,
        host=limits.host,
        port=limits.port,
        http=Guarded,
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
        h11_max_incomplete_event_size=64 * 1024,
    )
    return uvicorn.Server(config)
