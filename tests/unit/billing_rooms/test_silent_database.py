"""A database that takes everything and answers nothing holds the books up for a bounded time, and is told of."""

import time
from pathlib import Path

import pytest

from billing.db import Database
from billing.usage.journal import Journal
from billing.usage.recorder import Recorder
from billing.usage.verify import verify
from tests.books import dispatched, event, grant, seed
from tests.clock import ManualClock
from tests.real.muzzle import Muzzle


@pytest.mark.postgres
def test_events_are_booked_over_a_new_connection_once_the_silent_one_is_given_up(postgres_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    direct, clock = Database(postgres_url), ManualClock()
    direct.migrate()
    seed(direct, "acme", grant("g", 100))
    with Muzzle(postgres_url) as proxy:
        database = Database(proxy.url, watch_s=0.4)
        recorder = Recorder(database, Journal(tmp_path / "journal", clock.now_us), clock.now_us, flush_ms=0)
        recorder.start(lambda callback: callback())
        recorder.run(lambda session: session.connection()).result(10)
        proxy.silence()
        recorder.dispatched(dispatched(1))
        recorder.settled(event(1))
        until_s = time.monotonic() + 20
        while not recorder.booked:
            assert time.monotonic() < until_s, "it waits for ever"
            time.sleep(0.01)
        assert database.cuts >= 1  # a busy machine may be slower than that with a good connection too
        assert "the database has not answered for 0.4 s" in caplog.text
        recorder.stop()
        database.close()
    with direct.read() as session:
        assert verify(session) == []
    direct.close()
