"""This process's name among those that share the credits: it beats while it lives, counts the others, and buries the dead.

Nobody compares two machines' clocks. A beat is a random number; whoever sees another's unchanged for the term of a lease, on its own
monotonic clock, takes it for dead, and what was set aside for it goes back. A process itself admits from its leases only until a term
after the beat it *sent* last, so it stops before anybody else can have lost patience. One that was stalled, or whose name another uses
(a copied machine), finds that its beat is not its own any more, and goes on under a new name with no leases.
"""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
from sqlmodel import Session

from billing.credits.draw import LEASE_NCR_MAX, Displaced, Member
from billing.db import Database
from billing.errors import BillingError
from billing.leases import store as leases
from billing.leases.markers import Marker, dead_here
from billing.leases.store import Replica
from billing.work import Urgency
from gateway.clock import Clock

T = TypeVar("T")

PATIENCE = 1.25  # terms that another's beat may stand still before it is buried
RECONCILE_S = 60.0  # how often it looks whether the books have set aside for it what it does not know of

log = logging.getLogger("weir.beat")


class Books(Protocol):
    """What a beat needs of the recorder."""

    replica_id: str

    @property
    def replaying(self) -> bool:
        """Whether what dead processes left is still being booked."""
        ...

    def run(self, work: Callable[[Session], T], *, urgency: Urgency = Urgency.LATER) -> Future[T]:
        """Run work on the books thread, between two batches."""
        ...

    def owns(self, segment: Path) -> bool:
        """Tell whether a segment of the journal is this process's own."""
        ...


class Leaseholder(Protocol):
    """What has leases under this name."""

    def unleased(self) -> None:
        """Forget them: they are gone."""
        ...

    def give_back(self, most_ncr: int) -> int:
        """Give back what is not worth keeping."""
        ...

    def reconcile(self) -> None:
        """Give back what the books have set aside and nobody here knows of."""
        ...


