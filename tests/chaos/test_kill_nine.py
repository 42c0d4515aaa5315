"""Killed at any point, the gateway's books lose nothing that was settled and count nothing twice once the next process has replayed."""

import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from billing.db import Database
from billing.usage import store
from billing.usage.event import UsageEvent
from billing.usage.journal import Journal
from billing.usage.recorder import Recorder
from billing.usage.verify import verify
from tests.books import event, grant, request_id, seed
from tests.clock import START_US, ManualClock

ROOT = Path(__file__).resolve().parents[2]

POINTS = [
    ("before_append", 1), ("before_append", 24), ("torn_append", 2), ("torn_append", 31), ("after_append", 1), ("after_append", 40),
    ("before_commit", 1), ("before_commit", 3), ("after_commit", 1), ("after_commit", 3), ("before_sweep", 2), ("after_sweep", 2), ("while_rotating", 3),
]  # fmt: skip


def run_until_killed(url: str, folder: Path, point: str, count: int) -> dict[str, set[int]]:
    """Run the child; return what it said, by word."""
    command = [sys.executable, "-m", "tests.chaos.books_child", url, str(folder), point, str(count)]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert child.returncode == -signal.SIGKILL, f"it was not killed at {point} {count}: {child.stderr[-2000:]}"
    said: dict[str, set[int]] = defaultdict(set)
    for line in child.stdout.splitlines():
        word, number = line.split()
        said[word].add(int(number))
    return said


def replay(db: Database, folder: Path) -> Recorder:
    clock = ManualClock()
    recorder = Recorder(db, Journal(folder, clock.now_us), clock.now_us)
    recorder.claim_remains()
    recorder.stop()
    return recorder


def check(db: Database, folder: Path, said: dict[str, set[int]]) -> None:
    recorder = replay(db, folder)
    assert (recorder.conflicts, recorder.rejected) == (0, 0)
    with db.read() as session:
        assert verify(session) == []
        events: dict[str, UsageEvent] = {one.id: one for one, _covered in store.events_between(session, START_US, START_US + 1)}
    for number in said["ended"]:
        assert events[request_id(number)] == event(number), "what a client saw the end of is in the books as it ended"
    for number in said["sent"] - said["ended"]:
        assert request_id(number) in events, "what was sent and never ended left its evidence"
    assert [path.name for path in folder.iterdir() if not path.name.startswith("damaged-")] == []


@pytest.mark.chaos
@pytest.mark.parametrize(("point", "count"), POINTS)
def test_nothing_settled_is_lost_and_nothing_counts_twice(tmp_path: Path, point: str, count: int) -> None:
    url = f"sqlite:///{tmp_path / 'weir.db'}"
    db = Database(url)
    db.migrate()
    seed(db, "acme", grant("g", 10_000))
    said = run_until_killed(url, tmp_path / "journal", point, count)
    check(db, tmp_path / "journal", said)
    replay(db, tmp_path / "journal")
    with db.read() as session:
        assert verify(session) == []
    db.close()


@pytest.mark.chaos
@pytest.mark.parametrize(("point", "count"), [("before_commit", 2), ("after_commit", 2)])
def test_nothing_settled_is_lost_on_postgresql(tmp_path: Path, postgres_url: str, point: str, count: int) -> None:
    db = Database(postgres_url)
    db.migrate()
    seed(db, "acme", grant("g", 10_000))
    said = run_until_killed(postgres_url, tmp_path / "journal", point, count)
    check(db, tmp_path / "journal", said)
    db.close()
