"""Several processes that start at once: what a dead one left goes to one of them, whole."""

import os
import threading
from pathlib import Path

import pytest

from billing.usage.replay import Remains, claim


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
