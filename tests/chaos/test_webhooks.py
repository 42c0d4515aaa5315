"""Webhooks from real processes: several deliver each message once; one that is killed between sending and marking leaves it to be sent again, the same."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from standardwebhooks import Webhook as Receiver

from billing.alerts import store
from billing.alerts.thresholds import Threshold
from billing.db import Database
from billing.operations import webhooks
from billing.tenants.keys import KeyHasher
from gateway.webhooks import MARK_S
from tests.chaos.webhook_child import PEPPER
from tests.real.child import ROOT
from tests.real.upstream import ScriptedUpstream, answer

pytestmark = pytest.mark.chaos

LATER_S = 10 + MARK_S + 1  # past the end of a try


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    database = Database(request.getfixturevalue("postgres_url") if request.param == "postgresql" else f"sqlite:///{tmp_path / 'weir.db'}")
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def receiver() -> Iterator[ScriptedUpstream]:
    server = ScriptedUpstream(script=(answer(b"", status=204),))
    yield server
    server.close()


def reach(db: Database, tenants: int) -> None:
    with db.write() as session:
        store.note(
            session,
            [
                Threshold(tenant_id=f"t{number}", period_us=1, percent=percent, at_us=time.time_ns() // 1000, used_ncr=percent, limit_ncr=100)
                for number in range(tenants)
                for percent in (50, 80, 100)
            ],
        )


def start(db: Database, *, ahead_s: float = 0, point: str = "none") -> subprocess.Popen[str]:
    url = db.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.chaos.webhook_child", url, str(ahead_s), point]
    child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def go(*children: subprocess.Popen[str]) -> list[int]:
    """Let them begin together, and return how they ended."""
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    codes = [child.wait(60) for child in children]
    for child in children:
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            pipe.close()
    return codes


def test_two_processes_deliver_each_message_once(db: Database, receiver: ScriptedUpstream) -> None:
    for number in range(4):
        webhooks.add_webhook(db, KeyHasher(PEPPER), url=f"http://127.0.0.1:{receiver.port}/{number}", now_us=1)
    reach(db, 10)
    assert go(start(db), start(db)) == [0, 0]
    ids = [seen.headers["webhook-id"] for seen in receiver.requests]
    assert len(ids) == len(set(ids)) == 4 * 10 * 3
    assert {(one.state, one.tries) for one in webhooks.list_deliveries(db, limit=1000)} == {("done", 1)}


def test_killed_between_sending_and_marking_it_is_sent_again_under_the_same_id(db: Database, receiver: ScriptedUpstream) -> None:
    added = webhooks.add_webhook(db, KeyHasher(PEPPER), url=f"http://127.0.0.1:{receiver.port}/", now_us=1)
    webhooks.queue_test(db, added.webhook.id, time.time_ns() // 1000)
    assert go(start(db, point="after_send")) == [-9]
    assert len(receiver.requests) == 1
    assert go(start(db)) == [0]
    assert len(receiver.requests) == 1, "its time is not over: the process might still be at it"
    assert go(start(db, ahead_s=LATER_S)) == [0]
    first, second = receiver.requests
    assert (first.headers["webhook-id"], first.body) == (second.headers["webhook-id"], second.body)
    for seen in (first, second):
        assert Receiver(added.secret or "").verify(seen.body, seen.headers)["type"] == "webhook.test"
    (one,) = webhooks.list_deliveries(db)
    assert (one.state, one.tries) == ("done", 2)
