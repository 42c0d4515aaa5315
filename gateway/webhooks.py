"""Sends what waits in the outbox (`billing.alerts`) to webhooks and other destinations, beside the requests.

Every process looks every second, and a message is claimed by one of them. It is sent outside any transaction, and marked after: whoever dies in between
leaves it to be sent again under the same id. Of one endpoint a few are under way at a time, so one that does not answer holds up no other. Redirects are
not followed and an answer's body is not kept, so that an endpoint is no way to read what only this machine can reach.
"""

import asyncio
import logging
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

import msgspec
from sqlmodel import Session

from backends.errors import BackendError
from backends.transport.seam import Answer, Exchange, Origin, Timeouts, Transport
from billing.alerts import store
from billing.alerts.store import Claimed
from billing.alerts.webhook import ANSWER_CHARS_MAX, DONE, FAILED, GONE, TEST, WAITING, Delivery, next_try_us, signature, signing_key
from billing.db import Database
from billing.errors import BooksUnavailable
from billing.feeds.destination import request_of
from billing.tenants.keys import KeyHasher
from gateway.clock import Clock
from gateway.config.settings import WebhookSettings

T = TypeVar("T")

EVERY_S = 1.0
EACH_MAX = 4  # under way to one endpoint from this process
MARK_S = 20.0  # what a try may take beyond its own limit until it is marked: past it somebody else tries
STOP_S = 2.0
GONE_ANSWER = "the endpoint answered 410 Gone"
DRAIN_BYTES_MAX = 16 * 1024  # of an answer's body, so that its connection can be used again

log = logging.getLogger("weir.webhooks")


