"""The journal on a real disk of 1 MiB that is full: new work is refused while there is still room for the ends of what is under way."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from billing.db import Database
from billing.errors import BooksUnavailable
from billing.usage import store
from billing.usage.journal import Journal
from billing.usage.recorder import Recorder
from billing.usage.verify import verify
from tests.books import dispatched, event, grant, request_id, seed
from tests.chaos.test_disk_full import fill, small_disk
from tests.clock import START_US, ManualClock

pytestmark = pytest.mark.chaos
ROOT = Path(__file__).resolve().parents[2]
OPEN = 20

# Dispatches, fills the disk, dispatches until it is refused, ends everything that was let in, and dies.
DIES_FULL = f"""
import os, signal, sys
from pathlib import Path
from billing.errors import BooksUnavailable
from billing.usage.journal import Journal
from tests.books import dispatched, event
from tests.chaos.test_disk_full import fill
from tests.clock import ManualClock
folder = Path(sys.argv[1])
journal = Journal(folder, ManualClock().now_us)
for number in range({OPEN}):
    journal.dispatched(dispatched(number))
with (folder / "ballast").open("wb") as file:
    fill(file.fileno())
number = {OPEN}
try:
    while True:
        journal.dispatched(dispatched(number))
        number += 1
except BooksUnavailable:
    pass
for ended in range(number):
    assert journal.settled(event(ended)) is not None, f"no room for the end of {{ended}}"
print(number, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def booked(db: Database) -> dict[str, str]:
    with db.read() as session:
        assert verify(session) == []
        return {one.id: one.outcome for one, _covered in store.events_between(session, START_US, START_US + 1)}


def test_what_was_let_in_before_the_disk_was_full_is_booked_as_it_ended_though_the_process_dies(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path / 'weir.db'}")
    db.migrate()
    seed(db, "acme", grant("g", 10**6))
    with small_disk(tmp_path / "journal", "1m"):
        done = subprocess.run([sys.executable, "-c", DIES_FULL, str(tmp_path / "journal")], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        count = int(done.stdout)
        assert count >= OPEN
        (tmp_path / "journal" / "ballast").unlink()
        clock = ManualClock()
        recorder = Recorder(db, Journal(tmp_path / "journal", clock.now_us), clock.now_us)
        recorder.claim_remains()
        recorder.stop()
        assert booked(db) == {request_id(number): "complete" for number in range(count)}
        assert list((tmp_path / "journal").iterdir()) == []
    db.close()


def test_a_full_disk_is_noticed_kept_to_itself_and_forgotten_once_there_is_room(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path / 'weir.db'}")
    db.migrate()
    seed(db, "acme", grant("g", 10**6))
    with small_disk(tmp_path / "journal", "1m"):
        clock = ManualClock()
        journal = Journal(tmp_path / "journal", clock.now_us)
        recorder = Recorder(db, journal, clock.now_us, flush_ms=0)
        with (tmp_path / "journal" / "ballast").open("wb") as file:
            fill(file.fileno())
        let_in = 0
        with pytest.raises(BooksUnavailable, match="No space left"):
            for number in range(10_000):
                recorder.dispatched(dispatched(number))
                let_in += 1
        assert not journal.healthy
        os.unlink(tmp_path / "journal" / "ballast")
        assert journal.healthy
        for number in range(let_in):
            recorder.settled(event(number))
        recorder.dispatched(dispatched(20_000))
        recorder.settled(event(20_000))
        recorder.stop()
        assert booked(db) == {request_id(number): "complete" for number in (*range(let_in), 20_000)}
        assert list((tmp_path / "journal").iterdir()) == []
    db.close()
