"""The journal: what was written is told again, exactly; what is damaged is kept aside; a full disk refuses before work is done."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from billing.errors import BooksUnavailable
from billing.meter import Meter
from billing.rating import Rate
from billing.usage.event import UsageEvent
from billing.usage.journal import Journal
from billing.usage.parking import park
from billing.usage.records import Progress
from billing.usage.replay import claim
from tests.books import dispatched, event, request_id
from tests.clock import ManualClock

CARD = Rate(id=1, model="m", effective_us=0, free=False, prices={"input": 2, "output": 5, "requests": 0})


def open_journal(folder: Path, **bounds: Any) -> Journal:
    return Journal(folder, ManualClock().now_us, **bounds)


def die(journal: Journal) -> None:
    """Let go of the segments as a killed process does."""
    for segment in journal._segments:
        os.close(segment.fd)


def end(journal: Journal, number: int) -> None:
    """Settle a request, and book it."""
    segment = journal.settled(event(number))
    assert segment is not None
    journal.release(segment)


def told_again(folder: Path, rate_of: Callable[[int], Rate | None] = lambda _id: CARD) -> list[UsageEvent]:
    remains = claim(folder)
    found = list(remains.events(rate_of))
    remains.close()
    return found


def test_settled_events_are_told_again_in_their_order(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    for number in range(3):
        journal.dispatched(dispatched(number))
        journal.settled(event(number))
    die(journal)
    assert told_again(tmp_path) == [event(number) for number in range(3)]


def test_segments_of_a_living_process_are_left_alone(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.settled(event(1))
    assert len(claim(tmp_path)) == 0
    die(journal)
    assert len(claim(tmp_path)) == 1


def test_a_request_without_an_end_is_charged_by_what_was_seen_last(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.dispatched(dispatched(1, rate_id=1))
    journal.progress(Progress(request_id(1), Meter(input=4, output=1)))
    journal.progress(Progress(request_id(1), Meter(input=4, output=9)))
    die(journal)
    (found,) = told_again(tmp_path)
    assert (found.outcome, found.source, found.meter) == ("recovered", "recovered", Meter(input=4, output=9))
    assert (found.charge_ncr, found.cover_ncr) == (53, 53)
    assert told_again(tmp_path) == [found]


def test_a_request_nobody_saw_move_is_charged_its_prompt_and_its_output_is_unknown(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.dispatched(dispatched(1, rate_id=1, lane="slow"))
    die(journal)
    (found,) = told_again(tmp_path)
    assert found.meter == Meter(input=7)
    assert (found.charge_ncr, found.cover_ncr) == (14, 0)


def test_a_fast_request_that_was_dispatched_past_the_credits_is_recovered_as_overage(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.dispatched(msgspec.structs.replace(dispatched(1, rate_id=1), covered=False))
    die(journal)
    (found,) = told_again(tmp_path)
    assert (found.lane, found.charge_ncr, found.cover_ncr) == ("fast", 14, 0)


def test_a_recovered_request_whose_rate_is_gone_is_kept_at_zero_and_said_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = open_journal(tmp_path)
    journal.dispatched(dispatched(1, rate_id=1))
    die(journal)
    (found,) = told_again(tmp_path, lambda _id: None)
    assert found.charge_ncr == 0
    assert "rate 1 is gone" in caplog.text


@pytest.mark.parametrize("cut", [1, 7, 8, 20])
def test_a_torn_tail_loses_only_the_torn_record(tmp_path: Path, cut: int) -> None:
    journal = open_journal(tmp_path)
    journal.settled(event(1))
    whole = journal._live.size
    journal.settled(event(2))
    die(journal)
    os.truncate(journal._live.path, whole + cut)
    assert told_again(tmp_path) == [event(1)]


def test_a_damaged_record_is_kept_aside_and_what_follows_it_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = open_journal(tmp_path)
    journal.settled(event(1))
    at = journal._live.size
    journal.settled(event(2))
    upto = journal._live.size
    journal.settled(event(3))
    die(journal)
    data = bytearray(journal._live.path.read_bytes())
    data[at + 30] ^= 1
    journal._live.path.write_bytes(data)
    remains = claim(tmp_path)
    assert list(remains.events(lambda _id: None)) == [event(1), event(3)]
    assert list(remains.events(lambda _id: None)) == [event(1), event(3)]  # read twice, kept aside once
    remains.forget()
    (aside,) = remains.damaged
    assert aside.read_bytes() == bytes(data[at:upto])
    assert [path.name for path in tmp_path.iterdir()] == [aside.name]
    assert "damaged" in caplog.text


@pytest.mark.parametrize("hole", [1, 8, 4096, 3_000_000])
def test_a_page_of_zeros_that_a_power_cut_left_spoils_nothing_around_it(tmp_path: Path, hole: int, caplog: pytest.LogCaptureFixture) -> None:
    journal = open_journal(tmp_path)
    journal.settled(event(1))
    at = journal._live.size
    journal.settled(event(2))
    die(journal)
    data = journal._live.path.read_bytes()
    journal._live.path.write_bytes(data[:at] + bytes(hole) + data[at:] + bytes(hole))
    remains = claim(tmp_path)
    assert list(remains.events(lambda _id: None)) == [event(1), event(2)]
    remains.close()
    assert caplog.text.count("is torn or damaged") == 2


def test_segments_without_a_byte_are_nothing(tmp_path: Path) -> None:
    die(open_journal(tmp_path))
    remains = claim(tmp_path)
    assert (len(remains), list(remains.events(lambda _id: None))) == (1, [])
    remains.forget()
    assert list(tmp_path.iterdir()) == []


def test_a_clock_that_goes_back_does_not_change_the_order_of_segments(tmp_path: Path) -> None:
    clock = ManualClock()
    journal = Journal(tmp_path, clock.now_us, segment_bytes=1)
    journal.dispatched(dispatched(1, rate_id=1))
    journal.progress(Progress(request_id(1), Meter(input=4, output=1)))
    clock.advance(-3600)
    journal.dispatched(dispatched(2, rate_id=1))
    journal.progress(Progress(request_id(1), Meter(input=4, output=9)))
    die(journal)
    assert [found.meter.output for found in told_again(tmp_path) if found.id == request_id(1)] == [9], "what was seen last, not what was named last"


def test_two_processes_that_start_in_the_same_microsecond_have_a_file_each(tmp_path: Path) -> None:
    journals = [open_journal(tmp_path), open_journal(tmp_path)]  # the same process id too, as two containers on one folder may have
    for number, journal in enumerate(journals):
        journal.settled(event(number))
    for journal in journals:
        die(journal)
    assert told_again(tmp_path) == [event(0), event(1)]


def test_a_full_segment_gives_way_and_what_is_open_moves_along(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, segment_bytes=4_000)
    journal.dispatched(dispatched(0, rate_id=1))
    journal.progress(Progress(request_id(0), Meter(input=1, output=1)))
    segments = []
    for number in range(1, 40):
        journal.dispatched(dispatched(number))
        segments.append(journal.settled(event(number)))
    assert len(journal._segments) > 3
    for segment in segments:
        assert segment is not None
        journal.release(segment)
    journal.sweep()
    assert len(journal._segments) == 1
    assert journal.bytes == journal._live.size
    die(journal)
    recovered = [found for found in told_again(tmp_path, lambda _id: CARD) if found.outcome == "recovered"]
    assert [found.id for found in recovered] == [request_id(0)]
    assert recovered[0].meter == Meter(input=1, output=1)


def test_a_segment_with_something_unbooked_stays_and_so_do_those_after_it(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, segment_bytes=1_000)
    segments = [journal.settled(event(0))]
    for number in range(1, 10):
        journal.dispatched(dispatched(number))
        segments.append(journal.settled(event(number)))
    before = len(journal._segments)
    for segment in segments[1:]:
        assert segment is not None
        journal.release(segment)
    journal.sweep()
    assert len(journal._segments) == before
    assert segments[0] is not None
    journal.release(segments[0])
    journal.sweep()
    assert len(journal._segments) == 1


def test_a_clean_close_leaves_nothing_behind(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.dispatched(dispatched(1))
    segment = journal.settled(event(1))
    assert segment is not None
    journal.release(segment)
    journal.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BooksUnavailable):
        journal.dispatched(dispatched(2))


def test_a_close_with_something_open_leaves_its_evidence(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.dispatched(dispatched(1))
    journal.close()
    assert [found.outcome for found in told_again(tmp_path)] == ["recovered"]


def test_a_journal_at_its_bound_refuses_new_work_and_takes_what_ends(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, bytes_max=300)
    journal.dispatched(dispatched(1))
    journal.dispatched(dispatched(2))
    with pytest.raises(BooksUnavailable, match="full"):
        journal.dispatched(dispatched(3))
    assert journal.settled(event(1)) is not None


class Disk:
    """Stands in for `append`: takes `room` bytes, then answers as a full disk does, in the middle of a record if need be."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.write = os.write

    def __call__(self, fd: int, data: bytes) -> int:
        taken = min(self.room, len(data))
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= taken
        return self.write(fd, data[:taken])


