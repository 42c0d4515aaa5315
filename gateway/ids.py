"""Names for requests: UUID version 7 (RFC 9562), so that they sort by the instant they were made at.

The bits after the millisecond carry its fraction (RFC 9562, section 6.2, method 3) and the rest is random from the kernel, so two
processes, or a process and its fork, never make the same one. The kernel is asked for many at a time: each question is a system call.
"""

from os import register_at_fork, urandom

_AT_ONCE = 512
_WHOLE = (1 << 60) - 1

_tails: list[str] = []  # the random half, as it is written
register_at_fork(after_in_child=_tails.clear)  # a fork must not make what its parent makes


def uuid7(now_us: int) -> str:
    """Make a UUIDv7 for an instant (UTC epoch microseconds): 36 characters, lower case."""
    ms = now_us // 1000
    try:
        tail = _tails.pop()
    except IndexError:
        _tails.extend(_more_tails())
        tail = _tails.pop()
    head = (ms * 4096 + (now_us - ms * 1000) * 4096 // 1000 & _WHOLE).to_bytes(8).hex()[1:]  # 48 bits of milliseconds, 12 of their fraction
    return f"{head[:8]}-{head[8:12]}-7{head[12:]}{tail}"


def _more_tails() -> list[str]:
    block = urandom(8 * _AT_ONCE).hex()
    return [f"-{'89ab'[int(block[at], 16) & 3]}{block[at + 1 : at + 4]}-{block[at + 4 : at + 16]}" for at in range(0, len(block), 16)]


def instant_us(uuid: str) -> int:
    """Read the instant a UUIDv7 was made at, in UTC epoch microseconds, exact to the millisecond."""
    return int(uuid.replace("-", "")[:12], 16) * 1000
