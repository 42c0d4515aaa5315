"""ASGI without a framework, for the hot routes: reading a body with limits, and answering.

Every refusal of a body comes before anything is admitted or held.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gateway.errors import BadRequest, BodyTimeout, Refusal, TooLarge
from gateway.wire import headers as names
from gateway.wire.openai import error_body

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class ClientGone(Exception):
    """The client closed the connection before its request was whole."""


async def read_body(scope: Scope, receive: Receive, *, bytes_max: int, timeout_s: float) -> bytes:
    """Read a request's body. Raises `TooLarge`, `BodyTimeout`, `BadRequest` (an encoding we do not undo) or `ClientGone`."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > bytes_max:
            raise TooLarge(f"The body is {int(value)} bytes; at most {bytes_max} are accepted.")
        if name == b"content-encoding" and value.lower() != b"identity":
            raise BadRequest("Content-Encoding is not accepted for requests: send the body as it is.", param=None)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        return body
    try:
        async with asyncio.timeout(timeout_s):
            return await _read_more(body, receive, bytes_max)
    except TimeoutError:
        raise BodyTimeout(f"The body did not arrive within {timeout_s:g} s.") from None


async def _read_more(first: bytes, receive: Receive, bytes_max: int) -> bytes:
    parts, size, more = [first], len(first), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > bytes_max:
            raise TooLarge(f"The body is over {bytes_max} bytes, which is the most that is accepted.")
        more = message.get("more_body", False)
    return b"".join(parts)


class AsgiClient:
    """The application at the other end of an ASGI connection. `status` is None until its answer has begun; after the end nothing is sent any more."""

    __slots__ = ("_send", "ended", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None
        self.ended = False

    async def head(self, status: int, headers: Headers) -> None:
        """Begin the answer."""
        if self.ended:
            return
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        """Send a part of the body."""
        if self.ended:
            return
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last part."""
        if self.ended:
            return
        self.ended = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})


async def refuse(client: AsgiClient, refusal: Refusal, shown_id: str) -> None:
    """Answer with a refusal in OpenAI's shape, its retry advice in headers."""
    body = error_body(refusal, shown_id)
    headers: Headers = [(names.REQUEST_ID, shown_id.encode()), names.CONTENT_JSON, (b"content-length", b"%d" % len(body)), *refusal.headers]
    if refusal.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(refusal.retry_after_s + 0.499))))
        headers.append((b"retry-after-ms", b"%d" % (refusal.retry_after_s * 1000)))
    if not refusal.retryable:
        headers.append((b"x-should-retry", b"false"))
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await client.head(refusal.status, headers)
    await client.end(body)


def secret_of(headers: Headers) -> str:
    """Return the API key a request carries, as a bearer token or as `api-key`; "" when there is none that could be one."""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, secret = value.partition(b" ")
            return secret.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""
        if name in (b"api-key", b"x-api-key"):
            return value.strip().decode("latin-1")
    return ""
