"""Whatever the journal's bytes are cut to, changed into or torn apart by, reading tells only what was written, and all of it that is whole."""

import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from billing.usage.event import UsageEvent
from billing.usage.journal import Journal
from billing.usage.replay import claim
from tests.books import event
from tests.clock import ManualClock


def written(folder: Path, count: int) -> tuple[Path, bytes, list[UsageEvent]]:
    journal = Journal(folder, ManualClock().now_us)
    events = [event(number) for number in range(count)]
    for one in events:
        journal.settled(one)
    os.close(journal._live.fd)
    return journal._live.path, journal._live.path.read_bytes(), events


def read(folder: Path) -> tuple[list[UsageEvent], int]:
    remains = claim(folder)
    found = list(remains.events(lambda _id: None))
    aside = sum(path.stat().st_size for path in remains.damaged)
    remains.forget()
    return found, aside


@given(st.integers(1, 5), st.data())
@settings(max_examples=60, deadline=None)
def test_a_cut_tells_the_whole_records_before_it_and_keeps_the_rest(count: int, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        path, full, events = written(Path(name), count)
        size = len(full) // count
        cut = data.draw(st.integers(0, len(full)))
        os.truncate(path, cut)
        found, aside = read(Path(name))
        assert found == events[: cut // size]
        assert aside == cut % size


@given(st.integers(1, 5), st.data())
@settings(max_examples=60, deadline=None)
def test_a_changed_byte_spoils_one_record_which_is_kept(count: int, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        path, full, events = written(Path(name), count)
        size = len(full) // count
        at = data.draw(st.integers(0, len(full) - 1))
        changed = bytearray(full)
        changed[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(changed)
        found, aside = read(Path(name))
        assert found == events[: at // size] + events[at // size + 1 :]
        assert aside == size


@given(st.integers(1, 5), st.data())
@settings(max_examples=100, deadline=None)
def test_bytes_between_records_hide_none_of_them(count: int, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        path, full, events = written(Path(name), count)
        size = len(full) // count
        torn = st.integers(0, size - 1).map(lambda cut: full[:cut])
        junk = [data.draw(st.one_of(st.binary(max_size=64), st.integers(0, 64).map(bytes), torn)) for _ in events]
        path.write_bytes(b"".join(piece + full[number * size : (number + 1) * size] for number, piece in enumerate(junk)))
        found, aside = read(Path(name))
        assert found == events
        assert aside == sum(map(len, junk))
