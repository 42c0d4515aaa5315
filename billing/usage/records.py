"""The lines of the journal, and their bytes.

A record is a u32 length, a u32 CRC-32 of the payload (both little-endian), and the payload: one msgpack map, told apart by its tag `t`.
Maps and not arrays, so that a journal left behind by one release is read by the next; the tag is a map's first member (`reading.py`).
"""

import struct
import zlib

import msgspec

from billing.meter import Meter
from billing.usage.event import Lane, UsageEvent

HEADER = struct.Struct("<II")
PAYLOAD_MAX = 1 << 20  # no record is this long: above it a length is taken for damage


class Dispatched(msgspec.Struct, frozen=True, omit_defaults=True, tag="d", tag_field="t"):
    """A request is about to go upstream: the evidence by which it is charged if this process dies. `prompt_estimate` in tokens. Made by position where
    requests are sent: add fields at the end.

    `covered`: credits pay all of it. In the fast lane False means overage, in the slow lane credits pay nothing of a lost request either way.
    `held` (ncr by purse and ceiling) says what pays first; None: the tenant's own purse.
    """

    id: str
    tenant_id: str
    key_id: str
    model: str
    backend: str
    upstream_model: str
    endpoint: str
    started_us: int
    lane: Lane
    prompt_estimate: int
    project: str | None = None
    stream: bool = False
    rate_id: int | None = None
    covered: bool = True
    day_us: int | None = None
    period_us: int | None = None
    held: dict[str, int] | None = None
    service_tier: str | None = None


class Progress(msgspec.Struct, frozen=True, omit_defaults=True, tag="p", tag_field="t"):
    """What a dispatched request has used so far; the last one counts."""

    id: str
    meter: Meter


class Settled(msgspec.Struct, frozen=True, omit_defaults=True, tag="s", tag_field="t"):
    """A request ended with a usage event."""

    event: UsageEvent


class Probe(msgspec.Struct, frozen=True, tag="n", tag_field="t"):
    """Says nothing: written to see whether a disk that refused takes records again."""


Record = Dispatched | Progress | Settled | Probe

_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


def frame(payload: bytes) -> bytes:
    """Put a payload's length and checksum before it."""
    return HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def decode(payload: bytes | memoryview) -> Record:
    """Read one payload. Raises `msgspec.DecodeError` (or its `ValidationError`) for bytes that are no record."""
    return _decoder.decode(payload)
