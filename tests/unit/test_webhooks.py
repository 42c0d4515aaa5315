"""Messages reach a real HTTP receiver, signed as receivers' own library expects; what does not take them is tried again, left, or told nothing more."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy.exc import ProgrammingError
from sqlmodel import Session
from standardwebhooks import Webhook as Receiver

from backends.transport.over_httpx import HttpxTransport
from billing.alerts import store
from billing.alerts.thresholds import Threshold
from billing.alerts.webhook import GIVE_UP_US, Delivery, check_url
from billing.db import Database
from billing.errors import BooksUnavailable, Conflict, Invalid, NotFound
from billing.operations import webhooks
from billing.operations.webhooks import AddedWebhook
from billing.tenants.keys import KeyHasher
from gateway.config.settings import WebhookSettings
from gateway.webhooks import Sender
from tests.clock import ManualClock
from tests.real.upstream import RESET, STALL, ScriptedUpstream, Wait, answer

HASHER = KeyHasher(b"0123456789abcdef")
OK, FAILING = answer(b"", status=204), answer(b"no", status=500)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    database = Database(request.getfixturevalue("postgres_url") if request.param == "postgresql" else f"sqlite:///{tmp_path / 'weir.db'}")
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(time.time_ns() // 1000)  # the receivers' library compares with its own clock


@pytest.fixture
def receiver() -> Iterator[ScriptedUpstream]:
    server = ScriptedUpstream(script=(OK,))
    yield server
    server.close()


@pytest.fixture
async def transport() -> AsyncIterator[HttpxTransport]:
    over_httpx = HttpxTransport()
    yield over_httpx
    await over_httpx.aclose()


class Post:
    """A sender over a database, with what it counted."""

    def __init__(self, db: Database, transport: HttpxTransport, clock: ManualClock, **settings: Any) -> None:
        self.db, self.clock = db, clock
        self.outcomes: list[str] = []
        self.settings = WebhookSettings(**{"timeout_s": 5.0, **settings})
        self.sender = Sender(db, HASHER, transport, clock, settings=self.settings, count=self.outcomes.append, jitter=lambda: 0.5, every_s=0.01)

    def add(self, url: str, **more: Any) -> AddedWebhook:
        return webhooks.add_webhook(self.db, HASHER, url=url, now_us=self.clock.now_us(), **more)

    def reach(self, percent: int = 50, tenant: str = "acme", period_us: int = 7_000_000) -> None:
        """Note a threshold, as a flush does."""
        one = Threshold(tenant_id=tenant, period_us=period_us, percent=percent, at_us=self.clock.now_us(), used_ncr=percent * 10**9, limit_ncr=100 * 10**9)
        with self.db.write() as session:
            store.note(session, [one])

    async def turn(self) -> int:
        begun = await self.sender.turn()
        await self.sender.settle()
        return begun

    def sent(self, webhook_id: str | None = None) -> list[Delivery]:
        return webhooks.list_deliveries(self.db, webhook_id)


@pytest.fixture
def post(db: Database, transport: HttpxTransport, clock: ManualClock) -> Post:
    return Post(db, transport, clock)


def url_of(server: ScriptedUpstream, path: str = "/hook?a=b") -> str:
    return f"http://127.0.0.1:{server.port}{path}"


async def test_a_message_arrives_once_and_the_receivers_library_verifies_it(post: Post, receiver: ScriptedUpstream) -> None:
    added = post.add(url_of(receiver))
    post.reach(80)
    assert await post.turn() == 1
    assert await post.turn() == 0
    (seen,) = receiver.requests
    assert (seen.method, seen.path, seen.headers["content-type"]) == ("POST", "/hook?a=b", "application/json")
    told = Receiver(added.secret or "").verify(seen.body, seen.headers)
    assert told["type"] == "credits.threshold"
    assert told["data"] == {"tenant": "acme", "period": "1970-01-01T00:00:07Z", "percent": 80, "used": "80", "limit": "100", "remaining": "20"}
    (sent,) = post.sent(added.webhook.id)
    assert (sent.id, sent.state, sent.tries, sent.status, sent.answer) == (seen.headers["webhook-id"], "done", 1, 204, None)
    assert post.outcomes == ["delivered"]


async def test_another_secret_or_another_body_does_not_verify(post: Post, receiver: ScriptedUpstream) -> None:
    first, second = post.add(url_of(receiver, "/1")), post.add(url_of(receiver, "/2"))
    post.reach()
    assert await post.turn() == 2
    one = next(seen for seen in receiver.requests if seen.path == "/1")
    Receiver(first.secret or "").verify(one.body, one.headers)
    for secret, body in ((second.secret, one.body), (first.secret, one.body.replace(b"50", b"51"))):
        with pytest.raises(Exception, match="No matching signature"):
            Receiver(secret or "").verify(body, one.headers)


async def test_what_fails_is_tried_again_later_with_the_same_id_and_body(post: Post, receiver: ScriptedUpstream) -> None:
    added = post.add(url_of(receiver))
    receiver.play(FAILING)
    receiver.play(RESET)  # on a connection that was open already: the transport tries a fresh one
    receiver.play(RESET)
    post.reach()
    assert await post.turn() == 1
    assert (post.sent()[0].state, post.sent()[0].status, post.sent()[0].due_us - post.clock.now_us()) == ("waiting", 500, 5_000_000)
    post.clock.advance(4.9)
    assert await post.turn() == 0
    post.clock.advance(0.1)
    assert await post.turn() == 1
    assert post.sent()[0].status is None
    assert str(post.sent()[0].answer).startswith("no answer: ")
    post.clock.advance(20)
    assert await post.turn() == 1
    assert (post.sent()[0].state, post.sent()[0].tries, post.sent()[0].answer) == ("done", 3, None)
    assert len(receiver.requests) == 4
    assert len({(seen.headers["webhook-id"], seen.body) for seen in receiver.requests}) == 1
    stamps = [int(seen.headers["webhook-timestamp"]) for seen in receiver.requests]
    assert stamps[-1] - stamps[0] in (24, 25)
    Receiver(added.secret or "").verify(receiver.requests[-1].body, receiver.requests[-1].headers)
    assert post.outcomes == ["retried", "retried", "delivered"]


async def test_after_three_days_it_is_given_up(post: Post, receiver: ScriptedUpstream) -> None:
    receiver.script = (FAILING,)
    post.add(url_of(receiver))
    post.reach()
    began_us = post.clock.now_us()
    while post.sent()[0].state == "waiting":
        assert await post.turn() == 1
        post.clock.at_us = max(post.clock.at_us, post.sent()[0].due_us)
    assert post.sent()[0].state == "failed"
    assert 10 <= post.sent()[0].tries <= 20
    assert began_us + GIVE_UP_US * 3 // 4 < post.clock.now_us() <= began_us + GIVE_UP_US
    assert await post.turn() == 0
    assert post.outcomes[-1] == "failed"


async def test_410_disables_the_endpoint_and_it_is_told_nothing_more(post: Post, receiver: ScriptedUpstream) -> None:
    receiver.script = (FAILING,)
    added = post.add(url_of(receiver))
    post.reach(50)
    await post.turn()
    receiver.script = (answer(b"", status=410),)
    post.reach(80)
    assert await post.turn() == 1
    assert {(one.state, one.status, one.answer) for one in post.sent()} == {
        ("failed", 410, "the endpoint answered 410 Gone"),
        ("failed", 500, "the endpoint answered 410 Gone"),
    }
    (found,) = webhooks.list_webhooks(post.db)
    assert found.disabled_us == post.clock.now_us()
    post.reach(100)
    post.clock.advance(100)
    assert await post.turn() == 0
    assert len(post.sent()) == 2
    with pytest.raises(Conflict, match="answered 410 Gone"):
        webhooks.queue_test(post.db, added.webhook.id, post.clock.now_us())
    post.add(url_of(receiver))  # the same again is no conflict with a disabled one
    assert post.outcomes == ["retried", "gone"]


async def test_a_redirect_is_not_followed(post: Post, receiver: ScriptedUpstream) -> None:
    elsewhere = ScriptedUpstream(script=(OK,))
    receiver.script = (answer(b"", status=307, headers=(f"location: {url_of(elsewhere)}",)),)
    post.add(url_of(receiver))
    post.reach()
    await post.turn()
    assert elsewhere.requests == []
    assert (post.sent()[0].state, post.sent()[0].status, post.sent()[0].answer) == ("waiting", 307, "307, a redirect: not followed")
    elsewhere.close()


async def test_what_does_not_answer_in_time_is_tried_again(db: Database, transport: HttpxTransport, clock: ManualClock, receiver: ScriptedUpstream) -> None:
    post = Post(db, transport, clock, timeout_s=0.2)
    receiver.script = (STALL,)
    post.add(url_of(receiver))
    post.reach()
    assert await post.turn() == 1
    assert (post.sent()[0].state, post.sent()[0].status) == ("waiting", None)
    assert "took longer than 0.2 s" in str(post.sent()[0].answer)


async def test_a_body_without_end_is_not_read(post: Post, receiver: ScriptedUpstream) -> None:
    receiver.script = (b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n" + bytes(64 * 1024), STALL)
    post.add(url_of(receiver))
    post.reach()
    async with asyncio.timeout(4):  # less than the timeout of a try
        assert await post.turn() == 1
    assert post.sent()[0].state == "done"


async def test_an_endpoint_that_hangs_holds_up_no_other(post: Post, receiver: ScriptedUpstream) -> None:
    until = threading.Event()
    hanging = ScriptedUpstream(script=(Wait(until), OK))
    post.add(url_of(hanging))
    post.add(url_of(receiver))
    for tenant in range(12):
        post.reach(tenant=f"t{tenant}")
    for expected in (8, 4, 4):  # 4 to each; then the one that hangs has its 4, and they are still under way
        assert await post.sender.turn() == expected
        async with asyncio.timeout(10):
            while len(receiver.requests) + 4 - sum(one.state == "done" for one in post.sent()) != 4 or len(post.sender._under_way) > 4:
                await asyncio.sleep(0.005)
    assert (len(receiver.requests), len(hanging.requests)) == (12, 4)
    assert await post.sender.turn() == 0
    until.set()
    await post.sender.settle()
    assert await post.turn() == 4
    assert await post.turn() == 4
    assert post.outcomes == ["delivered"] * 24
    assert len({seen.headers["webhook-id"] for seen in [*receiver.requests, *hanging.requests]}) == 24
    hanging.close()


async def test_two_senders_deliver_each_message_once(db: Database, transport: HttpxTransport, clock: ManualClock, receiver: ScriptedUpstream) -> None:
    other_db = Database(db.engine.url.render_as_string(hide_password=False))
    first, second = Post(db, transport, clock), Post(other_db, transport, clock)
    for number in range(5):
        first.add(url_of(receiver, f"/{number}"))
    for tenant in range(10):
        first.reach(tenant=f"t{tenant}")
    while sum(await asyncio.gather(first.turn(), second.turn())):
        pass
    assert len(receiver.requests) == len({seen.headers["webhook-id"] for seen in receiver.requests}) == 50
    assert {one.state for one in first.sent()} == {"done"}
    assert len(first.outcomes) + len(second.outcomes) == 50
    other_db.close()


def test_who_claims_while_another_does_takes_what_is_left_and_waits_for_nobody(postgres_url: str, clock: ManualClock) -> None:
    database = Database(postgres_url)
    database.migrate()
    webhooks.add_webhook(database, HASHER, url="https://hook.test/", now_us=1)
    (webhook,) = webhooks.list_webhooks(database)
    ids = {webhooks.queue_test(database, webhook.id, clock.now_us()).delivery.id for _ in range(4)}

    def claim(session: Session, limit: int) -> set[str]:
        return {one.delivery.id for one in store.claim(session, clock.now_us(), clock.now_us() + 1, limit=limit, each_max=9)}

    with database.write() as first, database.write() as second:
        mine, theirs = claim(first, 1), claim(second, 9)
    assert (len(mine), theirs) == (1, ids - mine)
    with database.write() as third:
        assert claim(third, 9) == set()
    database.close()


async def test_a_try_whose_end_was_not_written_is_made_again_once_its_time_is_over(
    post: Post, receiver: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    post.add(url_of(receiver))
    post.reach()
    with monkeypatch.context() as patched:

        def away(*_: object) -> None:
            raise BooksUnavailable("away")

        patched.setattr(store, "finish", away)
        assert await post.turn() == 1
    assert post.outcomes == []
    post.clock.advance(post.sender.try_us / 1_000_000 - 0.001)
    assert await post.turn() == 0
    post.clock.advance(0.001)
    assert await post.turn() == 1
    assert len({seen.headers["webhook-id"] for seen in receiver.requests}) == 1
    assert (len(receiver.requests), post.sent()[0].state, post.sent()[0].tries) == (2, "done", 2)


async def test_who_comes_late_with_a_claim_that_was_taken_over_changes_nothing(post: Post, receiver: ScriptedUpstream) -> None:
    post.add(url_of(receiver))
    post.reach()
    now_us = post.clock.now_us()

    def claim(at_us: int) -> store.Claimed:
        with post.db.write() as session:
            (one,) = store.claim(session, at_us, at_us + 10, limit=9, each_max=9)
        return one

    late, taken_over = claim(now_us), claim(now_us + 10)
    receiver.script = (FAILING,)
    await post.sender.deliver(late)
    assert (post.sent()[0].state, post.sent()[0].tries, post.sent()[0].status) == ("waiting", 2, None)
    receiver.script = (OK,)
    await post.sender.deliver(taken_over)
    assert (post.sent()[0].state, post.sent()[0].status) == ("done", 204)


async def test_it_follows_until_it_is_cancelled_also_past_a_database_that_was_away(
    post: Post, receiver: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "weir.webhooks")
    post.add(url_of(receiver))
    post.reach()
    outbox, failures = store.outbox, list[bool]()

    def sometimes(session: Any) -> Any:
        if len(failures) < 2:
            failures.append(True)
            raise BooksUnavailable("away")
        return outbox(session)

    monkeypatch.setattr(store, "outbox", sometimes)
    following = asyncio.create_task(post.sender.follow())
    async with asyncio.timeout(10):
        while post.outcomes != ["delivered"]:
            await asyncio.sleep(0.005)
        while post.sender.waiting:
            await asyncio.sleep(0.005)
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    assert len(failures) == 2
    assert [record.getMessage() for record in caplog.records] == ["webhooks wait for the database: away"]


async def test_cancelled_it_ends_after_what_it_was_doing_in_the_database(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go_on, left = threading.Event(), threading.Event(), threading.Event()

    def slow(_session: Any) -> store.Outbox:
        inside.set()
        go_on.wait(10)
        left.set()
        return store.Outbox(0, None)

    monkeypatch.setattr(store, "outbox", slow)
    following = asyncio.create_task(post.sender.follow())
    await asyncio.to_thread(inside.wait, 10)
    following.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not following.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await following
    assert left.is_set()


def test_an_endpoint_that_is_removed_takes_what_was_for_it_along(post: Post) -> None:
    added = post.add("https://hook.test/")
    post.reach()
    assert webhooks.remove_webhook(post.db, added.webhook.id, post.clock.now_us()) == added.webhook
    assert post.sent() == []
    assert webhooks.list_webhooks(post.db) == []
    for call in (webhooks.remove_webhook, webhooks.queue_test):
        with pytest.raises(NotFound, match=f"there is no webhook `{added.webhook.id}`"):
            call(post.db, added.webhook.id, post.clock.now_us())


def test_what_a_flush_wrote_for_an_endpoint_that_was_just_removed_waits_for_nobody(post: Post) -> None:
    added = post.add("https://hook.test/")
    webhooks.queue_test(post.db, added.webhook.id, post.clock.now_us())
    with post.db.write() as session:
        assert store.outbox(session) == (1, post.clock.now_us())
        session.connection().exec_driver_sql("DELETE FROM webhook")
        assert store.outbox(session) == (0, None)
        assert store.claim(session, post.clock.now_us(), post.clock.now_us() + 1, limit=9, each_max=9) == []


def test_no_secret_is_in_the_database(post: Post) -> None:
    added = post.add("https://hook.test/")
    assert added.secret is not None and added.secret.startswith("whsec_")
    with post.db.read() as session:
        rows = [repr(row) for table in ("webhook", "change") for row in session.connection().exec_driver_sql(f"SELECT * FROM {table}")]
    assert rows
    assert added.secret.removeprefix("whsec_") not in "".join(rows)


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("example.com/hook", "must begin with https://"),
        ("ftp://example.com/", "must begin with https://"),
        ("https:///hook", "must begin with https:// and name a host"),
        ("https://[::1", "cannot be read as a URL"),
        ("https://example.com:99999/", "cannot be read as a URL"),
        ("https://user:pw@example.com/", "holds a user or password"),
        ("https://example.com/#part", "the part after # is never sent"),
        ("https://example.com/a b", "without spaces"),
        ("https://bücher.example/", "of ASCII"),
        ("https://example.com/\r\nx: y", "without spaces"),
        ("https://example.com/" + "x" * 2000, "at most 2000 characters"),
        ("http://example.com/", "use https://, or set webhooks.allow_http"),
        ("http://127.0.0.1.example.com/", "use https://"),
        ("http://10.0.0.1/", "use https://"),
    ],
)
def test_a_url_that_is_no_endpoint_is_refused_with_what_to_do(url: str, part: str) -> None:
    with pytest.raises(Invalid, match=part) as refused:
        check_url(url)
    assert refused.value.field == "url"


@pytest.mark.parametrize("url", ["https://example.com", "https://example.com:8443/a?b=c", "http://localhost:1/", "http://127.0.0.5/", "http://[::1]:8080/x"])
def test_a_url_that_may_be_one(url: str) -> None:
    check_url(url)
    check_url("http://example.com/", allow_http=True)


def test_events_and_tenants_that_are_not_there_are_refused(post: Post) -> None:
    for events in ((), ("credits.gone",), ("webhook.test",)):
        with pytest.raises(Invalid, match=r"choose among credits\.threshold, credits\.exhausted"):
            post.add("https://hook.test/", events=events)
    with pytest.raises(NotFound, match="there is no tenant `nobody`"):
        post.add("https://hook.test/", tenant_id="nobody")
    post.add("https://hook.test/")
    with pytest.raises(Conflict, match="would be told the same twice"):
        post.add("https://hook.test/")
    assert msgspec.json.encode([one.events for one in webhooks.list_webhooks(post.db)]) == b"[null]"


async def test_an_error_that_nobody_foresaw_does_not_end_the_sender(
    post: Post, receiver: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    post.add(url_of(receiver))
    post.reach()
    tries: list[Session] = []

    def outbox(session: Session) -> store.Outbox:
        tries.append(session)
        if len(tries) <= 3:
            raise ProgrammingError("SELECT", {}, Exception("a column is gone"))
        return real(session)

    real = store.outbox
    monkeypatch.setattr(store, "outbox", outbox)
    following = asyncio.create_task(post.sender.follow())
    async with asyncio.timeout(10):
        while post.outcomes != ["delivered"] and not following.done():
            await asyncio.sleep(0.01)
    assert not following.done()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    (said,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert said.exc_info is not None, "once, and with its traceback"