def test_a_full_disk_refuses_new_work_loses_nothing_settled_and_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(tmp_path)
    journal.dispatched(dispatched(1))
    journal.dispatched(dispatched(2))
    disk = Disk(room=20)
    monkeypatch.setattr("billing.usage.journal.append", disk)
    with pytest.raises(BooksUnavailable, match="No space left"):
        journal.dispatched(dispatched(3))
    assert journal.settled(event(1)) is None
    assert journal.settled(event(2)) is None
    assert journal.failures == 3
    disk.room = 10**6
    journal.dispatched(dispatched(4))
    journal.settled(event(4))
    die(journal)
    assert sorted((found.id, found.outcome) for found in told_again(tmp_path)) == [(request_id(number), "complete") for number in (1, 2, 4)]


def test_an_event_that_the_disk_refused_keeps_its_evidence_until_it_is_booked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(tmp_path)
    journal.dispatched(dispatched(1))
    journal.dispatched(dispatched(2))
    monkeypatch.setattr("billing.usage.journal.append", Disk(room=0))
    assert journal.settled(event(1)) is None
    assert journal.settled(event(2)) is None
    assert (journal.unwritten, journal.open_requests) == (2, 0)
    journal.booked(request_id(1))
    assert journal.unwritten == 1
    journal.close()
    found = {one.id: one.outcome for one in told_again(tmp_path)}
    assert found[request_id(2)] == "recovered", "neither the disk nor the books have it: its evidence stays"


