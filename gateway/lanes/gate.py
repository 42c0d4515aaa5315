"""The one async thing about lanes: a request waits here for its slot.

A waiter is a future and a ticket; it costs no thread and no connection. Whoever enters leaves, also when cancelled while waiting.
"""

import asyncio
import random
from collections.abc import Callable

from gateway.errors import SlowDown
from gateway.lanes.queue import FairQueue, Full, Ticket
from gateway.lanes.standing import Lane


class Gate:
    """The door of one backend pool."""

    def __init__(self, queue: FairQueue, now_us: Callable[[], int], *, wait_s_max: dict[Lane, float], jitter: random.Random) -> None:
        self.queue = queue
        self._now_us = now_us
        self._wait_s_max = wait_s_max
        self._jitter = jitter
        self._waiters: dict[int, asyncio.Future[None]] = {}

    def enter_now(self, ticket: Ticket) -> bool:
        """Take a slot if one is free for this ticket; False: it waits, and `wait` must be awaited. Raises `SlowDown` when the queue is full."""
        try:
            if not self.queue.offer(ticket, self._now_us()):
                self._wake()
        except Full:
            raise self._refusal(ticket, "is full") from None
        return ticket.granted

    async def wait(self, ticket: Ticket) -> None:
        """Wait for the slot of a ticket that `enter_now` enqueued. Raises `SlowDown` when the wait is over its limit."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[id(ticket)] = future
        limit_s = self._wait_s_max[ticket.lane]
        try:
            async with asyncio.timeout(limit_s):
                await future
        except TimeoutError:
            if not ticket.granted:
                self.queue.leave(ticket)
                self._wake()
                raise self._refusal(ticket, f"did not come to this request within {limit_s:g} s") from None
        except BaseException:  # cancelled: the client left; a slot that was granted meanwhile goes to the next
            if ticket.granted:
                self.leave(ticket, 0)
            else:
                self.queue.leave(ticket)
                self._wake()
            raise
        finally:
            del self._waiters[id(ticket)]

    def leave(self, ticket: Ticket, cost: int) -> None:
        """Give the slot back with what was really used (weighted tokens), and wake those who run next."""
        self.queue.done(ticket, cost)
        self._wake()

    def _wake(self) -> None:
        for granted in self.queue.next():
            waiter = self._waiters.get(id(granted))
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def _refusal(self, ticket: Ticket, what: str) -> SlowDown:
        base_s = 2.0 if ticket.lane is Lane.FAST else 10.0
        retry_s = base_s * (1 + self._jitter.random())
        return SlowDown(f"The {ticket.lane} lane's queue {what}. Try again in {retry_s:.0f} s.", retry_after_s=retry_s)
