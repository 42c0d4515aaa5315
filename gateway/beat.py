"""This process's name among those that share the credits: it beats while it lives, counts the others, and buries the dead.

Nobody compares two machines' clocks. A beat is a random number; whoever sees another's unchanged for the term of a lease, on its own
monotonic clock, takes it for dead, and what was set aside for it goes back. A process itself admits from its leases only until a term
after the beat it *sent* last, so it stops before anybody else can have lost patience. One that was stalled, or whose name another uses
(a copied machine), finds that its beat is not its own any more, and goes on under a new name with no leases.

With each beat goes a note, written in the beat's own transaction with those of the others in view: so they share what slots there are, without
any I/O of its own.
"""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

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
STILL_BEATS = 4  # beats for which another's may stand still before it does not count as running, long before it is buried
STILL_LOOKS = 3  # and so many looks: where nobody could look, nobody stood still
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


class Draft(Protocol):
    """A note to be finished on the books thread, and perhaps again where its transaction has to be."""

    def written(self, me: str, others: Mapping[str, str | None]) -> str:
        """Finish it for a process of this id, with the notes that the others which beat have now."""
        ...


class News(NamedTuple):
    """What another process said with its last beat, and how long ago this one heard it (seconds)."""

    replica: Replica
    heard_s: float


class Told(NamedTuple):
    """A beat that the books have: who was in them, the note that went with it, and when it was sent (monotonic seconds)."""

    found: list[Replica]
    note: str | None
    sent_s: float


class Seen(NamedTuple):
    """Another process: its last beat and note, since when they stand (monotonic seconds), and for how many looks."""

    replica: Replica
    since_s: float
    looks: int = 0


class Beat:
    """Event loop only, but for `member`, which the books thread reads and, while it tells a beat, writes.

    `draft` begins the note of each beat, `on_told` hears when the books have it; `noted` is the last one they have under this name, `told_s` when its beat
    was sent (monotonic seconds).
    """

    def __init__(self, books: Books, clock: Clock, folder: Path, *, term_s: float, every_s: float, lease_ncr_max: int = LEASE_NCR_MAX) -> None:
        self._books = books
        self._clock = clock
        self._folder = folder
        self._term_s = term_s
        self._every_s = every_s
        self._seen: dict[str, Seen] = {}
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
        self.draft: Callable[[], Draft] | None = None
        self.on_told: Callable[[], None] | None = None
        self.noted: str | None = None
        self.told_s = 0.0
        self.still_s = still_after_s(every_s, term_s)

    @property
    def news(self) -> dict[str, News]:
        """What the others said last, by their ids. One whose beat has stood still for `still_s` seconds is not among them: it is stalled, or dead."""
        now_s = self._clock.monotonic_s()
        return {replica_id: News(seen.replica, now_s - seen.since_s) for replica_id, seen in self._seen.items() if not self._still(seen)}

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
        self.noted = None
        self._woken.set()

    def hurry(self) -> None:
        """Beat now: the books can be reached, and this process's leases have ended."""
        self._woken.set()

    async def join(self) -> None:
        """Enter the books under a new name. Raises `BooksUnavailable`."""
        mine = Replica(id=secrets.token_hex(8), beat=_number(), host=socket.gethostname(), pid=os.getpid(), started_us=self._clock.now_us())
        draft = self._begun()

        def enter(session: Session) -> Told:
            sent_s = self._clock.monotonic_s()
            found = leases.replicas(session)
            note = self._finished(draft, mine.id, found)
            leases.register(session, msgspec.structs.replace(mine, note=note))
            return Told(found, note, sent_s)

        told = await asyncio.wrap_future(self._books.run(enter, urgency=Urgency.BEAT))
        before, self._marker = self._marker, self._mark(mine.id)
        if before is not None:
            before.remove()
        self._seen.clear()
        self.member = msgspec.structs.replace(self.member, replica_id=mine.id, beats=(mine.beat,))
        self._books.replica_id = mine.id
        if self.holder is not None:
            self.holder.unleased()  # all of it was the old name's
        self._lost = False
        self._heard(told)

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
        self._heard(await asyncio.wrap_future(self._books.run(partial(self._tell, draft=self._begun()), urgency=Urgency.BEAT)))

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

    def _tell(self, session: Session, draft: Draft | None = None) -> Told:
        sent_s = self._clock.monotonic_s()  # and not when it was asked for: it may have waited for a batch
        new = _number()
        last = self.member.beats
        # The commit's answer may be lost: from here on either may be what the books have.
        self.member = msgspec.structs.replace(self.member, beats=(*last, new))
        found = leases.replicas(session)
        note = self._finished(draft, self.member.replica_id, found)
        if not leases.beat(session, self.member.replica_id, last, new, note):
            raise Displaced(self.member.replica_id)
        return Told(found, note, sent_s)

    def _begun(self) -> Draft | None:
        try:
            return None if self.draft is None else self.draft()
        except Exception:  # whatever is wrong with it, that this process lives must be told
            log.exception("the note for the other processes could not be begun")
            return None

    def _finished(self, draft: Draft | None, me: str, found: list[Replica]) -> str | None:
        if draft is None:
            return None
        others = {replica.id: replica.note for replica in found if replica.id != me and not self._still(self._seen.get(replica.id), replica)}
        try:
            return draft.written(me, others)
        except Exception:  # as above
            log.exception("the note for the other processes could not be finished")
            return None

    def _still(self, seen: Seen | None, now: Replica | None = None) -> bool:
        """Tell whether a process has stood still, by the last look; `now`: how it is found since."""
        if seen is None or (now is not None and now.beat != seen.replica.beat):
            return False
        return seen.looks >= STILL_LOOKS and self._looked_s - seen.since_s >= self.still_s

    def _heard(self, told: Told) -> None:
        now_s = self._clock.monotonic_s()
        self.noted, self.told_s = told.note, told.sent_s
        self._deadline_s = told.sent_s + self._term_s
        self._ended = False
        if now_s - self._looked_s > 2 * self._every_s + self._term_s / 4:
            self._seen.clear()  # it did not look for a while, perhaps because nobody could reach the books: the others have their term from now
        self._looked_s = now_s
        seen = {}
        for replica in told.found:
            if replica.id != self.member.replica_id:
                last = self._seen.get(replica.id)
                if last is not None and last.replica.beat == replica.beat:
                    seen[replica.id] = last._replace(looks=last.looks + 1)
                else:
                    seen[replica.id] = Seen(replica, now_s)
        self._seen = seen
        self.member = msgspec.structs.replace(self.member, beats=self.member.beats[-1:], processes=1 + len(seen))
        if self.on_told is not None:
            self.on_told()

    async def _bury(self) -> None:
        patience_s = self._term_s * PATIENCE
        now_s = self._clock.monotonic_s()
        for replica_id, seen in list(self._seen.items()):
            if now_s - seen.since_s >= patience_s:
                if await asyncio.wrap_future(self._books.run(partial(leases.bury, replica_id=replica_id, last=seen.replica.beat), urgency=Urgency.BEAT)):
                    log.warning("process %s has not beaten for %.0f s and is taken for dead; what it had leased goes back", replica_id, now_s - seen.since_s)
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


def still_after_s(every_s: float, term_s: float) -> float:
    """Return for how long another's beat may stand still before it does not count as running (seconds)."""
    return min(STILL_BEATS * every_s, term_s)


def _number() -> int:
    return secrets.randbits(62)
