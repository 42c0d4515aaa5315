"""Who is slow, why and since when, in this process; and, put together from the notes of all (`merge`), in the whole installation. Pure.

Every request of every tenant comes by, so the fast ones cost one look into a dictionary. A tenant leaves the board when it is served fast
again, or has its credits back, or has asked for nothing for an hour.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from gateway.lanes import waits
from gateway.lanes.notes import Load, Note, SlowTenant
from gateway.lanes.standing import FAST, Lane, Standing
from gateway.lanes.waits import Waits

TENANTS_MAX = 10_000  # past it those that were here longest ago are dropped
SILENT_US = 3_600_000_000

WORDS = {  # what a reason means to an admin
    "credits_exhausted": "no credits are left",
    "credits_too_few": "fewer credits are left than its requests may need",
    "fallback_model": "no credits are left, so its plan's other model serves",
    "books_away": "the database cannot be asked, and nothing more is set aside here",
    "slow_daily_cap": "the slow lane's daily cap is reached",
    "block": "its plan refuses what is past the credits",
    "set_aside": "what is left is set aside for requests that run",
}


class Entry(msgspec.Struct):
    """A tenant on the board."""

    standing: Standing
    reason: str
    since_us: int
    last_us: int


class Board:
    """One process's board. Instants are UTC epoch microseconds."""

    __slots__ = ("_slow", "_waits")

    def __init__(self) -> None:
        self._slow: OrderedDict[str, Entry] = OrderedDict()  # the one that was here last, last
        self._waits = {lane: Waits() for lane in Lane}

    def noted(self, tenant: str, lane: Lane | None, reason: str, standing: Standing, now_us: int) -> None:
        """Take note of a request and how it is served; `lane` None: it is refused because its tenant is past its credits."""
        if lane is FAST:
            if tenant in self._slow:
                del self._slow[tenant]
            return
        slow = self._slow
        entry = slow.get(tenant)
        if entry is None or entry.last_us < now_us - SILENT_US:
            self._forget(now_us)
            if len(slow) >= TENANTS_MAX and tenant not in slow:
                slow.popitem(last=False)
            slow[tenant] = Entry(standing, reason, now_us, now_us)
        else:
            entry.standing, entry.reason, entry.last_us = standing, reason, now_us
        slow.move_to_end(tenant)

    def back(self, tenant: str) -> None:
        """Take a tenant off that has credits again, though it may have been slow here and come back elsewhere."""
        self._slow.pop(tenant, None)

    def waited(self, lane: Lane, wait_us: int, now_us: int) -> None:
        """Take note of how long a request waited for its slot, or for its refusal (microseconds)."""
        self._waits[lane].add(wait_us, now_us)

    def count(self, now_us: int) -> int:
        """Return how many tenants are slow."""
        self._forget(now_us)
        return len(self._slow)

    def waits(self, now_us: int) -> dict[str, list[int]]:
        """Write the waits of the last minutes, by lane."""
        return {lane.value: waits.written(now_us) for lane, waits in self._waits.items()}

    def slow(self, now_us: int, tenant: str | None = None) -> Iterator[SlowTenant]:
        """Yield the slow tenants, those that were here last first; `tenant`: only that one."""
        self._forget(now_us)
        for name in reversed(self._slow) if tenant is None else (tenant,):
            if (entry := self._slow.get(name)) is not None:
                yield SlowTenant(name, entry.standing.value, entry.reason, entry.since_us, entry.last_us)

    def _forget(self, now_us: int) -> None:
        slow = self._slow
        while slow and next(iter(slow.values())).last_us < now_us - SILENT_US:
            slow.popitem(last=False)


class Voice(msgspec.Struct, frozen=True, kw_only=True):
    """A process and its note; `heard_s` is how old its news is, `here` says that this process is the one."""

    process: str
    host: str
    pid: int
    note: Note | None
    heard_s: float = 0.0
    here: bool = False


