"""The application at the other end of one request, without HTTP's framing: what the flow reads from it and writes to it.

There are two: `gateway/server/hot.py`, straight on the connection, and `AsgiCaller` (`asgi.py`) for what comes by way of an ASGI server.
Every refusal of a body comes before anything is admitted or held.
"""

from collections.abc import Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from gateway.errors import BadRequest, Refusal, TooLarge
from gateway.wire import headers as names
from gateway.wire.headers import Headers, lines
from gateway.wire.openai import error_body

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection before its request was whole."""


class Client(Protocol):
    """Where an answer goes. After its end nothing is sent any more."""

    async def answer(self, status: int, written: bytes, body: bytes) -> None:
        """Send an answer that is known whole. `written` are its header lines (`headers.lines`)."""
        ...

    async def head(self, status: int, written: bytes) -> None:
        """Begin an answer whose body comes in parts."""
        ...

    def put(self, data: bytes) -> bool:
        """Send a part of the body now; False: before the next, wait until `drained`."""
        ...

    async def drained(self) -> None:
        """Wait until the client's socket can take more."""
        ...

    async def write(self, data: bytes) -> None:
        """Send a part of the body; returns when the client's socket can take more."""
        ...

    async def end(self, data: bytes = b"") -> None:
        """Send the last part."""
        ...


class Caller(Client, Protocol):
    """One request, and where its answer goes. `headers` are the request's (`headers.by_name`); `status` is None until the answer has begun."""

    headers: Mapping[bytes, bytes]
    status: int | None
    ended: bool

    async def body(self, bytes_max: int, timeout_s: float) -> bytes:
        """Read the request's body. Raises `TooLarge`, `BodyTimeout`, `BadRequest` (an encoding we do not undo) or `ClientGone`."""
        ...

    async def while_there(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Await `work`; when the client leaves before the answer's end, cancel it. None: the client left."""
        ...


def check_body(headers: Mapping[bytes, bytes], bytes_max: int) -> None:
    """Refuse, by the headers of a request, a body that is too large or encoded. Raises `TooLarge` or `BadRequest`."""
    length = headers.get(b"content-length")
    if length is not None and length.isdigit() and int(length) > bytes_max:
        raise TooLarge(f"The body is {int(length)} bytes; at most {bytes_max} are accepted.")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise BadRequest("Content-Encoding is not accepted for requests: send the body as it is.", param=None)


def too_large(bytes_max: int) -> TooLarge:
    """Make the refusal of a body that turned out to be too large."""
    return TooLarge(f"The body is over {bytes_max} bytes, which is the most that is accepted.")


async def refuse(caller: Caller, refusal: Refusal, shown_id: str) -> None:
    """Answer with a refusal in OpenAI's shape, its retry advice in headers."""
    body = error_body(refusal, shown_id)
    headers: Headers = [(names.REQUEST_ID, shown_id.encode()), names.CONTENT_JSON, *refusal.headers]
    if refusal.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(refusal.retry_after_s + 0.499))))
        headers.append((b"retry-after-ms", b"%d" % (refusal.retry_after_s * 1000)))
    if not refusal.retryable:
        headers.append((b"x-should-retry", b"false"))
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await caller.answer(refusal.status, lines(headers), body)


def secret_of(headers: Mapping[bytes, bytes]) -> str:
    """Return the API key a request carries, as a bearer token, else as `api-key` or `x-api-key`; "" when there is none that could be one.

    An Authorization of another kind is for somebody on the way, and says nothing here.
    """
    scheme, _, secret = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return secret.strip().decode("latin-1")
    value = headers.get(b"api-key") or headers.get(b"x-api-key") or b""
    return value.strip().decode("latin-1")
