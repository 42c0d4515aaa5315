"""Rate windows that several processes share, asked of a store that may be slow, stalled or gone without anybody noticing.

One task owns the one connection. Requests leave their question and wait; whatever has gathered while the last round trip was under way
goes with the next, tokens that were used first. The first question that waits longer than `wait_s` opens the circuit: it and all others
are answered "not known", so that the limiter applies this process's share, and nobody asks again until a trial in the background has
been answered in time. What was taken meanwhile is then reported. Nothing here refuses a request, and no money depends on it.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from gateway.clock import Clock
from gateway.lanes.windows import Bucket

FLIGHT_MAX = 512  # calls in one round trip
ASKS_MAX = 8192  # questions that wait; past it the share answers
OWED_MAX = 100_000  # buckets with units to report; past it units are not reported
OPEN_S_MAX = 3.0  # name, connection, TLS, password and script, in the background
LAG_S = 0.01  # a timer that comes later than this was held up by this process itself
BACK_S_MIN, BACK_S_MAX = 0.1, 5.0  # between attempts to come back
WELL_S = 10.0  # a link that held so long is tried again soon

log = logging.getLogger("weir.windows")


class LinkDown(Exception):
    """The store did not answer, or not as it should; the text says how."""


class Call(NamedTuple):
    """One run of the script: take `units` from the buckets `names` of these `limits`; where `checked`, only if each has a unit left."""

    checked: bool
    names: tuple[str, ...]
    limits: tuple[int, ...]
    units: tuple[int, ...]


class Answer(NamedTuple):
    """Whether units were taken, the store's time in microseconds, and what each bucket holds now (units x MINUTE_US)."""

    taken: bool
    now_us: int
    micros: tuple[int, ...]


class Link(Protocol):
    """The way to the store. Every method but `drop` raises `LinkDown`."""

    async def open(self) -> None:
        """Connect anew."""
        ...

    async def run(self, calls: Sequence[Call]) -> list[Answer]:
        """Run all calls in one round trip."""
        ...

    async def drop(self) -> None:
        """Disconnect without waiting."""
        ...


class Ask(NamedTuple):
    """A request's question. `at_s` is the loop's time at which it was put."""

    call: Call
    at_s: float
    answer: "asyncio.Future[Answer | None]"


