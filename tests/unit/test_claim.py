"""Several processes that start at once: what a dead one left goes to one of them, whole. What cannot be read or kept aside stays, and holds up nobody."""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from billing.usage.journal import Journal
from billing.usage.replay import Remains, claim
from tests.books import event
from tests.clock import ManualClock


def segments(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{1_700_000_000_000_000 + number}-4711.wal" for number in range(count)]
    for path in paths:
        path.write_bytes(b"")
    return paths


def test_two_that_claim_at_once_do_not_share_out_one_process_segments(tmp_path: Path) -> None:
    paths, others = segments(tmp_path, 3), list[Remains]()
    other = threading.Thread(target=lambda: others.append(claim(tmp_path)))

    def begin_another(path: Path) -> bool:
        if path == paths[1]:  # the first is ours: now another begins, which takes what it can
            other.start()
            other.join(0.3)
        return False

    ours = claim(tmp_path, begin_another)
    other.join(10)
    assert (len(ours), [len(remains) for remains in others]) == (3, [0])
    ours.forget()
    assert not list(tmp_path.iterdir())


def test_a_segment_deleted_while_it_was_claimed_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [path] = segments(tmp_path, 1)
    opened = os.open

    def then_deleted(name: Path, *flags: int) -> int:
        fd = opened(name, *flags)
        if name == path:
            path.unlink()
        return fd

    monkeypatch.setattr("os.open", then_deleted)
    assert len(claim(tmp_path)) == 0
    assert len(claim(tmp_path / "none")) == 0


def torn(folder: Path, *numbers: int) -> Path:
    """A dead process's segment whose last record was cut."""
    journal = Journal(folder, ManualClock().now_us)
    for number in numbers:
        journal.settled(event(number))
    os.close(journal._live.fd)
    path = journal._live.path
    path.write_bytes(path.read_bytes() + b"\x60\x01\x00\x00half a record")
    return path


def test_a_torn_segment_on_a_full_disk_stays_where_it_is_and_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = torn(tmp_path, 1, 2)
    aside = tmp_path / f"damaged-{path.name}"
    remains = claim(tmp_path)
    opened = Path.open

    def full(self: Path, *mode: Any, **more: Any) -> Any:
        if self == aside:
            opened(self, *mode, **more).close()  # the name still fits, the bytes do not
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(self, *mode, **more)

    with monkeypatch.context() as patched, caplog.at_level("ERROR"):
        patched.setattr(Path, "open", full)
        for _ in range(2):  # begun again, as after a failure of the database
            assert list(remains.events(lambda _id: None)) == [event(1), event(2)]
        remains.forget()
    assert len(caplog.records) == 1
    assert path.name in caplog.text
    assert [left.name for left in tmp_path.iterdir()] == [path.name]

    again = claim(tmp_path)
    assert list(again.events(lambda _id: None)) == [event(1), event(2)]
    again.forget()
    assert [left.name for left in tmp_path.iterdir()] == [aside.name]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_a_segment_that_may_not_be_opened_is_said_with_its_owner_and_the_others_are_read(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    barred, ours = segments(tmp_path, 2)
    opened = os.open

    def refuse(name: Path, *flags: int) -> int:
        if name == barred:
            raise OSError(code, os.strerror(code), str(name))
        return opened(name, *flags)

    monkeypatch.setattr("os.open", refuse)
    remains = claim(tmp_path)
    assert (len(remains), remains.unreadable) == (1, [barred])
    assert f"{barred} of user {barred.owner()}" in caplog.text
    list(remains.events(lambda _id: None))
    assert remains.unreadable == [barred], "it is still unread when the others have been read"
    remains.forget()
    assert (barred.exists(), ours.exists()) == (True, False)
