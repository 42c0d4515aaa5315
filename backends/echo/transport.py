"""The echo's transport: it answers an exchange inside this process, with the bytes that a server of OpenAI's dialect would send.

Every read is one chunk, so a stream comes token by token. A request may ask for trouble (`"echo": {"cut_after": 3}`), so that tests
can have a slow, refusing, broken or silent upstream without a socket.
"""

import asyncio
from collections.abc import Iterator

import msgspec

from backends.config import EchoConfig
from backends.echo.words import DIMENSIONS, DIMENSIONS_MAX, Asked, Wishes, answers, in_base64, inputs, prompt_count, vector
from backends.errors import Disconnected, TimedOut
from backends.transport.seam import Answer, Exchange

FINGERPRINT = "weir-echo"
_CREATED = 0  # an echo is the same every time, and so is its date
_encode = msgspec.json.encode


class EchoAnswer(Answer):
    """An answer whose chunks are known; `pauses` are seconds before the first and between the others."""

    def __init__(self, status: int, chunks: Iterator[bytes], *, content_type: str, wishes: Wishes, idle_s: float, pauses: tuple[float, float] = (0, 0)) -> None:
        self.status = status
        self.headers = [(b"content-type", content_type.encode()), (b"server", FINGERPRINT.encode())]
        self.aborted = False
        self.chunks_read = 0
        self._chunks = chunks
        self._wishes = wishes
        self._idle_s = idle_s
        self._pauses = pauses

    async def read(self) -> bytes:
        """Return the next chunk; b"" after the last. Raises `Disconnected` and `TimedOut` where the request asked for that."""
        if self.aborted:
            raise Disconnected("echo: read after abort")
        await asyncio.sleep(self._pauses[self.chunks_read > 0])
        if self._wishes.cut_after is not None and self.chunks_read >= self._wishes.cut_after:
            raise Disconnected("echo: cut, as the request asked")
        if self._wishes.stall_after is not None and self.chunks_read >= self._wishes.stall_after:
            await asyncio.sleep(self._idle_s)
            raise TimedOut("idle", self._idle_s)
        self.chunks_read += 1
        return next(self._chunks, b"")

    def abort(self) -> None:
        """Stop answering."""
        self.aborted = True


class EchoTransport:
    """Answers chat/completions, completions, embeddings and models; anything else is a 404. `answers` keeps none; `opened` counts them."""

    def __init__(self, config: EchoConfig) -> None:
        self._config = config
        self.opened = 0

    async def open(self, exchange: Exchange) -> Answer:
        """Answer an exchange. Raises nothing: what is wrong with a request is an answer of status 400."""
        self.opened += 1
        endpoint = exchange.path.strip("/").removeprefix("v1/")
        if exchange.method == "GET" and endpoint == "models":
            body = {"object": "list", "data": [{"id": "echo", "object": "model", "created": _CREATED, "owned_by": FINGERPRINT}]}
            return self._whole(200, body, Wishes(), exchange)
        try:
            asked = msgspec.json.decode(b"".join(exchange.body), type=Asked)
            wishes = asked.echo if isinstance(asked.echo, Wishes) else Wishes()
            return self._answer(endpoint, asked, wishes, exchange)
        except msgspec.DecodeError as error:
            return self._refusal(400, f"echo: {error}", exchange)

    async def aclose(self) -> None:
        """Nothing is held."""

    def _answer(self, endpoint: str, asked: Asked, wishes: Wishes, exchange: Exchange) -> EchoAnswer:
        if wishes.status != 200:
            return self._refusal(wishes.status, "echo: refused, as the request asked", exchange)
        request_id = next((value for name, value in exchange.own_headers if name == "x-request-id"), "echo")
        if endpoint == "embeddings" and asked.input is not None:
            return self._whole(200, embeddings(asked), wishes, exchange)
        chat = endpoint == "chat/completions"
        if not (chat and asked.messages is not None) and not (endpoint == "completions" and asked.prompt is not None):
            missing = {"chat/completions": "messages", "completions": "prompt", "embeddings": "input"}.get(endpoint)
            return self._refusal(400 if missing else 404, f"echo: `{missing}` is missing" if missing else "echo: there is no such path", exchange)
        if asked.stream:
            first_s, token_s = self._pauses(wishes)
            return EchoAnswer(
                200,
                events(asked, chat, request_id, wishes.usage),
                content_type="text/event-stream",
                wishes=wishes,
                idle_s=exchange.timeouts.idle_s,
                pauses=(first_s, token_s),
            )
        return self._whole(200, completion(asked, chat, request_id, wishes.usage), wishes, exchange, paused=True)

    def _pauses(self, wishes: Wishes) -> tuple[float, float]:
        first = self._config.first_token_ms if wishes.first_token_ms is None else min(max(wishes.first_token_ms, 0), 60_000)
        token = self._config.token_ms if wishes.token_ms is None else min(max(wishes.token_ms, 0), 60_000)
        return first / 1000, token / 1000

    def _whole(self, status: int, body: object, wishes: Wishes, exchange: Exchange, *, paused: bool = False) -> EchoAnswer:
        pauses = (self._pauses(wishes)[0], 0.0) if paused else (0.0, 0.0)
        return EchoAnswer(status, iter((_encode(body),)), content_type="application/json", wishes=wishes, idle_s=exchange.timeouts.idle_s, pauses=pauses)

    def _refusal(self, status: int, message: str, exchange: Exchange) -> EchoAnswer:
        kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
        return self._whole(status, {"error": {"message": message, "type": kind, "param": None, "code": None}}, Wishes(), exchange)