def test_an_event_that_the_disk_refused_and_the_books_took_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(tmp_path)
    journal.dispatched(dispatched(1))
    with monkeypatch.context() as patch:
        patch.setattr("billing.usage.journal.append", Disk(room=0))
        journal.settled(event(1))
    journal.booked(request_id(1))
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_what_the_disk_owes_is_written_at_the_close_if_it_takes_it_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(tmp_path)
    journal.dispatched(dispatched(1))
    journal.dispatched(dispatched(2))
    with monkeypatch.context() as patch:
        patch.setattr("billing.usage.journal.append", Disk(room=0))
        journal.settled(event(1))
        journal.settled(event(2))
    journal.close()
    assert journal.unwritten == 0
    assert told_again(tmp_path) == [event(1), event(2)]


def test_an_event_written_late_holds_its_segment_until_it_is_booked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(tmp_path, segment_bytes=600)
    journal.dispatched(dispatched(1))
    with monkeypatch.context() as patch:
        patch.setattr("billing.usage.journal.append", Disk(room=0))
        journal.settled(event(1))
    for number in range(2, 6):
        journal.dispatched(dispatched(number))
        end(journal, number)
    journal.sweep()
    before = len(journal._segments)
    assert before > 1
    journal.booked(request_id(1))
    journal.dispatched(dispatched(6))
    journal.sweep()
    assert len(journal._segments) < before
    end(journal, 6)
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_an_event_that_no_journal_can_hold_does_not_refuse_what_comes_after(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.dispatched(dispatched(1))
    assert journal.settled(event(1, 2**70)) is None
    journal.dispatched(dispatched(2))
    assert (journal.unwritten, journal.healthy) == (1, True)
    journal.booked(request_id(1))
    assert journal.unwritten == 0


class NoNewSegments(Disk):
    """A disk that takes what goes to the segment that is there, and nothing for a new one."""

    def __init__(self, fd: int) -> None:
        super().__init__(room=10**9)
        self.fd = fd

    def __call__(self, fd: int, data: bytes) -> int:
        if fd != self.fd:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().__call__(fd, data)


def test_a_rotation_that_fails_refuses_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    journal = open_journal(tmp_path, segment_bytes=400)
    with monkeypatch.context() as patch:
        patch.setattr("billing.usage.journal.append", NoNewSegments(journal._live.fd))
        for number in range(8):
            journal.dispatched(dispatched(number))
    assert journal.open_requests == 8
    assert journal.failures >= 1
    assert caplog.text.count("no new segment") == 1
    assert [path.name for path in tmp_path.iterdir()] == [journal._live.path.name]
    assert journal.bytes == journal._live.size
    old = journal._live
    for number in range(8, 12):
        journal.dispatched(dispatched(number))
    assert journal._live is not old
    die(journal)
    assert len(told_again(tmp_path)) == 12


def test_a_journal_tells_whether_it_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(tmp_path, bytes_max=400)
    assert journal.healthy
    with monkeypatch.context() as patch:
        patch.setattr("billing.usage.journal.append", Disk(room=0))
        with pytest.raises(BooksUnavailable):
            journal.dispatched(dispatched(1))
        assert not journal.healthy
    assert journal.healthy, "asked again, the disk is tried again: whoever sends work only to the healthy would never find out"
    while journal.bytes < 400:
        journal.dispatched(dispatched(3))
    assert not journal.healthy


def test_a_folder_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BooksUnavailable):
        open_journal(tmp_path / "file")


def test_a_parked_event_is_booked_once_its_file_is_renamed(tmp_path: Path) -> None:
    path = park(tmp_path, event(1))
    assert told_again(tmp_path) == []
    path.rename(tmp_path / f"{event(1).started_us}-0.wal")
    assert told_again(tmp_path) == [event(1)]
