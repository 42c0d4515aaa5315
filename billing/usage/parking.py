"""Where an event goes that the database refuses for itself: a file beside the journal, in the journal's own format, never nowhere.

Named `rejected-<start_us>-<event id>.wal`. Renamed to `<start_us>-0.wal` once the cause is gone, it is booked at the next start. One
with a figure past 64 bits does not fit the format and is written as `.json`, for a person to read.
"""

import os
from pathlib import Path

import msgspec

from billing.usage.event import UsageEvent
from billing.usage.records import Settled, frame
from billing.usage.segment import sync_folder


def park(folder: Path, event: UsageEvent) -> Path:
    """Write an event to a file of its own, through to the medium, and return the file. Raises OSError; parking it twice writes the same."""
    name = "".join(char if char.isalnum() or char == "-" else "_" for char in event.id)[:64]
    path = folder / f"rejected-{event.started_us}-{name}.wal"
    try:
        data = frame(msgspec.msgpack.encode(Settled(event)))
    except OverflowError:
        path = path.with_suffix(".json")
        data = msgspec.json.encode(event)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(folder)
    return path
