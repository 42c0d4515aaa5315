"""What a client is told when the upstream did not serve it: the upstream's own refusal, cleaned, or our word for the failure.

A refusal of the request itself (4xx) is final and passed on with its status and code. Everything that another backend may do
better (overload, faults, our own credentials being refused there) lets the next attempt be made.
"""

import re

import msgspec

from backends.errors import BackendError, BadAnswer, Saturated, TimedOut, Unreachable
from backends.transport.seam import Answer
from gateway.errors import BackendBadAnswer, BackendTimeout, BackendUnreachable, Overloaded, Refusal, UpstreamRefused
from gateway.flow.relay import read_whole
from gateway.wire.headers import find

BODY_BYTES_MAX = 1 << 20
MESSAGE_MAX = 2000

_ADDRESS = re.compile(r"(?:https?|file)://\S+|(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?")
_KEY = re.compile(r"\b(?:sk|pk|key|Bearer)[-_ ][\w.*-]{6,}")
_AGAIN_ELSEWHERE = frozenset({401, 402, 403, 404, 405, 408, 429})


async def upstream_refusal(answer: Answer, public_model: str, upstream_model: str) -> tuple[Refusal, bool]:
    """Read an answer that is not 200 into a refusal, and tell whether it is final (no other backend would answer otherwise)."""
    try:
        body = await read_whole(answer, BODY_BYTES_MAX)
    except BackendError:
        body = b""
    status, internal = answer.status, f"answered {answer.status}: {body[:500]!r}"
    message, kind, code, param = _read_error(body)
    if not 400 <= status < 500:
        return _server_fault(status, internal, find(answer.headers, b"retry-after")), False
    if status in (401, 402, 403, 407):  # it is our credentials that were refused, and no business of the client's
        return BackendUnreachable("The model server did not accept the gateway's own credentials. Tell your admin.", internal=internal), False
    message = clean(message or f"The model server refused the request with status {status}.", public_model, upstream_model)
    refusal = UpstreamRefused(status, message, type=kind or "invalid_request_error", code=code, param=param, internal=internal)
    if status == 429:
        refusal.type, refusal.code = "rate_limit_error", code or "rate_limit_exceeded"
        refusal.retry_after_s = _seconds(find(answer.headers, b"retry-after"))
    return refusal, status not in _AGAIN_ELSEWHERE


def not_served(failure: BackendError | Refusal | None, model: str) -> Refusal:
    """Turn the last attempt's failure into the client's refusal."""
    internal = str(failure)
    if isinstance(failure, Refusal):
        return failure
    if isinstance(failure, TimedOut):
        return BackendTimeout(f"The model server of `{model}` took too long ({failure.phase}). Try again.", internal=internal)
    if isinstance(failure, BadAnswer):
        return BackendBadAnswer(f"The model server of `{model}` sent something that is no answer. Try again.", internal=internal)
    if failure is None or isinstance(failure, Saturated):
        return Overloaded(f"No model server of `{model}` can take a request now. Try again in a moment.", internal=internal, retry_after_s=2)
    what = "could not be reached" if isinstance(failure, Unreachable) else "was lost before it answered"
    return BackendUnreachable(f"The model server of `{model}` {what}. Try again.", internal=internal)


def clean(message: str, public_model: str, upstream_model: str) -> str:
    """Take a backend's own names out of a message: its model's, its addresses, anything that looks like a key."""
    message = message.replace(upstream_model, public_model) if upstream_model else message
    return _KEY.sub("[hidden]", _ADDRESS.sub("[backend]", message))[:MESSAGE_MAX]


def _server_fault(status: int, internal: str, retry_after: bytes | None) -> Refusal:
    if status in (503, 529):
        return Overloaded("The model server is overloaded. Try again in a moment.", internal=internal, retry_after_s=_seconds(retry_after) or 2)
    if status == 504:
        return BackendTimeout("The model server took too long. Try again.", internal=internal)
    if status < 500:
        return BackendBadAnswer("The model server sent something that is no answer. Tell your admin.", internal=internal)
    return BackendUnreachable("The model server failed. Try again.", internal=internal)


def _read_error(body: bytes) -> tuple[str | None, str | None, str | None, str | None]:
    """Read message, type, code and param from the shapes that errors come in: OpenAI's, vLLM's own, FastAPI's detail, plain text."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None, None, None, None  # HTML and the like are for the log
    error = data.get("error", data) if isinstance(data, dict) else None
    if isinstance(error, str):
        return error, None, None, None
    if not isinstance(error, dict):
        return None, None, None, None
    message = error.get("message") or error.get("detail")
    return _text(message), _text(error.get("type")), _text(error.get("code")), _text(error.get("param"))


def _text(value: object) -> str | None:
    return value[:MESSAGE_MAX] if isinstance(value, str) and value else None


def _seconds(value: bytes | None) -> float | None:
    return int(value) if value and value.isdigit() and len(value) < 6 else None
