"""One `write`, made without letting go of the interpreter's lock.

A write into the page cache takes a microsecond. `os.write` gives the lock away for it, and the books thread, if it has work, keeps it for
up to five milliseconds: the event loop would wait that long twice a request.
"""

import ctypes
import errno
import os

_libc = ctypes.PyDLL(None, use_errno=True)  # PyDLL: calls hold the lock
_libc.write.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
_libc.write.restype = ctypes.c_ssize_t


def append(fd: int, data: bytes) -> int:
    """Write bytes at a file's end and return how many were taken, as `os.write` does. Raises `OSError`."""
    while True:
        written: int = _libc.write(fd, data, len(data))
        if written >= 0:
            return written
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
