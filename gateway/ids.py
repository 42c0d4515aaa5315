"""Names for requests: UUID version 7 (RFC 9562), so that they sort by the instant they were made at.

The bits after the millisecond carry its fraction (RFC 9562, section 6.2, method 3) and the rest is random from the kernel, so two
processes, or a process and its fork, never make the same one. The kernel is asked for many at a time: each question is a system call.
"""

from os import register_at_fork, urandom

_VERSION = 0x7 << 76
_VARIANT = 0b10 << 62
_AT_ONCE = 512

_randoms: list[int] = []
register_at_fork(after_in_child=_randoms.clear)  # a fork must not make what its parent makes


def uuid7(now_us: int) -> str:
    """Make a UUIDv7 for an instant (UTC epoch microseconds): 36 characters, lower case."""
    ms, us = divmod(now_us, 1000)
    try:
        random = _randoms.pop()
    except IndexError:
        block = urandom(8 * _AT_ONCE)
        _randoms.extend(int.from_bytes(block[start : start + 8], "big") >> 2 for start in range(0, len(block), 8))
        random = _randoms.pop()
    text = f"{(ms & 0xFFFFFFFFFFFF) << 80 | _VERSION | (us * 4096 // 1000) << 64 | _VARIANT | random:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def instant_us(uuid: str) -> int:
    """Read the instant a UUIDv7 was made at, in UTC epoch microseconds, exact to the millisecond."""
    return int(uuid.replace("-", "")[:12], 16) * 1000
