"""What a process lets the others know of its lanes, as short JSON that goes with its beat: its slots, what runs and waits, how long, who is slow.

Pure. A note has to be small, for every process reads all of them every other second: of the slow tenants it names those that were here last,
as many as fit. One that another version wrote and this one cannot read is as good as none.
"""

from collections.abc import Iterable

import msgspec

BYTES_MAX = 8000  # of a note, unless its backends alone need more
LISTED_MAX = 50  # slow tenants


class Load(msgspec.Struct, array_like=True, frozen=True):
    """One backend as one process has it. `place` names its servers: processes share slots where they mean the same ones.

    `slots` are those of all processes together, `share` is what this one takes of them until its next note and `slow_slots` what its slow lane may,
    `processes` how many it shares with, itself among them; the rest are its requests now.
    """

    place: str
    slots: int
    share: int
    slow_slots: int
    processes: int = 1
    fast_running: int = 0
    fast_waiting: int = 0
    slow_running: int = 0
    slow_waiting: int = 0


class SlowTenant(msgspec.Struct, array_like=True, frozen=True):
    """A tenant that is served slowly, or refused, past its credits: why, since when and when last (UTC epoch microseconds), and its requests now."""

    tenant: str
    standing: str
    reason: str
    since_us: int
    last_us: int
    running: int = 0
    waiting: int = 0


class Note(msgspec.Struct, kw_only=True):
    """All that one process says. `waits` are counts by lane, as `waits.py` writes them; `slow_tenants` is how many there are, `slow` names some."""

    at_us: int
    backends: dict[str, Load] = {}
    waits: dict[str, list[int]] = {}
    tenants: int = 0
    slow_tenants: int = 0
    slow: list[SlowTenant] = []


_decoder = msgspec.json.Decoder(Note)


def write(note: Note, slow: Iterable[SlowTenant]) -> str:
    """Write a note with as many of the slow tenants as fit, the first ones first."""
    note.slow = []
    left = BYTES_MAX - len(msgspec.json.encode(note))
    for tenant in slow:
        left -= len(msgspec.json.encode(tenant)) + 1
        if left < 0 or len(note.slow) >= LISTED_MAX:
            break
        note.slow.append(tenant)
    return msgspec.json.encode(note).decode()


def read(text: str | None) -> Note | None:
    """Read a note; None where there is none, or none of this version's."""
    try:
        return None if text is None else _decoder.decode(text)
    except msgspec.DecodeError:  # which a wrong type is too
        return None
