"""The journal's folder: which books it belongs to, and whether its locks can be relied on.

The file `books` in it holds the id of the database that its segments are for, and for the reader its URL without a password. Segments
booked into another database would be gone from the right one, so a start over those of other books is refused. Only between processes
of one host is a lock on a file sure to hold: over a network it may not.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from billing.errors import BooksUnavailable, Conflict
from billing.usage.segment import sync_folder

NAME = "books"
MOUNTS = Path("/proc/self/mounts")
OVER_NETWORK = ("9p", "afs", "cifs", "fuse.sshfs", "nfs", "nfs4", "smb3", "smbfs")

log = logging.getLogger(__name__)


def make_folder(folder: Path) -> None:
    """Make a folder, and its parents, so that a power cut leaves them. Raises `OSError`."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in made:
        sync_folder(path.parent)


@contextmanager
def turn(folder: Path) -> Generator[None]:
    """Be the only process that looks through a folder. Raises `FileNotFoundError` when there is none."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def belong(folder: Path, books_id: str, url: str, mine: Callable[[Path], bool] = lambda _path: False) -> None:
    """Have a folder's segments be for one database, `url` (without a password) its name for the reader.

    It is made if need be. One of no books takes the id, and one of other books whose segments are all booked. `mine` tells segments of this
    process. Raises `Conflict` when there are segments of other books, of dead processes or of living ones; `BooksUnavailable` when the folder
    cannot be read or written.
    """
    file = folder / NAME
    try:
        make_folder(folder)
        with turn(folder):
            known, _, whose = file.read_text("utf-8", "replace").partition("\n") if file.exists() else ("", "", "")
            if known == books_id:
                return
            segments = [path for path in folder.glob("[0-9]*-*.wal") if not mine(path)]
            if known and segments:
                raise Conflict(_refusal(folder, len(segments), whose.strip(), url))
            try:
                _write(file, f"{books_id}\n{url}\n")
            except OSError as error:
                if known:
                    raise
                log.warning("journal: %s cannot be marked as the folder of these books; the next start tries again: %s", folder, error)
    except OSError as error:
        raise BooksUnavailable(f"the journal in {folder} cannot be told from that of other books: {error.strerror}: {file}") from error


def warn_of_network(folder: Path, mounts: Path = MOUNTS) -> None:
    """Log a warning when a folder's locks may hold on this host only: two hosts that use it would each book what the other still writes."""
    kind = _file_system(folder.resolve(), mounts)
    if kind in OVER_NETWORK:
        log.warning(
            "journal: %s is on a network file system (%s), whose locks may not hold between hosts, and which may lose what a crash of its server takes;"
            " give every host a data_dir on a disk of its own",
            folder,
            kind,
        )


def _refusal(folder: Path, count: int, whose: str, url: str) -> str:
    return (
        f"the journal in {folder} holds usage of other books, those of {whose or 'another database'} ({count} files), which would be booked into {url}. "
        f"Set database.url back and let a gateway book it there, or set data_dir to a folder of its own for these books. "
        f"Only if {url} is what became of those books (restored from an old copy, say): delete {folder / NAME} and start again"
    )


def _write(file: Path, text: str) -> None:
    part = file.with_suffix(".part")
    with part.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    part.replace(file)
    sync_folder(file.parent)


def _file_system(folder: Path, mounts: Path) -> str | None:
    """Return the type of the file system that a folder is on; None where the system does not say."""
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    found, depth = None, -1
    for line in lines:
        _device, point, kind, *_ = line.split(" ")
        mounted = Path(point.replace("\\040", " "))
        if folder.is_relative_to(mounted) and len(mounted.parts) >= depth:  # of two at one point the later covers the earlier
            found, depth = kind, len(mounted.parts)
    return found
