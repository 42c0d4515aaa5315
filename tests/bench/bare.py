"""The yardstick: bytes from one socket to another, on the event loop that Weir runs on, and nothing else.

It costs what Python itself costs on the machine of the hour, so Weir's ratio to it holds where times do not.
"""

import asyncio
import sys
from typing import cast

import uvloop


class Side(asyncio.Protocol):
    """One of two connections that belong together; what comes before the other is there is kept."""

    def __init__(self, upstream: int | None = None) -> None:
        self.upstream = upstream
        self.other: Side | None = None
        self.transport: asyncio.Transport | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.upstream is not None:
            self.connecting = asyncio.get_running_loop().create_task(self.connect(self.upstream))

    async def connect(self, port: int) -> None:
        other = Side()
        await asyncio.get_running_loop().create_connection(lambda: other, "127.0.0.1", port)
        other.other, self.other = self, other
        for data in self.early:
            other.data_received_by_other(data)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early.append(data)
        else:
            self.other.data_received_by_other(data)

    def data_received_by_other(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


async def main(port: int, upstream: int) -> None:
    """Relay until killed."""
    server = await asyncio.get_running_loop().create_server(lambda: Side(upstream), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
