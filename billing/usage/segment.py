"""One file of the journal: made, given room, pushed to the medium, removed.

What is written survives a `kill -9`; what is pushed (`sync`) survives a power cut, the file's entry in its folder included. A push
that fails is never tried again on the same file: the kernel may have marked the lost pages clean, and a second push would lie
(PostgreSQL's fsyncgate, 2018). Room is set aside before work is taken on (fallocate), so that the ends of what is open always fit.
"""

import ctypes
import errno
import fcntl
import os
import sys
import threading
from os import fdatasync
from pathlib import Path

CLOSE_S_MAX = 5.0  # a push that hangs does not hold up the end of a process for longer
_KEEP_SIZE = 1
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

_libc = ctypes.CDLL(None, use_errno=True)
if hasattr(_libc, "fallocate"):
    _libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Segment:
    """One file, locked while its process lives. `settled` is counted by the event loop, `booked` by the books thread.

    `size` bytes are written, `synced` of them are on the medium, `room` are set aside. `torn`: a piece of a record stands at the end and must
    be taken back first. `entered`: its name is on the medium, so a push has succeeded. `failed`: a push failed, and nothing of this file is
    believed to be on the medium any more.
    """

    __slots__ = ("_pushing", "booked", "entered", "failed", "fd", "path", "retired", "room", "settled", "size", "synced", "torn")

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.size = self.synced = self.room = 0
        self.settled = self.booked = 0
        self.retired = self.torn = self.failed = False
        self.entered = False
        self._pushing = threading.Lock()

    @property
    def done(self) -> bool:
        """Whether nothing here is needed any more: nothing is added, and all that was settled is booked."""
        return self.retired and self.booked >= self.settled

    @property
    def pushing(self) -> bool:
        """Whether a push is under way."""
        return self._pushing.locked()

    @property
    def durable(self) -> bool:
        """Whether everything written is on the medium, and the file's name too."""
        return self.entered and not self.failed and self.synced >= self.size

    def reserve(self, wanted: int, ahead: int) -> None:
        """Have `wanted` bytes set aside by the disk, `ahead` more if it has them. Raises `OSError`. A file system that cannot promises nothing."""
        if wanted <= self.room:
            return
        for upto in (wanted + ahead, wanted):
            code = _allocate(self.fd, self.room, upto - self.room)
            if code in _UNSUPPORTED:
                upto, code = sys.maxsize, 0
            if code == 0:
                self.room = upto
                return
        raise OSError(code, os.strerror(code))

    def take_back(self) -> None:
        """Cut the file after its last whole record. Raises `OSError`: then the next append must try again, or it would follow garbage."""
        self.torn = True
        os.ftruncate(self.fd, self.size)
        self.torn = False
        self.room = min(self.room, self.size)

    def sync(self) -> None:
        """Push what was written to the medium (never on the event loop). Raises `OSError`, once and for all: see `failed`."""
        with self._pushing:  # the kernel tells one caller of a failure: no other may take its own success for the truth
            if self.failed:
                raise OSError(errno.EIO, "an earlier push of this file failed")
            size = self.size
            if self.entered and self.synced >= size:
                return
            try:
                fdatasync(self.fd)
                if not self.entered:
                    sync_folder(self.path.parent)
            except OSError:
                self.failed = True
                raise
            self.entered = True
            self.synced = size

    def remove(self) -> bool:
        """Delete the file and let go of it; False, and nothing is done, while it is being pushed: whoever deletes must not wait for a disk.

        Raises `OSError` when it cannot be deleted; then it is let go of all the same.
        """
        if not self._pushing.acquire(blocking=False):
            return False
        try:
            self.synced, self.entered = self.size, True
            self.path.unlink(missing_ok=True)
        finally:
            os.close(self.fd)
            self._pushing.release()
        return True

    def close(self) -> None:
        """Let go of the file, for the next start to read; what was set aside and not used goes back."""
        if not self._pushing.acquire(timeout=CLOSE_S_MAX):
            return  # the process ends anyway, and its lock with it
        try:
            self.synced, self.entered = self.size, True
            if self.size < self.room < sys.maxsize:
                os.ftruncate(self.fd, self.size)
        finally:
            os.close(self.fd)
            self._pushing.release()


def create(folder: Path, start_us: int) -> Segment:
    """Make a new file named after an instant, or the next that is free, and take its lock. Raises `OSError`."""
    while True:
        path = folder / f"{start_us}-{os.getpid()}.wal"
        start_us += 1
        try:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            continue
        if _lock(fd) and os.fstat(fd).st_nlink:
            return Segment(path, fd)
        os.close(fd)  # a process that is replaying took it for a dead one's between the two calls: leave it to that one


def start_us_of(path: Path) -> int:
    """Return the instant that a segment is named after."""
    return int(path.name.split("-")[0])


def sync_folder(folder: Path) -> None:
    """Push a folder's entries to the medium: a file whose name is lost is lost too. Raises `OSError`."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:  # some file systems keep a name with its file and refuse to be asked
            raise
    finally:
        os.close(fd)


def _allocate(fd: int, start: int, length: int) -> int:
    """Set bytes aside without making the file longer; return 0 or the error's number."""
    if not hasattr(_libc, "fallocate"):
        return errno.ENOSYS
    while _libc.fallocate(fd, _KEEP_SIZE, start, length):
        code = ctypes.get_errno()
        if code != errno.EINTR:
            return code
    return 0


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
