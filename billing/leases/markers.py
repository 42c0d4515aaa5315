"""A file for each running process beside its journal, locked while it lives: proof on this machine that one that left it is dead.

Elsewhere a process is taken for dead when its beat has stood still for the lease's term. Here its lock says so at once, so that what it
had set aside goes back as soon as its journal is replayed.
"""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path


class Marker:
    """This process's file. Raises `OSError` where it cannot be made."""

    def __init__(self, folder: Path, replica_id: str) -> None:
        self.path = folder / f"replica-{os.getpid()}-{replica_id}.lock"
        making = self.path.with_suffix(".making")  # it appears under its name only once it is locked, or it would look like a dead one's
        self._fd = os.open(making, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        making.rename(self.path)

    def remove(self) -> None:
        """Take it away: this process leaves in order, or has another name now."""
        self.path.unlink(missing_ok=True)
        os.close(self._fd)


def pid_of(path: Path) -> str:
    """Return the number of the process that a marker, or a segment of a journal, is named after."""
    return path.stem.split("-")[1]


def dead_here(folder: Path, mine: Callable[[Path], bool]) -> dict[str, tuple[Path, bool]]:
    """Return the markers of processes that are gone, by their id, and whether their journal is replayed; whoever has buried one deletes its marker.

    What its segments say must be booked before what was set aside for it is given to others. `mine` tells this process's own segments: in a
    container it may have the dead one's number.
    """
    gone: dict[str, tuple[Path, bool]] = {}
    for path in sorted(folder.glob("replica-*-*.lock")):
        pid, replica_id = pid_of(path), path.stem.split("-", 2)[2]
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # deleted meanwhile, or no files are to be had: the next beat looks again
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        finally:
            os.close(fd)  # with it goes the lock
        gone[replica_id] = (path, all(mine(segment) for segment in folder.glob(f"[0-9]*-{pid}.wal")))
    return gone
