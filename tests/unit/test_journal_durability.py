"""With durability `disk` the end of an answer waits for the medium: one push for all who wait, never the loop, and no lie when a push fails."""

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from billing.db import Database
from billing.errors import BooksUnavailable
from billing.usage.journal import Journal
from billing.usage.recorder import Recorder
from billing.usage.segment import Segment
from tests.books import dispatched, event, grant, seed
from tests.clock import ManualClock
from tests.unit.test_journal import die, told_again


class Disk:
    """Stands in for `fdatasync`: slow until `go` is set, failing while `broken`."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.began = threading.Event()
        self.broken = False
        self.pushed = 0

    def __call__(self, fd: int) -> None:
        self.began.set()
        assert self.go.wait(20)
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        os.fdatasync(fd)
        self.pushed += 1


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    found = Disk()
    monkeypatch.setattr("billing.usage.segment.fdatasync", found)
    return found


@asynccontextmanager
async def on_disk(folder: Path, **bounds: int) -> AsyncIterator[Journal]:
    journal = Journal(folder, ManualClock().now_us, durability="disk", **bounds)  # type: ignore[arg-type]
    loop = asyncio.get_running_loop()
    journal.start(lambda callback: loop.call_soon_threadsafe(callback))
    try:
        yield journal
    finally:
        journal.close()


def finish(journal: Journal, number: int) -> Awaitable[object]:
    journal.dispatched(dispatched(number))
    journal.settled(event(number))
    waiting = journal.durable()
    assert waiting is not None
    return waiting


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def refused(journal: Journal) -> str:
    with pytest.raises(BooksUnavailable) as found:
        journal.dispatched(dispatched(99))
    return str(found.value)


async def test_with_process_nobody_waits_and_no_thread_runs(tmp_path: Path, disk: Disk) -> None:
    journal = Journal(tmp_path, ManualClock().now_us)
    journal.settled(event(1))
    assert journal.durable() is None
    assert (disk.pushed, journal.pushes) == (0, 0)
    die(journal)


async def test_an_end_waits_until_its_record_is_on_the_medium(tmp_path: Path, disk: Disk) -> None:
    disk.go.clear()
    async with on_disk(tmp_path) as journal:
        waiting = asyncio.ensure_future(finish(journal, 1))
        await until(disk.began.is_set)
        assert not waiting.done()
        assert not journal._live.durable
        disk.go.set()
        await waiting
        assert journal._live.durable
        assert journal.durable() is None, "nothing was written since"


async def test_all_who_come_during_a_push_share_the_next_one_and_wake_the_loop_once(tmp_path: Path, disk: Disk) -> None:
    disk.go.clear()
    posts = 0
    async with on_disk(tmp_path) as journal:
        loop = asyncio.get_running_loop()

        def post(callback: Callable[[], None]) -> None:
            nonlocal posts
            posts += 1
            loop.call_soon_threadsafe(callback)

        journal.start(post)
        waiting = [asyncio.ensure_future(finish(journal, number)) for number in range(100)]
        disk.go.set()
        await asyncio.gather(*waiting)
        assert (journal.pushes, posts) == (2, 2)


async def test_one_who_gives_up_takes_nobody_along(tmp_path: Path, disk: Disk) -> None:
    disk.go.clear()
    async with on_disk(tmp_path) as journal:
        first, second, third = (asyncio.ensure_future(finish(journal, number)) for number in range(3))
        await asyncio.sleep(0)
        second.cancel()
        disk.go.set()
        await asyncio.gather(first, third)
        assert second.cancelled()


async def test_a_slow_disk_holds_up_neither_the_loop_nor_the_next_records(tmp_path: Path, disk: Disk) -> None:
    disk.go.clear()
    async with on_disk(tmp_path) as journal:
        waiting = asyncio.ensure_future(finish(journal, 1))
        await until(disk.began.is_set)
        turns = 0
        for number in range(2, 200):
            journal.dispatched(dispatched(number))
            journal.settled(event(number))
            await asyncio.sleep(0)
            turns += 1
        assert (turns, waiting.done()) == (198, False)
        disk.go.set()
        await waiting


async def test_a_record_counts_only_once_its_file_has_its_name(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[Path] = []
    monkeypatch.setattr("billing.usage.segment.sync_folder", named.append)
    async with on_disk(tmp_path, segment_bytes=1_000) as journal:
        for number in range(12):
            await finish(journal, number)
        assert len(journal._segments) > 3
        assert named == [tmp_path] * len(journal._segments), "each file's name once, with its first push"


async def test_what_was_in_the_old_segment_is_pushed_when_a_new_one_begins(tmp_path: Path, disk: Disk) -> None:
    async with on_disk(tmp_path, segment_bytes=1_000) as journal:
        for number in range(4):
            journal.dispatched(dispatched(number))
            journal.settled(event(number))
        old = journal._segments[0]
        assert old is not journal._live
        await until(lambda: old.durable)


def test_the_books_thread_pushes_every_segment_and_not_only_the_newest(tmp_path: Path, disk: Disk) -> None:
    journal = Journal(tmp_path, ManualClock().now_us, segment_bytes=1_000)
    for number in range(4):
        journal.dispatched(dispatched(number))
        journal.settled(event(number))
    assert len(journal._segments) > 1
    journal.sync()
    assert all(segment.durable for segment in journal._segments)
    pushed = disk.pushed
    journal.sync()
    assert disk.pushed == pushed, "nothing was written since, so nothing is pushed"
    die(journal)


async def test_a_push_that_fails_ends_the_wait_and_lets_nothing_new_in_until_all_is_booked(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    async with on_disk(tmp_path) as journal:
        journal.dispatched(dispatched(1))
        journal.dispatched(dispatched(2))
        segment = journal.settled(event(1))
        assert segment is not None
        disk.broken = True
        waiting = journal.durable()
        assert waiting is not None
        await waiting
        assert "cannot be pushed" in caplog.text
        assert "failed to keep" in refused(journal)
        assert not journal.healthy
        disk.broken = False
        assert "failed to keep" in refused(journal), "the disk is well again, but what it lost is in no book yet"
        journal.settled(event(2))
        journal.release(segment)
        await until(lambda: journal.healthy)
        journal.dispatched(dispatched(3))
        assert segment.failed
        assert segment is not journal._live


async def test_a_failed_file_is_never_pushed_again(tmp_path: Path, disk: Disk) -> None:
    async with on_disk(tmp_path) as journal:
        segment = journal._live
        disk.broken = True
        await finish(journal, 1)
        disk.broken = False
        for _ in range(3):
            with pytest.raises(OSError, match="earlier push"):
                segment.sync()
        assert not segment.durable


async def test_what_was_open_goes_into_a_new_file_when_the_old_one_has_failed(tmp_path: Path, disk: Disk) -> None:
    async with on_disk(tmp_path) as journal:
        journal.dispatched(dispatched(1, rate_id=1))
        disk.broken = True
        await finish(journal, 2)
        disk.broken = False
        failed = journal._segments[0]
        await until(lambda: journal._live is not failed)
        failed.path.unlink()  # the worst that may have become of it
        die(journal)
        assert [found.outcome for found in told_again(tmp_path)] == ["recovered"]
        journal._segments.clear()


async def test_a_disk_that_stays_broken_is_not_filled_with_beginnings(tmp_path: Path, disk: Disk) -> None:
    async with on_disk(tmp_path) as journal:
        disk.broken = True
        await finish(journal, 1)
        for _ in range(50):
            refused(journal)
            await asyncio.sleep(0.001)
        assert len(journal._segments) <= 2
        disk.broken = False


async def test_a_push_that_does_not_come_back_lets_nothing_new_in(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.usage.group.STALL_S", 0.0)
    disk.go.clear()
    async with on_disk(tmp_path) as journal:
        waiting = asyncio.ensure_future(finish(journal, 1))
        await until(disk.began.is_set)
        assert "does not answer" in refused(journal)
        assert not journal.healthy
        disk.go.set()
        await waiting
        assert journal.healthy


async def test_a_failing_push_of_the_books_thread_lets_nothing_new_in_either(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.usage.journal.MEND_EVERY_S", 0.0)
    journal = Journal(tmp_path, ManualClock().now_us)
    journal.dispatched(dispatched(1))
    disk.broken = True
    journal.sync()
    assert "failed to keep" in refused(journal)
    disk.broken = False
    assert journal.healthy, "nothing was settled in the failed file, and what is open went into a new one"
    die(journal)


def test_no_segment_is_deleted_before_the_database_would_survive_a_power_cut(tmp_path: Path) -> None:
    failing = [True]

    def harden() -> None:
        if failing[0]:
            raise OSError(errno.EIO, "Input/output error")

    journal = Journal(tmp_path, ManualClock().now_us, segment_bytes=1_000, harden=harden)
    for number in range(6):
        journal.dispatched(dispatched(number))
        segment = journal.settled(event(number))
        assert segment is not None
        journal.release(segment)
    before = len(journal._segments)
    journal.sweep()
    assert len(journal._segments) == before > 1
    failing[0] = False
    journal.sweep()
    assert len(journal._segments) == 1
    die(journal)


def test_a_piece_that_cannot_be_taken_back_is_taken_back_before_the_next_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, ManualClock().now_us)
    journal.settled(event(1))
    with monkeypatch.context() as patch:
        patch.setattr("billing.usage.journal.append", lambda fd, data: os.write(fd, data[:20]))
        patch.setattr("billing.usage.segment.os.ftruncate", lambda fd, size: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
        assert journal.settled(event(2)) is None
        assert journal.settled(event(3)) is None
    assert journal._live.torn
    journal.dispatched(dispatched(4))
    die(journal)
    remains = told_again(tmp_path)
    assert [found.id for found in remains if found.outcome == "complete"] == [event(number).id for number in (1, 2, 3)]
    assert not list(tmp_path.glob("damaged-*"))


def test_room_for_the_ends_of_what_is_open_is_set_aside_before_it_is_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, ManualClock().now_us)
    for number in range(50):
        journal.dispatched(dispatched(number))
    segment = journal._live
    assert segment.room >= segment.size + 50 * 1024
    assert os.fstat(segment.fd).st_blocks * 512 >= segment.size + 50 * 1024
    assert os.fstat(segment.fd).st_size == segment.size, "what is set aside is not part of what is read"

    def full(*_anything: object) -> int:
        return errno.ENOSPC

    monkeypatch.setattr("billing.usage.segment._allocate", full)
    with pytest.raises(BooksUnavailable, match="No space left"):
        for number in range(50, 500):
            journal.dispatched(dispatched(number))
    for number in range(50):
        assert journal.settled(event(number)) is not None
    die(journal)


def test_a_file_system_that_cannot_set_room_aside_is_used_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.usage.segment._allocate", lambda *_anything: errno.EOPNOTSUPP)
    segment = Journal(tmp_path, ManualClock().now_us)
    segment.dispatched(dispatched(1))
    assert isinstance(segment._live, Segment)
    die(segment)


async def test_with_process_a_slow_push_holds_up_neither_the_loop_nor_the_books(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.usage.recorder.SYNC_S", 0.0)
    db = Database(f"sqlite:///{tmp_path / 'weir.db'}")
    db.migrate()
    seed(db, "acme", grant("g", 10**6))
    journal = Journal(tmp_path / "journal", ManualClock().now_us)
    recorder = Recorder(db, journal, ManualClock().now_us, flush_ms=0)
    loop = asyncio.get_running_loop()
    recorder.start(loop.call_soon_threadsafe)
    disk.go.clear()
    for number in range(4):
        recorder.dispatched(dispatched(number))
        recorder.settled(event(number))
        await until(lambda done=number + 1: recorder.booked == done)  # type: ignore[misc]
        assert await asyncio.wait_for(asyncio.wrap_future(recorder.run(lambda _session: "a draw")), 10) == "a draw"
        await until(disk.began.is_set)
    assert not journal._live.durable
    disk.go.set()
    await until(lambda: journal._live.durable)
    assert journal.pushes == 2, "those that came while it was under way share the next one"
    await asyncio.to_thread(recorder.stop)
    db.close()


async def test_a_segment_whose_push_is_under_way_is_deleted_at_a_later_sweep(tmp_path: Path, disk: Disk) -> None:
    async with on_disk(tmp_path, segment_bytes=1_000) as journal:
        disk.go.clear()
        finish(journal, 1).close()  # type: ignore[attr-defined]
        old = journal._live
        await until(disk.began.is_set)
        while journal._live is old:
            journal.dispatched(dispatched(10_000 + old.size))
        journal.release(old)
        assert old.done
        journal.sweep()
        assert old.path.exists()
        assert journal.owns(old.path)
        disk.go.set()
        await until(lambda: not old.pushing)
        journal.sweep()
        assert not old.path.exists()
        assert journal.bytes == journal._live.size
