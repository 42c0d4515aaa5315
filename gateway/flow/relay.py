"""Queued -> Relayed: hand an upstream's answer to the client as it came, and see what it used.

The first byte commits the attempt: an error before it may be tried elsewhere, one after it is the client's to see. The end of an
answer is sent only after its charge is in the journal (with `books.durability: disk`, on the medium), so whoever has seen the end
of an answer has been metered for it.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from backends.errors import BackendError, BadAnswer, Disconnected, Unreachable
from backends.provider import Usage
from backends.sse import text_of_answer
from backends.stream import StreamTap
from backends.transport.seam import Answer
from billing.money import format_credits
from gateway.errors import BackendBadAnswer, BackendDisconnected, Refusal
from gateway.flow import disclose
from gateway.flow.estimate import Said, estimate, said
from gateway.flow.refuse import upstream_refused
from gateway.flow.settle import Settler
from gateway.flow.states import Relayed, Settled
from gateway.wire.caller import Client
from gateway.wire.headers import find
from gateway.wire.openai import error_event, with_cost

if TYPE_CHECKING:
    from gateway.services import Services

log = logging.getLogger("weir.relay")

ANSWER_BYTES_MAX = 256 * 1024 * 1024
PROGRESS_EVERY_S = 2.0
END_WAIT_S = 1.0

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def relay_whole(services: "Services", settler: Settler, answer: Answer, client: Client) -> None:
    """Relay an answer that is not streamed. Raises `NotServed` for a refusal, and `BackendError`; the client has seen nothing then."""
    body = await answer.whole(ANSWER_BYTES_MAX)
    if body is None:
        raise BadAnswer(f"answered with more than {ANSWER_BYTES_MAX} bytes")
    call, attempt = settler.reserved.admitted.received.call, settler.attempt
    assert attempt is not None
    status = attempt.pool.provider.true_status(answer.status, body)
    if status != 200:
        raise upstream_refused(status, answer.headers, body, attempt, call.model)
    try:
        members = _members.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadAnswer(f"answered 200 with {len(body)} bytes that are no JSON object") from error
    heard = said(settler.reserved, attempt, members.get("usage"), final=True, tier=members.get("service_tier") if settler.tier is not None else None)
    complete = heard.complete
    usage = heard.usage if complete else await estimate(settler.reserved, attempt, text_of_answer(body), heard)
    settler.upstream_s += services.clock.monotonic_s() - settler.sent_s
    settled = settler.settle(Relayed(usage=usage, source="reported" if complete else "estimated", outcome="complete", status=200))
    body = with_cost(body, members, cost_members(settled))
    await recorded(services)
    if settler.begun:  # as a stream, while it waited: a server that does not stream has its answer sent as the one event
        await client.end(b"data: " + body.replace(b"\n", b" ") + b"\n\ndata: [DONE]\n\n")
        return
    await client.answer(200, disclose.whole(services, settler, settled), body)


async def relay_stream(services: "Services", settler: Settler, answer: Answer, client: Client) -> bool:
    """Relay a streamed answer. Raises `BackendError` while the client has seen nothing of it; after that it ends the stream with an error event: False."""
    stream = Stream(services, settler, answer)
    data = await answer.read()
    if not data:
        raise BadAnswer("answered 200 with an empty stream")
    out = stream.tap.feed(data)  # raises BadAnswer for what is no event stream
    if stream.tap.error is not None and not stream.tap.text():
        raise Unreachable("answered 200 with an error event")
    if settler.begun:  # its head went out while it waited: what has come to be known since follows as a comment
        await client.write(disclose.comment(settler))
    else:
        await client.head(200, disclose.stream(services, settler))
    settler.first_us = services.clock.now_us()
    try:
        await stream.run(out, client)
        return True
    except BackendError as error:
        refusal: Refusal = BackendDisconnected("The model server was lost in the middle of its answer.", internal=str(error))
        if isinstance(error, BadAnswer):
            refusal = BackendBadAnswer("The model server sent something that is no answer.", internal=str(error))
        log.warning("request %s: %s", settler.reserved.admitted.received.call.request_id, error)
        if not settler.ended:
            await stream.settle_cut(502, ask=False)
        services.metrics.refused(refusal.code or str(refusal.status))
        await recorded(services)
        await client.end(error_event(refusal, settler.reserved.admitted.received.shown_id))
        return False
    finally:
        if not settler.ended:  # the client left, or we are stopping: the upstream stops now, and what was produced is charged
            answer.abort()
            stream.settle_cut_soon()


def settle_unseen(settler: Settler) -> None:
    """End a request whose client left before it saw anything: the upstream was stopped, and the prompt that it had read is charged."""

    async def prompt_only() -> None:
        assert settler.attempt is not None
        usage = await estimate(settler.reserved, settler.attempt, "", Said(counts_output=False))
        if not settler.ended:
            settler.settle(Relayed(usage=usage, source="partial", outcome="cut", status=499))

    if not settler.deferred:
        settler.defer(prompt_only())


class Stream:
    """One stream under way: the tap on it, and how it is settled however it ends."""

    def __init__(self, services: "Services", settler: Settler, answer: Answer) -> None:
        assert settler.attempt is not None
        self.services, self.settler, self.answer = services, settler, answer
        self.attempt = settler.attempt
        self.broken: BackendError | None = None  # what came is no stream
        self._monotonic_s = services.clock.monotonic_s
        self._put: Callable[[bytes], bool]
        self._progress_s = 0.0  # when the journal is next told what was used so far
        call = settler.reserved.admitted.received.call
        self.tap = StreamTap(strip_usage=not call.wants_usage, drop_continuous=b"continuous_usage_stats" not in _options(call.members))

    async def run(self, out: bytes, client: Client) -> None:
        """Relay from the second segment on, to the settled end."""
        tap, self._put = self.tap, client.put
        self._progress_s = self._monotonic_s() + PROGRESS_EVERY_S
        if out:
            await client.write(out)
        while not tap.over:
            if await self.answer.pump(self._took):
                if out := tap.close():
                    await client.write(out)
                break
            if self.broken is not None:
                raise self.broken
            await client.drained()
        if tap.error is not None:
            raise Disconnected("the stream ended with an error event")
        settled = self.settler.settle(await self._complete())
        await recorded(self.services)
        await client.end(tap.tail(cost_members(settled)))
        await self._finish()

    def _took(self, data: bytes) -> bool:
        """Pass on what has arrived; False: the client's socket is full, or there is nothing more to come."""
        try:
            out = self.tap.feed(data)
        except BackendError as error:
            self.broken = error
            return False
        room = self._put(out) if out else True
        if self._monotonic_s() > self._progress_s:
            self._progress_s = self._monotonic_s() + PROGRESS_EVERY_S
            self._progress()
        return room and not self.tap.over

    async def settle_cut(self, status: int, *, ask: bool = True) -> None:
        """Charge what was produced until the answer broke off. `ask` False: the server was just lost, so its tokenizer is not asked."""
        heard = self._said(final=self.tap.ended)
        usage = heard.usage if heard.complete else await estimate(self.settler.reserved, self.attempt, self.tap.text(), heard, ask=ask)
        if not self.settler.ended:  # a stop may have given it up meanwhile: then the journal's evidence stands
            self.settler.settle(Relayed(usage=usage, source="partial", outcome="cut", status=status))

    def settle_cut_soon(self) -> None:
        """The same when nobody can wait: at once if the usage is known, else as a task of the gateway's own."""
        heard = self._said(final=self.tap.ended)
        if heard.complete:
            self.settler.settle(Relayed(usage=heard.usage, source="partial", outcome="cut", status=499))
        else:
            self.settler.defer(self.settle_cut(499))

    async def _complete(self) -> Relayed:
        heard = self._said(final=True)
        usage = heard.usage if heard.complete else await estimate(self.settler.reserved, self.attempt, self.tap.text(), heard)
        return Relayed(usage=usage, source="reported" if heard.complete else "estimated", outcome="complete", status=200)

    def _said(self, *, final: bool) -> Said:
        tier = self.tap.service_tier if self.settler.tier is not None else None  # one that nobody bought decides nothing
        return said(self.settler.reserved, self.attempt, self.tap.usage, final=final, tier=tier)

    def _progress(self) -> None:
        heard = self._said(final=False)
        usage = heard.usage or Usage()
        if usage.input is None:
            usage = msgspec.structs.replace(usage, input=self.settler.reserved.prompt_tokens_max // 4)
        if usage.output is None:
            usage = msgspec.structs.replace(usage, output=max(self.tap.events, heard.output_min))  # an event is about a token
        self.settler.progress(usage)

    async def _finish(self) -> None:
        """Read the end of the body, so that the connection can be used again; a server that does not end it is left."""
        try:
            async with asyncio.timeout(END_WAIT_S):
                while await self.answer.read():
                    pass
        except (TimeoutError, BackendError):
            self.answer.abort()


async def recorded(services: "Services") -> None:
    """Wait until what was settled by now is as durable as the settings ask. At once with `process`."""
    waiting = services.recorder.durable()
    if waiting is not None:
        await waiting


def cost_members(settled: Settled) -> bytes:
    """Write the members that go into an answer's usage object: its cost in credits, exact, and of what it is made.

    Where we counted because the server did not say, or did not say all, the tokens that were charged are in it too.
    """
    cost, source = settled.cost, settled.source
    covered = cost if settled.cover_ncr == settled.charge_ncr else format_credits(settled.cover_ncr)
    counted = "" if source == "reported" else f',"input_tokens":{settled.input},"output_tokens":{settled.output}'
    details = f'"unit":"credits","lane":"{settled.lane.text}","paid_from_credits":{covered},"usage_source":"{source}"{counted}'
    return f'"cost":{cost},"cost_details":{{{details}}}'.encode()


def _options(members: dict[str, msgspec.Raw]) -> bytes:
    raw = members.get("stream_options")
    return b"" if raw is None else bytes(raw)


def is_stream(answer: Answer) -> bool:
    """Tell whether an answer is an event stream, by its content type."""
    return (find(answer.headers, b"content-type") or b"").lower().startswith(b"text/event-stream")