class Sender:
    """Delivers messages. `waiting` is how many wait in the whole installation; `count` is told what became of each try: delivered, retried, failed, gone."""

    def __init__(
        self,
        database: Database,
        hasher: KeyHasher,
        transport: Transport,
        clock: Clock,
        *,
        settings: WebhookSettings,
        count: Callable[[str], None] = lambda outcome: None,
        jitter: Callable[[], float] = random.random,
        every_s: float = EVERY_S,
    ) -> None:
        self._database = database
        self._hasher = hasher
        self._transport = transport
        self._clock = clock
        self._settings = settings
        self._count = count
        self._jitter = jitter
        self._every_s = every_s
        self._under_way: dict[asyncio.Task[None], str] = {}
        self._ended = asyncio.Event()
        self.waiting = 0

    @property
    def try_us(self) -> int:
        """How long a claimed message is this process's alone, in microseconds."""
        return int((self._settings.timeout_s + MARK_S) * 1_000_000)

    async def follow(self) -> None:
        """Deliver until cancelled; then what is under way has a moment to end. Nothing else ends it: each kind of trouble is said once until it works again."""
        said: set[str] = set()
        try:
            while True:
                self._ended.clear()
                try:
                    await self.turn()
                    said.clear()
                except Exception as error:  # noqa: BLE001 - whatever is wrong now, the messages of the next days have to be sent: logged and tried again
                    _say(error, said)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._every_s):
                        await self._ended.wait()
        finally:
            await self.settle(STOP_S)

    async def turn(self) -> int:
        """Claim what is due, as far as there is room, and begin to send it; return how many. Raises `BooksUnavailable`."""
        room, busy = self._settings.at_once_max - len(self._under_way), set(self._under_way.values())
        claimed = await _off_loop(lambda: self._claim(room, busy))
        for one in claimed:
            task = asyncio.create_task(self._run(one))
            self._under_way[task] = one.delivery.webhook_id
            task.add_done_callback(self._over)
        return len(claimed)

    async def settle(self, limit_s: float | None = None) -> None:
        """Wait for what is under way; past the limit it is cut off, and becomes due again by itself."""
        if self._under_way:
            _done, left = await asyncio.wait(self._under_way, timeout=limit_s)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def deliver(self, one: Claimed) -> Delivery:
        """Send one claimed message and write what became of it; return that. Raises `BooksUnavailable` when it cannot be written: it is sent again."""
        status, answer = await self._send(one)
        now_us, sent = self._clock.now_us(), one.delivery
        state, due_us, outcome = DONE, sent.due_us, "delivered"
        if status is None or not 200 <= status < 300:
            again_us = None if status == GONE or sent.type == TEST else next_try_us(sent.tries, sent.created_us, now_us, self._jitter())
            state, due_us = (FAILED, sent.due_us) if again_us is None else (WAITING, again_us)
            outcome = "gone" if status == GONE else "failed" if again_us is None else "retried"
        told = msgspec.structs.replace(sent, state=state, due_us=due_us, status=status, answer=answer)

        def write(session: Session) -> None:
            store.finish(session, told)
            if status == GONE:
                store.disable(session, told.webhook_id, GONE_ANSWER, now_us)

        await _off_loop(lambda: self._database.retrying(write))
        self._count(outcome)
        if outcome != "delivered":
            log.log(
                logging.INFO if outcome == "retried" else logging.WARNING, "webhook %s, message %s, try %d: %s (%s)",
                told.webhook_id, told.id, told.tries, outcome, answer,
            )  # fmt: skip
        return told

    def _claim(self, room: int, busy: set[str]) -> list[Claimed]:
        now_us = self._clock.now_us()
        with self._database.read() as session:
            box = store.outbox(session)
        self.waiting = box.waiting
        if room <= 0 or box.due_us is None or box.due_us > now_us:
            return []
        return self._database.retrying(lambda session: store.claim(session, now_us, now_us + self.try_us, limit=room, each_max=EACH_MAX, busy=busy))

    async def _run(self, one: Claimed) -> None:
        try:
            await self.deliver(one)
        except BooksUnavailable as error:
            log.warning("webhook message %s: what became of it cannot be written now, it will be sent again: %s", one.delivery.id, error)
        except Exception:  # whatever is wrong with one message, the others have to be sent
            log.exception("webhook message %s: could not be sent; it is tried again", one.delivery.id)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._under_way.pop(task, None)
        self._ended.set()

    async def _send(self, one: Claimed) -> tuple[int | None, str | None]:
        try:
            answer = await self._transport.open(self._exchange(one))
            await _drain(answer)
        except (BackendError, ValueError) as error:
            return None, f"no answer: {str(error) or type(error).__name__}"[:ANSWER_CHARS_MAX]
        redirect = f"{answer.status}, a redirect: not followed" if 300 <= answer.status < 400 else None
        return answer.status, GONE_ANSWER if answer.status == GONE else redirect

    def _exchange(self, one: Claimed) -> Exchange:
        parts, sent, limit_s = urlsplit(one.url), one.delivery, self._settings.timeout_s
        asked = request_of(one.kind, sent)
        return Exchange(
            method="POST",
            origin=Origin(parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)),
            path=parts.path.rstrip("/") + asked.path if asked.path else _path(parts),
            own_headers=(("user-agent", "weir"), *asked.headers, *self._proof(asked.credential, one)),
            body=(sent.body.encode(),),
            timeouts=Timeouts(connect_s=limit_s, first_byte_s=limit_s, idle_s=limit_s, total_s=limit_s),
        )

    def _proof(self, credential: str | None, one: Claimed) -> tuple[tuple[str, str], ...]:
        """Return the headers that say who sends: a webhook's signature, or the key of this installation at the destination.

        A key goes to the host that this gateway's configuration names for it, whatever an admin has registered. Raises `ValueError`.
        """
        sent = one.delivery
        if credential is None:
            at_s = self._clock.now_us() // 1_000_000
            signed = signature(signing_key(self._hasher, sent.webhook_id), sent.id, at_s, sent.body)
            return ("webhook-id", sent.id), ("webhook-timestamp", str(at_s)), ("webhook-signature", signed)
        settings = self._settings
        key, home = {"stripe": (settings.stripe_key, settings.stripe_url), "openmeter": (settings.openmeter_key, settings.openmeter_url)}[credential]
        if key is None and credential == "stripe":
            raise ValueError("webhooks.stripe_key is not set in this gateway's configuration")
        if key is not None and _host(one.url) != _host(home):
            raise ValueError(f"webhooks.{credential}_url of this gateway's configuration is another host, and its key is sent nowhere else")
        return () if key is None else (("authorization", f"Bearer {key.get_secret_value()}"),)


def _host(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _path(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _say(error: Exception, said: set[str]) -> None:
    kind = type(error).__name__
    if kind in said:
        return
    said.add(kind)
    if isinstance(error, BooksUnavailable):
        log.info("webhooks wait for the database: %s", error)
    else:
        log.error("webhooks cannot be sent now; they are tried again: %s", error, exc_info=error)


async def _drain(answer: Answer) -> None:
    read = 0
    with suppress(BackendError):  # the status is the answer; what comes after it decides nothing
        while read < DRAIN_BYTES_MAX and (data := await answer.read()):
            read += len(data)
    answer.abort()


async def _off_loop(work: Callable[[], T]) -> T:
    """Run work on a thread of its own, a daemon: a database that hangs holds up this and nothing else."""
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is the asker's: the future raises it there
            future.set_exception(error)

    threading.Thread(target=run, name="weir-webhooks", daemon=True).start()
    waiting = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        await asyncio.wait([waiting], timeout=STOP_S)  # what is closed after us is not to be closed under the thread
        if waiting.done():
            waiting.exception()
        raise