class BackendNow(msgspec.Struct, frozen=True, kw_only=True):
    """A backend over all processes: its slots, how many of them the slow lane may take, what runs and waits by lane, and how many processes use it."""

    name: str
    slots: int
    slow_slots: int
    running: Mapping[Lane, int]
    waiting: Mapping[Lane, int]
    processes: int


class LaneNow(msgspec.Struct, frozen=True, kw_only=True):
    """A lane over all backends and processes. `tenants` is what the process that knows most says; waits in microseconds, None where nobody came."""

    lane: Lane
    tenants: int
    running: int
    waiting: int
    wait_p50_us: int | None
    wait_p99_us: int | None


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """All lanes now. `more` counts slow tenants that are not named, each once for every process that did not name it."""

    voices: Sequence[Voice]
    backends: Sequence[BackendNow]
    lanes: Sequence[LaneNow]
    slow: Sequence[SlowTenant]
    more: int


def merge(voices: Iterable[Voice], tenant: str | None = None) -> Whole:
    """Put together what the processes say; `tenant`: only that one of the slow ones, of whom this process knows all."""
    said = sorted(voices, key=lambda voice: (not voice.here, voice.host, voice.pid, voice.process))
    notes = [voice.note for voice in said if voice.note is not None]
    backends = [_backend(name, notes) for name in sorted({name for note in notes for name in note.backends})]
    slow = _slow(notes)
    return Whole(
        voices=said,
        backends=backends,
        lanes=[_lane(lane, notes, backends, len(slow)) for lane in Lane],
        slow=[found for found in slow if tenant in (None, found.tenant)],
        more=sum(max(0, voice.note.slow_tenants - len(voice.note.slow)) for voice in said if voice.note is not None and not (voice.here and tenant)),
    )


def _backend(name: str, notes: Iterable[Note]) -> BackendNow:
    loads = [note.backends[name] for note in notes if name in note.backends]
    slots: dict[str, int] = {}
    for load in loads:
        slots[load.place] = max(load.slots, slots.get(load.place, 0))
    return BackendNow(
        name=name,
        slots=sum(slots.values()),
        slow_slots=sum(load.slow_slots for load in loads),
        running={Lane.FAST: _sum(loads, "fast_running"), Lane.SLOW: _sum(loads, "slow_running")},
        waiting={Lane.FAST: _sum(loads, "fast_waiting"), Lane.SLOW: _sum(loads, "slow_waiting")},
        processes=len(loads),
    )


def _sum(loads: Iterable[Load], field: str) -> int:
    return sum(getattr(load, field) for load in loads)


def _lane(lane: Lane, notes: Sequence[Note], backends: Iterable[BackendNow], named: int) -> LaneNow:
    counts = waits.merge(waits.read(note.waits.get(lane.value, ())) for note in notes)
    slow = max([named, *(note.slow_tenants for note in notes)])
    known = max((note.tenants for note in notes), default=0)
    return LaneNow(
        lane=lane,
        tenants=slow if lane is Lane.SLOW else max(0, known - slow),
        running=sum(backend.running[lane] for backend in backends),
        waiting=sum(backend.waiting[lane] for backend in backends),
        wait_p50_us=waits.quantile_of(counts, 0.5),
        wait_p99_us=waits.quantile_of(counts, 0.99),
    )


def _slow(notes: Iterable[Note]) -> list[SlowTenant]:
    """Make one of what several processes say of a tenant; those with most requests under way first, then those that were here last."""
    told: dict[str, list[SlowTenant]] = {}
    for note in notes:
        for one in note.slow:
            told.setdefault(one.tenant, []).append(one)
    return sorted(map(_one, told.values()), key=lambda one: (-one.waiting, -one.running, -one.last_us, one.tenant))


def _one(told: list[SlowTenant]) -> SlowTenant:
    newest, *others = sorted(told, key=lambda one: -one.last_us)
    since_us = newest.since_us
    for one in others:
        if one.last_us >= since_us:  # else it has been fast between
            since_us = min(since_us, one.since_us)
    return SlowTenant(
        newest.tenant, newest.standing, newest.reason, since_us, newest.last_us, sum(one.running for one in told), sum(one.waiting for one in told)
    )
