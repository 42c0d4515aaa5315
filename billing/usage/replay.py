"""What processes that are gone left in the journal: read once at start, told again, and only then deleted.

A segment belongs to the dead when its lock can be taken. All of them are read together, oldest first, since a request may begin in
one and end in another. What is torn or damaged is kept aside as `damaged-<name>` and reported, never deleted; what is whole beside
it is read. A request that was dispatched and has no end is charged by what was last seen of it. A segment that cannot be opened, read
or kept aside stays where it is, and holds up neither the start nor the others.
"""

import fcntl
import logging
import os
import pwd
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path

from billing.errors import Invalid, RateMissing
from billing.leases.markers import dead_here, pid_of
from billing.meter import Meter, check
from billing.rating import Rate, rate
from billing.usage.event import UsageEvent
from billing.usage.folder import turn
from billing.usage.reading import Damage, records
from billing.usage.records import Dispatched, Progress, Record, Settled
from billing.usage.segment import start_us_of, sync_folder

log = logging.getLogger(__name__)


class Remains:
    """The dead processes' segments, locked by us from `claim` on. `unreadable` are those that stay where they are; the `barred` could not even be opened.

    `gone` are the names under which those processes had leases, as far as their markers tell.
    """

    def __init__(self, held: list[tuple[Path, int]], barred: Sequence[Path] = (), gone: Sequence[str] = ()) -> None:
        self.gone = tuple(gone)
        self._held = held
        self._barred = barred
        self._said: set[Path] = set()
        self.damaged: list[Path] = []
        self.unreadable = list(barred)
        self.recovered = 0

    def __len__(self) -> int:
        return len(self._held)

    def events(self, rate_of: Callable[[int], Rate | None]) -> Generator[UsageEvent]:
        """Yield every settled event, then one recovered event for each request without an end. `rate_of` finds a rate by its id.

        May be begun again from the start, when what took the events, or `rate_of`, failed.
        """
        self.recovered = 0
        self.damaged.clear()
        self.unreadable[:] = self._barred
        open_: dict[str, Dispatched] = {}
        progress: dict[str, Progress] = {}
        for path, _fd in self._held:
            for record in self._records(path):
                if isinstance(record, Settled):
                    open_.pop(record.event.id, None)
                    yield record.event
                elif isinstance(record, Dispatched):
                    open_[record.id] = record
                elif isinstance(record, Progress):
                    progress[record.id] = record
        for request_id, dispatched in open_.items():
            self.recovered += 1
            yield recover(dispatched, progress.get(request_id), None if dispatched.rate_id is None else rate_of(dispatched.rate_id))

    def forget(self) -> None:
        """Delete the segments: everything in them is booked or kept aside."""
        kept = self._kept_for_good()
        for path, fd in self._held:
            if kept and path not in self.unreadable:
                _delete(path)
            os.close(fd)
        self._held = []

    def close(self) -> None:
        """Let go of the segments without deleting them; the next start reads them again."""
        for _path, fd in self._held:
            os.close(fd)
        self._held = []

    def _records(self, path: Path) -> Generator[Record]:
        try:
            path.with_name(f"damaged-{path.name}").unlink(missing_ok=True)  # of a reading before this one, which writes it again
            data = path.read_bytes()
        except OSError as error:
            self._leave(path, "cannot be read", error)
            return
        for found in records(data):
            if isinstance(found, Damage):
                self._keep_aside(path, found)
            else:
                yield found

    def _keep_aside(self, path: Path, damage: Damage) -> None:
        if path in self.unreadable:
            return
        aside = path.with_name(f"damaged-{path.name}")
        try:
            with aside.open("ab") as file:
                file.write(damage.data)
        except OSError as error:  # a full disk, say: what is whole is booked all the same, and known by its id when it is read again
            self._leave(path, f"is torn or damaged at {damage.why}, which cannot be kept aside", error)
            self.damaged = [other for other in self.damaged if other != aside]
            _delete(aside)  # a piece of it is worth nothing, and takes room
            return
        if aside not in self.damaged:
            self.damaged.append(aside)
        log.error("journal: %s is torn or damaged at %s; %d bytes are kept in %s", path.name, damage.why, len(damage.data), aside.name)

    def _leave(self, path: Path, why: str, error: OSError) -> None:
        self.unreadable.append(path)
        if path not in self._said:  # all is read anew when the database failed in between
            self._said.add(path)
            log.error("journal: %s %s, so it is left where it is for the next start: %s", path.name, why, error)

    def _kept_for_good(self) -> bool:
        """Push what was kept aside to the medium, before what it was taken from is deleted."""
        try:
            for aside in self.damaged:
                with aside.open("rb") as file:
                    os.fsync(file.fileno())
            for folder in {aside.parent for aside in self.damaged}:
                sync_folder(folder)
        except OSError as error:
            log.error("journal: what is damaged cannot be kept aside for good, so the segments stay for the next start: %s", error)
            return False
        return True


