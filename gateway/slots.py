"""This process's share of every backend's slots, kept up by what the processes say of themselves with their beats.

A backend's slots belong to the whole installation. With each beat goes a note (`lanes/notes.py`): what this process needs, and how many
slots it claims. What it may claim is decided in the beat's own transaction, out of what the others that beat have not claimed
(`lanes/shares.py`), so sharing costs no I/O of its own and no slot is given twice. Alone, a process has all of them. One whose beat stands
still counts no more, and takes the fewest itself once it runs again, until it has beaten. While nobody can reach the database, everybody
keeps what it has.
"""

import asyncio
import hashlib
import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from backends.pool import Pool
from backends.replica import Replica as Server
from gateway.beat import Beat
from gateway.clock import Clock
from gateway.lanes import notes
from gateway.lanes.board import Board, Voice, Whole, merge
from gateway.lanes.gate import Gate
from gateway.lanes.notes import Load, Note, SlowTenant
from gateway.lanes.queue import slow_slots_of
from gateway.lanes.shares import SLOTS_MIN, Need, apportion, claim
from gateway.lanes.standing import Lane

EVERY_S = 1.0

log = logging.getLogger("weir.slots")


class Draft(msgspec.Struct, frozen=True):
    """A note without its claims: how this process is now, and who of its tenants is slow. `Load.share` is what it has of a backend so far."""

    note: Note
    slow: tuple[SlowTenant, ...]

    def written(self, me: str, others: Mapping[str, str | None]) -> str:
        """Claim what may be claimed beside the notes of the others, and write the note. Of one that has none, or none that is understood, its due is
        taken for claimed.
        """
        told = {process: notes.read(text) for process, text in others.items()}
        backends = {name: _claimed(load, name, me, told) for name, load in self.note.backends.items()}
        return notes.write(msgspec.structs.replace(self.note, backends=backends), self.slow)