class Beat:
    """Event loop only, but for `member`, which the books thread reads and, while it tells a beat, writes."""

    def __init__(self, books: Books, clock: Clock, folder: Path, *, term_s: float, every_s: float, lease_ncr_max: int = LEASE_NCR_MAX) -> None:
        self._books = books
        self._clock = clock
        self._folder = folder
        self._term_s = term_s
        self._every_s = every_s
        self._seen: dict[str, tuple[int, float]] = {}  # another process: its beat, and since when it stands (monotonic seconds)
        self._deadline_s = 0.0
        self._marker: Marker | None = None
        self._woken = asyncio.Event()
        self._lost = True
        self._ended = False
        self._looked_s = 0.0  # when it saw the others last
        self._reconciled_s = 0.0
        self.holder: Leaseholder | None = None
        self.member = Member(replica_id="", beats=(), lease_ncr_max=lease_ncr_max)
        self.displacements = 0

    @property
    def processes(self) -> int:
        """How many processes share the database, this one among them."""
        return self.member.processes

    @property
    def alive(self) -> bool:
        """Whether this process may admit from its leases now. Where it may not any more, they are forgotten: the books say what is left of them."""
        if self._clock.monotonic_s() < self._deadline_s:
            return True
        if not self._ended:
            self._ended = True
            if self.holder is not None:
                self.holder.unleased()
        return False

    def displaced(self, replica_id: str) -> None:
        """Hear that the books do not know this process by that name. Unless it has another already, it joins again at once."""
        if replica_id != self.member.replica_id or self._lost:
            return
        self.displacements += 1
        self._deadline_s = 0.0
        self._lost = True
        self._woken.set()

    def hurry(self) -> None:
        """Beat now: the books can be reached, and this process's leases have ended."""
        self._woken.set()

    async def join(self) -> None:
        """Enter the books under a new name. Raises `BooksUnavailable`."""
        mine = Replica(id=secrets.token_hex(8), beat=_number(), host=socket.gethostname(), pid=os.getpid(), started_us=self._clock.now_us())

        def enter(session: Session) -> tuple[list[Replica], float]:
            sent_s = self._clock.monotonic_s()
            leases.register(session, mine)
            return leases.replicas(session), sent_s

        found, sent_s = await asyncio.wrap_future(self._books.run(enter, urgency=Urgency.BEAT))
        before, self._marker = self._marker, self._mark(mine.id)
        if before is not None:
            before.remove()
        self._seen.clear()
        self.member = msgspec.structs.replace(self.member, replica_id=mine.id, beats=(mine.beat,))
        self._books.replica_id = mine.id
        if self.holder is not None:
            self.holder.unleased()  # all of it was the old name's
        self._lost = False
        self._told(found, sent_s)

    async def follow(self) -> None:
        """Beat until cancelled. While the books are away nothing is told, and the leases end at their deadline."""
        said = False
        while True:
            try:
                async with asyncio.timeout(self._every_s):
                    await self._woken.wait()
            except TimeoutError:
                pass  # nobody called: it is time
            self._woken.clear()
            try:
                await self._turn()
                said = False
            except BillingError as error:
                if not said:
                    log.warning("the books cannot be told that this process lives; it admits from its leases for %.0f s more: %s", self._left_s(), error)
                said = True
            except Exception:  # a beat that ends would end every lease for ever: it is logged and tried again
                log.exception("a beat failed; it is tried again")

    async def beat(self) -> None:
        """Tell the books that this process lives, and look who else does. Raises `BooksUnavailable`, `Displaced`."""
        found, sent_s = await asyncio.wrap_future(self._books.run(self._tell, urgency=Urgency.BEAT))
        self._told(found, sent_s)

    def leave(self, database: Database, *, booked: bool) -> None:
        """Leave the books, after the last flush: what is leased goes back at once if all is `booked`, else once the journal is replayed (any thread)."""
        if not booked or not self.member.replica_id:
            return
        try:
            with database.write() as session:
                leases.bury(session, self.member.replica_id)
        except BillingError as error:
            log.warning("what this process had leased goes back after its term only: %s", error)
            return
        if self._marker is not None:
            self._marker.remove()
            self._marker = None

    async def _turn(self) -> None:
        if self._lost:
            await self.join()
            log.warning("this process goes on as %s; what it had leased before is not its own any more", self.member.replica_id)
        else:
            try:
                await self.beat()
            except Displaced as gone:
                log.warning("process %s was taken for dead, or runs twice: it begins again under a new name", self.member.replica_id)
                self.displaced(gone.replica_id)
                await self.join()
        await self._bury()
        if self.holder is not None and self.member.processes > 1:
            self.holder.give_back(self.member.lease_ncr_max)
            now_s = self._clock.monotonic_s()
            if now_s >= self._reconciled_s + RECONCILE_S:
                self._reconciled_s = now_s
                self.holder.reconcile()

    def _tell(self, session: Session) -> tuple[list[Replica], float]:
        sent_s = self._clock.monotonic_s()  # and not when it was asked for: it may have waited for a batch
        new = _number()
        last = self.member.beats
        # The commit's answer may be lost: from here on either may be what the books have.
        self.member = msgspec.structs.replace(self.member, beats=(*last, new))
        if not leases.beat(session, self.member.replica_id, last, new):
            raise Displaced(self.member.replica_id)
        return leases.replicas(session), sent_s

    def _told(self, found: list[Replica], sent_s: float) -> None:
        now_s = self._clock.monotonic_s()
        self._deadline_s = sent_s + self._term_s
        self._ended = False
        if now_s - self._looked_s > 2 * self._every_s + self._term_s / 4:
            self._seen.clear()  # it did not look for a while, perhaps because nobody could reach the books: the others have their term from now
        self._looked_s = now_s
        seen = {}
        for replica in found:
            if replica.id != self.member.replica_id:
                beat, since_s = self._seen.get(replica.id, (None, now_s))
                seen[replica.id] = (replica.beat, since_s if beat == replica.beat else now_s)
        self._seen = seen
        self.member = msgspec.structs.replace(self.member, beats=self.member.beats[-1:], processes=1 + len(seen))

    async def _bury(self) -> None:
        patience_s = self._term_s * PATIENCE
        now_s = self._clock.monotonic_s()
        for replica_id, (beat, since_s) in list(self._seen.items()):
            if now_s - since_s >= patience_s:
                if await asyncio.wrap_future(self._books.run(partial(leases.bury, replica_id=replica_id, last=beat), urgency=Urgency.BEAT)):
                    log.warning("process %s has not beaten for %.0f s and is taken for dead; what it had leased goes back", replica_id, now_s - since_s)
                self._seen.pop(replica_id, None)
        if not self._books.replaying:
            for replica_id, (path, replayed) in dead_here(self._folder, self._books.owns).items():
                if replica_id in self._seen:
                    if not replayed:
                        continue
                    await asyncio.wrap_future(self._books.run(partial(leases.bury, replica_id=replica_id), urgency=Urgency.BEAT))
                    self._seen.pop(replica_id)
                path.unlink(missing_ok=True)
        self.member = msgspec.structs.replace(self.member, processes=1 + len(self._seen))

    def _mark(self, replica_id: str) -> Marker | None:
        try:
            return Marker(self._folder, replica_id)
        except OSError as error:
            log.warning("no marker of this process could be made in %s: if it dies, its leases go back after their term only: %s", self._folder, error)
            return None

    def _left_s(self) -> float:
        return max(0.0, self._deadline_s - self._clock.monotonic_s())


def _number() -> int:
    return secrets.randbits(62)