def claim(folder: Path, mine: Callable[[Path], bool] = lambda _path: False) -> Remains:
    """Take over every segment in a folder whose process is gone, oldest first. `mine` tells segments of this process, which are left alone.

    Several processes may start at once: they take turns, so that one gets all that a dead one left. A request that began in one segment and
    ended in another would else be recovered by one process while another books its end.
    """
    try:
        with turn(folder):
            held, barred = _take(folder, mine)
            pids = {pid_of(path) for path, _fd in held}
            return Remains(held, barred, [name for name, (marker, _replayed) in dead_here(folder, mine).items() if pid_of(marker) in pids])
    except FileNotFoundError:
        return Remains([])


def _take(folder: Path, mine: Callable[[Path], bool]) -> tuple[list[tuple[Path, int]], list[Path]]:
    """Return the segments that are ours now, and those that could not be opened or locked for another reason than that their process lives."""
    held: list[tuple[Path, int]] = []
    barred: list[Path] = []
    for path in sorted(folder.glob("[0-9]*-*.wal"), key=lambda path: (start_us_of(path), path.name)):
        if mine(path):
            continue
        try:
            fd = _locked(path)
        except OSError as error:
            barred.append(path)
            log.error("journal: %s of user %s is left where it is, unbooked, until the user we run as can open it: %s", path, _owner(path), error.strerror)
            continue
        if fd is not None:
            held.append((path, fd))
    return held, barred


def _locked(path: Path) -> int | None:
    """Open a segment and take its lock; None when its process lives, or when it is gone. Raises `OSError`."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink:  # else another booked and deleted it between the two calls
            return fd
    except BlockingIOError:
        pass
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _owner(path: Path) -> str:
    try:
        uid = path.stat().st_uid
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
    except OSError:
        return "unknown"


def recover(dispatched: Dispatched, progress: Progress | None, card: Rate | None) -> UsageEvent:
    """Make the event of a request that nobody saw end: the last usage seen, else the prompt's estimate and an unknown output.

    In the fast lane it is covered by credits whole unless it was dispatched as overage, in the slow lane not at all. Without a usable rate
    it is booked at 0, loudly. It reads no clock, so that replaying twice tells the same fact.
    """
    meter = Meter(input=dispatched.prompt_estimate)
    charge_ncr = 0
    try:
        if progress is not None:
            meter = check(progress.meter)
        if card is not None:
            charge_ncr = rate(meter, card, lane=dispatched.lane, service_tier=dispatched.service_tier)
    except (Invalid, RateMissing) as error:
        log.error("journal: recovered request %s of tenant %s is booked at 0 credits: %s", dispatched.id, dispatched.tenant_id, error)
    if card is None and dispatched.rate_id is not None:
        log.error("journal: recovered request %s of tenant %s is booked at 0 credits: rate %s is gone", dispatched.id, dispatched.tenant_id, dispatched.rate_id)
    cover_ncr = charge_ncr if dispatched.lane == "fast" and dispatched.covered else 0
    return UsageEvent(
        id=dispatched.id,
        tenant_id=dispatched.tenant_id,
        key_id=dispatched.key_id,
        project=dispatched.project,
        model=dispatched.model,
        backend=dispatched.backend,
        upstream_model=dispatched.upstream_model,
        endpoint=dispatched.endpoint,
        started_us=dispatched.started_us,
        ended_us=dispatched.started_us,
        status=0,
        outcome="recovered",
        lane=dispatched.lane,
        stream=dispatched.stream,
        source="recovered",
        meter=meter,
        rate_id=dispatched.rate_id,
        charge_ncr=charge_ncr,
        cover_ncr=cover_ncr,
        day_us=dispatched.day_us,
        period_us=dispatched.period_us,
        purses=None if dispatched.held is None else _from_held(dispatched.held, cover_ncr),
        service_tier=dispatched.service_tier,
    )


def _from_held(held: Mapping[str, int], cover_ncr: int) -> dict[str, int]:
    """Take a cover from what was held, purse by purse in their order; more than was held comes from the tenant's own."""
    taken: dict[str, int] = {}
    left = cover_ncr
    for purse, amount in held.items():
        if purse.startswith("cap:"):
            taken[purse] = cover_ncr
        else:
            taken[purse] = min(amount, left)
            left -= taken[purse]
    taken[""] = taken.get("", 0) + left
    return {purse: amount for purse, amount in taken.items() if amount}


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # the next start reads it again, and knows every event in it
        log.error("journal: %s cannot be deleted: %s", path.name, error)