class Slots:
    """Event loop only, but for the drafts that it hands out. `tenants` says how many tenants this process knows."""

    def __init__(self, beat: Beat, clock: Clock, board: Board, *, pools: Mapping[str, Pool], gates: Mapping[str, Gate], tenants: Callable[[], int]) -> None:
        self._beat = beat
        self._clock = clock
        self._board = board
        self._pools = pools
        self._gates = gates
        self._tenants = tenants
        self._host = socket.gethostname()
        self._places = {name: place_of(pools[name].replicas, self._host) for name in gates}
        self._claims: dict[str, Load] = {}  # as the books have them
        self._looked_s: float | None = None  # the last look; None: it has not begun to look
        self._woke_s = 0.0  # when it ran again after it had stood still
        beat.draft, beat.on_told = self.draft, self.told

    def backend_slots(self, name: str) -> int:
        """Return how many requests a backend is given at once by all processes, as this one knows it: at least one."""
        return max(SLOTS_MIN, self._pools[name].slots)

    def draft(self) -> Draft:
        """Begin the note of a beat."""
        self._notice()
        return Draft(self._note(), tuple(self._slow()))

    def told(self) -> None:
        """Hear that the books have a note of this process: what it claims is its own from now on."""
        note = notes.read(self._beat.noted)
        self._claims = {} if note is None else note.backends
        self._set()

    def whole(self, tenant: str | None = None) -> Whole:
        """Put together how the lanes are now: this process as it is, the others as they last said. `tenant`: only that one of the slow ones."""
        own = msgspec.structs.replace(self._note(), slow=list(self._slow(tenant))[: notes.LISTED_MAX])
        voices = [Voice(process=self._beat.member.replica_id, host=self._host, pid=os.getpid(), note=own, here=True)]
        for process, (replica, heard_s) in self._beat.news.items():
            voices.append(Voice(process=process, host=replica.host, pid=replica.pid, note=notes.read(replica.note), heard_s=heard_s))
        return merge(voices, tenant)

    async def follow(self) -> None:
        """Keep the gates at this process's shares until cancelled, also between its beats."""
        while True:
            self.look()
            await asyncio.sleep(EVERY_S)

    def look(self) -> None:
        """Set every gate to what this process may take now."""
        self._notice()
        self._looked_s = self._clock.monotonic_s()
        self._set()

    def _set(self) -> None:
        """Live through whatever is wrong with one of them: the next look is another."""
        for name, gate in self._gates.items():
            try:
                gate.resize(self._may_take(name))
                if not self._pools[name].up:
                    gate.stir()
            except Exception:  # neither the beat nor the other backends are to end for it
                log.exception("the slots of backend %s could not be set; it is tried again", name)

    def _may_take(self, name: str) -> int:
        slots, load = self.backend_slots(name), None if self._beat.noted is None else self._claims.get(name)
        if load is not None and load.processes == 1:
            return slots
        if load is None or self._beat.told_s < self._woke_s:
            return SLOTS_MIN
        return min(load.share, slots)

    def _notice(self) -> None:
        """Notice that this process has stood still: the others may have taken its slots, so it takes the fewest until it has beaten again."""
        now_s = self._clock.monotonic_s()
        stood_s = 0.0 if self._looked_s is None else now_s - self._looked_s
        if stood_s > EVERY_S + self._beat.still_s / 4:
            self._looked_s = self._woke_s = now_s
            if self._beat.news:
                log.warning("this process stood still for %.1f s; it takes the fewest slots until the others have heard of it", stood_s)
                self._beat.hurry()

    def _note(self) -> Note:
        now_us = self._clock.now_us()
        return Note(
            at_us=now_us,
            backends={name: self._load(name, gate) for name, gate in self._gates.items()},
            waits=self._board.waits(now_us),
            tenants=self._tenants(),
            slow_tenants=self._board.count(now_us),
        )

    def _load(self, name: str, gate: Gate) -> Load:
        queue, share = gate.queue, self._may_take(name)
        return Load(
            place=self._places[name],
            slots=self.backend_slots(name),
            share=share,
            slow_slots=slow_slots_of(share),
            fast_running=queue.running_in(Lane.FAST),
            fast_waiting=queue.waiting(Lane.FAST),
            slow_running=queue.running_in(Lane.SLOW),
            slow_waiting=queue.waiting(Lane.SLOW),
        )

    def _slow(self, tenant: str | None = None) -> Iterator[SlowTenant]:
        """Yield the slow tenants of this process that were here last, with their requests now."""
        for count, one in enumerate(self._board.slow(self._clock.now_us(), tenant)):
            if count >= notes.LISTED_MAX:
                return
            requests = [gate.queue.of_tenant(one.tenant, lane) for gate in self._gates.values() for lane in Lane]
            yield msgspec.structs.replace(one, running=sum(running for running, _ in requests), waiting=sum(waiting for _, waiting in requests))


def _claimed(own: Load, name: str, me: str, told: Mapping[str, Note | None]) -> Load:
    """Return this process's load at a backend with what it claims of its slots, beside the others that use the same servers.

    How many slots there are is its own view: one that sees less of the servers takes less, and spoils nobody else's.
    """
    loads: dict[str, Load | None] = {me: own}
    for process, note in told.items():
        load = None if note is None else note.backends.get(name)
        if note is None or (load is not None and load.place == own.place):
            loads[process] = load
    due = apportion(own.slots, {process: Need() if load is None else _need(load) for process, load in loads.items()})
    left = own.slots - sum(due[process] if load is None else load.share for process, load in loads.items() if process != me)
    share = claim(due[me], own.share, left)
    return msgspec.structs.replace(own, share=share, slow_slots=slow_slots_of(share), processes=len(loads))


def _need(load: Load) -> Need:
    return Need(fast=load.fast_running + load.fast_waiting, slow=load.slow_running + load.slow_waiting)


def place_of(servers: Iterable[Server], host: str) -> str:
    """Name the servers behind a backend, so that processes know whether they mean the same ones: on two machines, 127.0.0.1 is not one server."""
    found = sorted(servers, key=lambda server: server.name)
    names = [server.name for server in found]
    if any(_on_this_machine(server.origin.host) for server in found):
        names.append(host)
    return hashlib.blake2s("\n".join(names).encode(), digest_size=6).hexdigest()


def _on_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False