class SharedWindows:
    """The windows of all processes, as one of them sees them. `up` says whether they are asked now; `errors` counts losses and vain attempts to come back."""

    def __init__(self, link: Link, clock: Clock, *, prefix: str, wait_s: float, jitter: random.Random) -> None:
        self.prefix = prefix
        self.clock = clock
        self.up = False
        self.errors = 0
        self._link = link
        self._wait_s = wait_s
        self._jitter = jitter
        self._asks: list[Ask] = []
        self._owed: dict[str, tuple[Bucket, int]] = {}
        self._wake = asyncio.Event()
        self._back_s = BACK_S_MIN
        self._up_at_s = 0.0
        self._said: str | None = None

    async def ask(self, buckets: Sequence[Bucket], units: Sequence[int]) -> Answer | None:
        """Take `units` from the buckets if each has one left. None when the store does not answer in time: then apply the share."""
        if not self.up or len(self._asks) >= ASKS_MAX:
            return None
        call = Call(True, tuple([bucket.name for bucket in buckets]), tuple([bucket.limit for bucket in buckets]), tuple(units))
        loop = asyncio.get_running_loop()
        mine = Ask(call, loop.time(), loop.create_future())
        self._asks.append(mine)
        self._wake.set()
        return await mine.answer

    def owe(self, bucket: Bucket, units: int) -> None:
        """Report units that were taken here already, with the next round trip or when the store is back."""
        owed = self._owed.get(bucket.name)
        if owed is not None or len(self._owed) < OWED_MAX:
            self._owed[bucket.name] = (bucket, units + (0 if owed is None else owed[1]))
            self._wake.set()

    async def connect(self) -> None:
        """Try once to reach the store, for a bounded time. `up` says whether it answered."""
        try:
            await reach(self._link, self.prefix, self._wait_s)
        except LinkDown as error:
            await self._lose(str(error))
        else:
            now_us = self.clock.now_us()  # what refilled while the store was away is not owed any more
            self._owed = {name: (bucket, min(units, bucket.missing(now_us))) for name, (bucket, units) in self._owed.items()}
            self.up, self._up_at_s = True, asyncio.get_running_loop().time()
            if self._said is not None:
                log.warning("rate windows are shared between the processes again")
                self._said = None

    async def run(self) -> None:
        """Carry questions and answers, and come back after a loss, until cancelled."""
        try:
            while True:
                if not self.up:
                    await asyncio.sleep(self._back_s * self._jitter.uniform(0.5, 1.0))
                    self._back_s = min(BACK_S_MAX, self._back_s * 2)
                    await self.connect()
                    continue
                await self._wake.wait()
                self._wake.clear()
                while self._asks or self._owed:
                    if not await self._fly():
                        break
        finally:
            self._close()

    async def aclose(self) -> None:
        """Report what is still owed, for a bounded time, and disconnect. `run` must have ended."""
        while self._owed:
            calls = self._due()  # perhaps none: units of buckets that are full again
            try:
                async with asyncio.timeout(self._wait_s):
                    await self._link.run(calls)
            except (LinkDown, TimeoutError) as error:
                log.info("the last units of the rate windows were not reported: %s", error)
                break
        await self._link.drop()

    async def _fly(self) -> bool:
        """Make one round trip, which must end before the oldest question in it has waited for `wait_s`. Return whether it did."""
        loop = asyncio.get_running_loop()
        due = self._due()
        asks = [ask for ask in self._asks[:FLIGHT_MAX] if not ask.answer.done()]  # who left before it was sent takes nothing
        self._asks = self._asks[FLIGHT_MAX:]
        calls = [*due, *(ask.call for ask in asks)]
        if not calls:
            return True
        by_s = (asks[0].at_s if asks else loop.time()) + self._wait_s
        flight = asyncio.ensure_future(self._link.run(calls))
        flight.add_done_callback(_hear)
        try:
            await asyncio.wait({flight}, timeout=max(0.0, by_s - loop.time()))
            if not flight.done() and loop.time() > by_s + LAG_S:  # this process was late itself: the answer may lie in its socket
                await asyncio.wait({flight}, timeout=LAG_S)
            if flight.done():
                for ask, answer in zip(asks, flight.result()[len(due) :], strict=True):
                    _tell(ask, answer)
                return True
            await self._lose(_no_answer(self._wait_s))
        except LinkDown as error:
            await self._lose(str(error))
        finally:
            flight.cancel()
            for ask in asks:  # none stays without an answer, however this ended
                _tell(ask, None)
        return False

    def _due(self) -> list[Call]:
        """Take out what is owed, as far as one round trip carries it. What a lost one carried is not sent twice."""
        names = list(self._owed)[:FLIGHT_MAX]
        owed = [self._owed.pop(name) for name in names]
        return [Call(False, (bucket.name,), (bucket.limit,), (units,)) for bucket, units in owed if units]

    async def _lose(self, why: str) -> None:
        loop = asyncio.get_running_loop()
        self.errors += 1
        if self.up and loop.time() - self._up_at_s > WELL_S:
            self._back_s = BACK_S_MIN
        self._close()
        if self._said is None:
            log.warning("rate windows are not shared now, each process applies its share of every limit: %s", why)
            self._said = why
        await self._link.drop()

    def _close(self) -> None:
        self.up = False
        asks, self._asks = self._asks, []
        for ask in asks:
            _tell(ask, None)


async def reach(link: Link, prefix: str, wait_s: float) -> float:
    """Connect a link and try it once; return the seconds that the trial took. Raises `LinkDown`, also when that is over `wait_s`."""
    loop = asyncio.get_running_loop()
    within_s = OPEN_S_MAX
    try:
        async with asyncio.timeout(within_s):
            await link.open()
        within_s, began_s = wait_s, loop.time()
        async with asyncio.timeout(within_s):
            await link.run([Call(False, (f"{prefix}:rate:trial",), (1_000_000,), (1,))])
    except TimeoutError:
        raise LinkDown(_no_answer(within_s)) from None
    return loop.time() - began_s


def _no_answer(within_s: float) -> str:
    return f"no answer within {within_s * 1000:.0f} ms"


def _hear(flight: "asyncio.Future[list[Answer]]") -> None:
    """Look at how a round trip ended that nobody waits for any more."""
    if not flight.cancelled():
        flight.exception()


def _tell(ask: Ask, answer: Answer | None) -> None:
    if not ask.answer.done():
        ask.answer.set_result(answer)
