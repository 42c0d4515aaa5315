"""The chain: how an entry is written down and hashed, and the walk that finds where the chain was touched. Pure.

Each entry's hash is over all it says, its number and the hash of the one before; so a change, a gap or another order shows in the chain
itself. A cut at the end shows only to who noted a head elsewhere, and so does a chain that was written anew from some entry on.
"""

import hashlib
import json
from collections.abc import Iterable

import msgspec

from billing.errors import Invalid

FIRST = "0" * 64  # what the first entry follows
FAULTS_MAX = 20  # that are told one by one
PLACES = 200  # how far an entry that was moved is looked for, each way


class Head(msgspec.Struct, frozen=True):
    """The number and the hash of an entry: of the last one, whoever notes it can tell later whether anything up to it was touched."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One admin write. `before` and `after` are JSON (`written`): None where there was nothing before, or is nothing after."""

    seq: int
    at_us: int
    actor: str
    action: str
    tenant_id: str | None
    subject: str
    before: str | None
    after: str | None
    prev_hash: str
    hash: str = ""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with entry `seq`: `changed`, `moved`, `missing` (it and those up to `upto`), `unlinked` (it follows another), `cut`, `rewritten`."""

    seq: int
    kind: str
    says: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a walk over the whole chain found. `omitted`: faults beyond those told. `head`: the last entry, to be noted elsewhere."""

    entries: int
    head: Head
    faults: tuple[Fault, ...]
    omitted: int

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


def written(value: object | None) -> str | None:
    """Write a struct, a mapping or a list as JSON, compact and with sorted keys; None as None. Bytes are written as their digest: a logo is long."""
    if value is None:
        return None
    plain = msgspec.to_builtins(value, builtin_types=(bytes,), str_keys=True, order="sorted")  # sets have no order of their own
    return json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_digest_of_bytes)


def digest(entry: Entry) -> str:
    """Return the sha256 of an entry, in hex: of the JSON array of its fields in their order, without the hash, compact and in UTF-8."""
    *fields, _hash = msgspec.structs.astuple(entry)
    return hashlib.sha256(msgspec.json.encode(fields)).hexdigest()


def sealed(entry: Entry) -> Entry:
    """Return the entry with its hash."""
    return msgspec.structs.replace(entry, hash=digest(entry))


def read_head(text: str) -> Head:
    """Read a head as it was noted, `SEQ:HASH`. Raises `Invalid`."""
    seq, _, hash_ = text.strip().partition(":")
    if not (seq.isascii() and seq.isdigit()) or len(seq) > 18 or len(hash_) != len(FIRST) or not set(hash_) <= set("0123456789abcdef"):
        raise Invalid("head", f"head: `{text[:100]}` is not one; write it as `weir audit verify` printed it, a number, a colon and 64 hexadecimal digits")
    return Head(int(seq), hash_)


def walk(entries: Iterable[Entry], noted: Head | None = None) -> Verdict:
    """Walk a chain given in the order of `seq`, and say which entries are wrong. `noted`: a head from earlier, which must be in the chain.

    Keeps one entry in memory, and the first `FAULTS_MAX` faults.
    """
    faults: list[Fault] = []
    count, found = 0, 0
    last, moved = Head(0, FIRST), False
    for entry in entries:
        count += 1
        told = _faults_of(entry, last, moved, search=found < FAULTS_MAX)
        if noted is not None and entry.seq == noted.seq and entry.hash != noted.hash:
            told.append(Fault(seq=entry.seq, kind="rewritten", says=f"entry {entry.seq} had another hash when the head was noted: it was written anew"))
        moved = any(fault.kind == "moved" for fault in told)
        found += len(told)
        faults += told[: FAULTS_MAX - len(faults)]
        last = Head(max(entry.seq, last.seq), entry.hash)
    if noted is not None and noted.seq > last.seq:
        found += 1
        faults.append(Fault(seq=last.seq + 1, kind="cut", says=f"{_span(last.seq + 1, noted.seq)} cut off at the end: the noted head is entry {noted.seq}"))
    return Verdict(entries=count, head=last, faults=tuple(faults), omitted=found - len(faults))


def _faults_of(entry: Entry, last: Head, after_moved: bool, *, search: bool) -> list[Fault]:
    told = []
    if entry.seq <= last.seq:
        return [Fault(seq=entry.seq, kind="unlinked", says=f"entry {entry.seq} is none of ours: they are counted from 1")]
    if entry.seq > last.seq + 1:
        told.append(Fault(seq=last.seq + 1, kind="missing", says=f"{_span(last.seq + 1, entry.seq - 1)} missing"))
    if digest(entry) != entry.hash:
        place = _place(entry) if search else None
        if place is None:
            told.append(Fault(seq=entry.seq, kind="changed", says=f"entry {entry.seq} was changed: its hash is not that of what it says"))
        else:
            told.append(Fault(seq=entry.seq, kind="moved", says=f"entry {entry.seq} was moved: it was written as entry {place}"))
    elif not told and not after_moved and entry.prev_hash != last.hash:
        before = f"entry {last.seq}, or it, was" if last.seq else "it was"
        told.append(Fault(seq=entry.seq, kind="unlinked", says=f"entry {entry.seq} does not follow the one before it: {before} put in place of another"))
    return told


def _place(entry: Entry) -> int | None:
    """Return the number under which an entry has the hash that it carries, near the one it has."""
    near = (entry.seq + way * far for far in range(1, PLACES + 1) for way in (1, -1))
    return next((seq for seq in near if seq > 0 and digest(msgspec.structs.replace(entry, seq=seq)) == entry.hash), None)


def _span(first: int, last: int) -> str:
    return f"entry {first} is" if first == last else f"entries {first} to {last} are"


def _digest_of_bytes(value: object) -> str:
    if isinstance(value, bytes):
        return f"sha256:{hashlib.sha256(value).hexdigest()}"
    raise TypeError(f"{type(value).__name__} cannot be written into the audit log")
