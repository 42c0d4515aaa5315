"""A process that sends webhooks until nothing waits.

At the point `after_send`, between an endpoint's answer and its mark in the books, it kills itself.
"""

import asyncio
import os
import signal
import sys

from backends.transport.over_httpx import HttpxTransport
from billing.alerts import store
from billing.db import Database
from billing.tenants.keys import KeyHasher
from gateway.clock import SystemClock
from gateway.config.settings import WebhookSettings
from gateway.webhooks import Sender

PEPPER = b"0123456789abcdef"


class SteppedClock(SystemClock):
    """The machine's clock, so many seconds ahead: as if the process had been started that much later."""

    def __init__(self, ahead_s: float) -> None:
        self._ahead_us = int(ahead_s * 1_000_000)

    def now_us(self) -> int:
        return super().now_us() + self._ahead_us


async def main(url: str, ahead_s: float, point: str) -> None:
    """Send until nothing waits."""
    if point == "after_send":

        def die(*_: object) -> bool:
            os.kill(os.getpid(), signal.SIGKILL)
            return False

        store.finish = die  # type: ignore[assignment]
    database, transport = Database(url), HttpxTransport()
    sender = Sender(database, KeyHasher(PEPPER), transport, SteppedClock(ahead_s), settings=WebhookSettings())
    print("ready", flush=True)
    sys.stdin.readline()
    while await sender.turn():
        await sender.settle()
    await transport.aclose()
    database.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), sys.argv[3]))