def _usage(asked: Asked, produced: int) -> dict[str, int]:
    prompt = prompt_count(asked)
    return {"prompt_tokens": prompt, "completion_tokens": produced, "total_tokens": prompt + produced}


def _head(asked: Asked, chat: bool, request_id: str, *, chunk: bool) -> dict[str, object]:
    kind = "chat.completion" + (".chunk" if chunk else "") if chat else "text_completion"
    return {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{request_id}",
        "object": kind,
        "created": _CREATED,
        "model": asked.model,
        "system_fingerprint": FINGERPRINT,
    }


def completion(asked: Asked, chat: bool, request_id: str, with_usage: bool) -> dict[str, object]:
    """Write a whole answer."""
    choices: list[dict[str, object]] = []
    produced = 0
    for index, (said, reason) in enumerate(answers(asked)):
        produced += len(said)
        text = "".join(said)
        content: dict[str, object] = {"message": {"role": "assistant", "content": text, "refusal": None}} if chat else {"text": text}
        choices.append({"index": index, **content, "logprobs": None, "finish_reason": reason})
    body = {**_head(asked, chat, request_id, chunk=False), "choices": choices}
    return {**body, "usage": _usage(asked, produced)} if with_usage else body


def events(asked: Asked, chat: bool, request_id: str, with_usage: bool) -> Iterator[bytes]:
    """Write a stream, one event at a time: a token each, then the finish, then the usage if it is asked for, then the end."""
    head = _head(asked, chat, request_id, chunk=True)
    produced = 0
    for index, (said, reason) in enumerate(answers(asked)):
        for number, token in enumerate(said):
            produced += 1
            delta: dict[str, object] = {"role": "assistant", "content": token} if number == 0 else {"content": token}
            content: dict[str, object] = {"delta": delta} if chat else {"text": token}
            yield _event({**head, "choices": [{"index": index, **content, "logprobs": None, "finish_reason": None}]})
        nothing: dict[str, object] = {"delta": {}} if chat else {"text": ""}
        yield _event({**head, "choices": [{"index": index, **nothing, "logprobs": None, "finish_reason": reason}]})
    if with_usage and asked.stream_options is not None and asked.stream_options.include_usage:
        yield _event({**head, "choices": [], "usage": _usage(asked, produced)})
    yield b"data: [DONE]\n\n"


def _event(chunk: dict[str, object]) -> bytes:
    return b"data: " + _encode(chunk) + b"\n\n"


def embeddings(asked: Asked) -> dict[str, object]:
    """Write the vectors of the inputs."""
    dimensions = min(max(asked.dimensions or DIMENSIONS, 1), DIMENSIONS_MAX)
    data: list[dict[str, object]] = []
    count = 0
    for index, (text, length) in enumerate(inputs(asked)):
        count += length
        values = vector(text, dimensions)
        data.append({"object": "embedding", "index": index, "embedding": in_base64(values) if asked.encoding_format == "base64" else values})
    return {"object": "list", "data": data, "model": asked.model, "usage": {"prompt_tokens": count, "total_tokens": count}}
