"""A segment's bytes as records again, also past what is torn or damaged: each record has its own checksum, so a hole spoils only what lay in it.

A power cut may leave a page of zeros between two that were kept; a flipped bit spoils one record. Reading goes on at the next bytes
that are a whole record, by length, checksum and form; what lies before is handed out as `Damage`, so that nothing is thrown away.
"""

import re
import zlib
from collections.abc import Iterator

import msgspec

from billing.usage.records import HEADER, PAYLOAD_MAX, Record, decode

# A payload is a msgpack map of up to 15 or of more members, whose first is the tag; the first bytes of one, as far as all have them in common.
_TAG = re.compile(rb"\xa1t\xa1[a-z]")
_HEADS = (1, 3)


class Damage(msgspec.Struct, frozen=True):
    """Bytes that are no record, where they begin, and why they are none."""

    at: int
    data: bytes
    why: str


def records(data: bytes) -> Iterator[Record | Damage]:
    """Yield what a segment holds, in order. The bytes of all damages and all records are the segment's, each once."""
    at = 0
    while at < len(data):
        payload = _payload(data, at)
        if payload is None:
            upto = _resume(data, at + 1)
            yield Damage(at, data[at:upto], f"byte {at} of {len(data)}")
        else:
            upto = at + HEADER.size + len(payload)
            try:
                yield decode(payload)
            except msgspec.DecodeError as error:  # whole, but not ours to read: of a later release, say
                yield Damage(at, data[at:upto], f"the record at byte {at}: {error}")
        at = upto


def _resume(data: bytes, first: int) -> int:
    """Return where the next whole record begins at or after `first`; the end when there is none."""
    for tag in _TAG.finditer(data, first + HEADER.size):
        for head in _HEADS:
            at = tag.start() - head - HEADER.size
            if at >= first and _payload(data, at) is not None:
                return at
    return len(data)


def _payload(data: bytes, at: int) -> memoryview | None:
    if at + HEADER.size > len(data):
        return None
    length, checksum = HEADER.unpack_from(data, at)
    end = at + HEADER.size + length
    if not 0 < length <= PAYLOAD_MAX or end > len(data):  # zeros would be an empty record with a right checksum
        return None
    payload = memoryview(data)[at + HEADER.size : end]
    return payload if zlib.crc32(payload) == checksum else None
