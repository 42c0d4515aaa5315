"""One `write`, made without letting go of the interpreter's lock.

A write into the page cache takes a microsecond. `os.write` gives the lock away for it, and the books thread, if it has work, keeps it for
up to five milliseconds: the event loop would wait that long twice a request.
"""

import ctypes
import os

_write = ctypes.PyDLL(None).write  # PyDLL: calls hold the lock
_write.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
_write.restype = ctypes.c_ssize_t


def append(fd: int, data: bytes) -> int:
    """Write bytes at a file's end and return how many were taken, as `os.write` does. Raises `OSError`."""
    written: int = _write(fd, data, len(data))
    return written if written >= 0 else os.write(fd, data)  # which says why not, or goes on after a signal
