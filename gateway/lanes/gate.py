"""The one async thing about lanes: a request waits here for its slot.

A waiter is a future and a ticket; it costs no thread and no connection. Who waits may be woken for something else than its slot: to look
around (`within_s`, `stir`), or because its tenant has credits again (`recall`). Whoever entered leaves, also when cancelled while waiting.
"""

import asyncio
import random
from collections.abc import Callable

from gateway.errors import SlowDown
from gateway.lanes.queue import FairQueue, Full, Ticket, slow_slots_of
from gateway.lanes.retry import Pace
from gateway.lanes.standing import Lane

Waiter = asyncio.Future[bool | None]  # True: the slot is there; False: the tenant's credits are back; None: look around


class Gate:
    """The door of one backend pool. `now_us` never goes back; `paced` counts those who are held back and not in the queue yet.

    `stranded` says how many requests are at servers that are out: they hold no slot of those that are left.
    """

    def __init__(
        self, queue: FairQueue, now_us: Callable[[], int], *, wait_s_max: dict[Lane, float], jitter: random.Random, stranded: Callable[[], int] = lambda: 0
    ) -> None:
        self.queue = queue
        self._slots = queue.slots
        self._stranded = stranded
        self.paced = 0
        self._now_us = now_us
        self._wait_s_max = wait_s_max
        self._jitter = jitter
        self._waiters: dict[int, Waiter] = {}
        self._slow: dict[str, set[Waiter]] = {}  # those in the slow lane, by tenant
        self._paces = {lane: Pace() for lane in Lane}

    def enter_now(self, ticket: Ticket) -> bool:
        """Take a slot if one is free for this ticket; False: it waits, and `wait` must be awaited.

        A full queue takes it all the same where another tenant has more there: that one's newest makes room, and is refused. Raises `SlowDown`.
        """
        now_us = self._now_us()
        try:
            entered = self.queue.offer(ticket, now_us)
        except Full:
            pushed = self.queue.push_out(ticket.tenant, ticket.lane, now_us)
            if pushed is None:
                raise self._refusal(ticket, "is full") from None
            self._rouse(pushed, None)
            entered = self.queue.offer(ticket, now_us)
        if not entered:
            self._wake(now_us)
        return ticket.granted

    def enter_if_free(self, ticket: Ticket) -> bool:
        """Take a slot if nobody need wait for it; False: it did not enter."""
        return self.queue.take(ticket)

    async def wait(self, ticket: Ticket, within_s: float | None = None) -> bool:
        """Wait for the slot of a ticket that `enter_now` enqueued; True when it is there.

        False, with its place kept: `within_s` is over, it was stirred, or its tenant has credits again (`ticket.recalled`). Raises `SlowDown` when it
        has waited for as long as its lane lets it, counted from when it was enqueued.
        """
        limit_s = self._wait_s_max[ticket.lane]
        left_s = limit_s - (self._now_us() - ticket.since_us) / 1e6
        last = within_s is None or left_s <= within_s
        try:
            early = not ticket.granted and not ticket.pushed and await self._woken(ticket, left_s if within_s is None or last else within_s)
        except BaseException:  # cancelled: the client left; a slot that was granted meanwhile goes to the next
            self.abandon(ticket)
            raise
        if ticket.granted:
            return True
        if ticket.pushed:
            raise self._refusal(ticket, "is full, and this tenant has most there")
        if last and not early:
            self.abandon(ticket)
            raise self._refusal(ticket, f"did not come to this request within {limit_s:g} s")
        return False

    async def pause(self, ticket: Ticket, delay_s: float) -> None:
        """Hold a ticket back before it enters, for that time or until its tenant has credits again. Raises `SlowDown` where too many are held back."""
        if self.queue.waiting(ticket.lane) + self.paced >= self.queue.depth_max(ticket.lane):
            raise self._refusal(ticket, "is full")
        self.paced += 1
        try:
            await self._woken(ticket, delay_s)
        finally:
            self.paced -= 1

    def abandon(self, ticket: Ticket) -> None:
        """Give up a place or an unused slot. Harmless where there is neither any more."""
        if ticket.granted:
            self.leave(ticket, 0)
        else:
            now_us = self._now_us()
            self.queue.leave(ticket, now_us)
            self._wake(now_us)

    def leave(self, ticket: Ticket, cost: int) -> None:
        """Give the slot back with what was really used (weighted tokens), and wake those who run next. Harmless the second time."""
        if not ticket.left:
            ticket.left = True
            queue, waited_for = self.queue, self.queue.waited_for()
            now_us = self._now_us() if waited_for else 0  # where nobody waits no time is asked for
            queue.done(ticket, cost, now_us)
            if queue.slots != self._slots:
                self._fit()
            if waited_for:
                self._wake(now_us)

    def recall(self, tenant: str) -> None:
        """Wake a tenant's requests in the slow lane: it has credits again."""
        for waiter in self._slow.get(tenant, ()):
            if not waiter.done():
                waiter.set_result(False)

    def stir(self) -> None:
        """Wake everybody who waits, to look around: the backend is out, and another may serve them."""
        for waiter in self._waiters.values():
            if not waiter.done():
                waiter.set_result(None)

    def resize(self, slots: int) -> None:
        """Have so many slots from now on, beside those of stranded requests, and wake those who run next."""
        self._slots = slots
        if self._fit():
            self._wake(self._now_us())

    def _fit(self) -> bool:
        """Give the queue its size; True: it has changed."""
        queue, stranded = self.queue, self._stranded()
        stranded_slow = max(0, stranded - queue.running_in(Lane.FAST)) if stranded else 0  # at least so many of them are slow
        wanted = self._slots + stranded, slow_slots_of(self._slots) + stranded_slow
        if wanted == (queue.slots, queue.slow_slots):
            return False
        queue.resize(*wanted)
        return True

    async def _woken(self, ticket: Ticket, within_s: float) -> bool:
        """Wait until somebody wakes it, or for so long; True: woken before."""
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._waiters[id(ticket)] = waiter
        slow = self._slow.setdefault(ticket.tenant, set()) if ticket.lane is Lane.SLOW else None
        if slow is not None:
            slow.add(waiter)
        try:
            async with asyncio.timeout(max(0.0, within_s)):
                ticket.recalled = await waiter is False
                return True
        except TimeoutError:
            return False
        finally:
            del self._waiters[id(ticket)]
            if slow is not None:
                slow.discard(waiter)
                if not slow and self._slow.get(ticket.tenant) is slow:
                    del self._slow[ticket.tenant]

    def _wake(self, now_us: int) -> None:
        for granted in self.queue.next(now_us):
            self._paces[granted.lane].note(now_us)
            self._rouse(granted, True)

    def _rouse(self, ticket: Ticket, why: bool | None) -> None:
        waiter = self._waiters.get(id(ticket))
        if waiter is not None and not waiter.done():
            waiter.set_result(why)

    def _refusal(self, ticket: Ticket, what: str) -> SlowDown:
        lane = ticket.lane
        retry_s = self._paces[lane].retry_us(lane, self.queue.waiting(lane), self._jitter) / 1e6
        return SlowDown(f"The {lane} lane's queue {what}. Try again in {retry_s:.0f} s.", retry_after_s=retry_s)
