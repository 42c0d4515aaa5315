"""What a client is told when the upstream did not serve it: the upstream's own refusal, cleaned, or our word for the failure.

A refusal of the request itself (4xx) is final and passed on with its status and code. Everything that another backend may do
better (overload, faults, our own credentials being refused there) lets the next attempt be made.
"""

import re
from typing import TYPE_CHECKING

import msgspec

from backends.errors import BackendError, BadAnswer, Saturated, TimedOut, Unreachable
from gateway.errors import BackendBadAnswer, BackendTimeout, BackendUnreachable, Overloaded, Refusal, UpstreamRefused
from gateway.wire.headers import find

if TYPE_CHECKING:
    from backends.planner import Attempt

MESSAGE_MAX = 2000

_ADDRESS = re.compile(r"(?:https?|file)://\S+|(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?")
_KEY = re.compile(r"\b(?:sk|pk|key)-[\w.*-]{6,}|\bBearer [\w.*-]{6,}")
_AGAIN_ELSEWHERE = frozenset({404, 405, 408, 429})


class NotServed(Exception):
    """The upstream answered with a refusal or a fault. `final`: no other backend would answer otherwise."""

    def __init__(self, refusal: Refusal, *, final: bool) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
        self.final = final


def upstream_refused(status: int, headers: list[tuple[bytes, bytes]], body: bytes, attempt: "Attempt", public_model: str) -> NotServed:
    """Read an upstream's refusal. What the log gets of it is no text: that may repeat a prompt, or a key."""
    message, kind, code, param = _read_error(body)
    internal = f"answered {status} with {len(body)} bytes, type {kind}, code {code}, param {param}"
    retry_after_s = _seconds(find(headers, b"retry-after"))
    if not 400 <= status < 500:
        return NotServed(_server_fault(status, internal, retry_after_s), final=False)
    if status in (401, 402, 403, 407):  # it is our credentials that were refused, and no business of the client's
        refused = BackendUnreachable("The model server did not accept the gateway's own credentials. Tell your admin.", internal=internal)
        return NotServed(refused, final=False)
    message = clean(message or f"The model server refused the request with status {status}.", public_model, attempt.model)
    code = attempt.pool.provider.error_code(status, kind, message) or code
    refusal = UpstreamRefused(status, message, type=kind or "invalid_request_error", code=code, param=param, internal=internal)
    if status == 429:
        refusal.type, refusal.code, refusal.retry_after_s = "rate_limit_error", code or "rate_limit_exceeded", retry_after_s
    return NotServed(refusal, final=status not in _AGAIN_ELSEWHERE)


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


def _server_fault(status: int, internal: str, retry_after_s: float | None) -> Refusal:
    if status in (503, 529):
        return Overloaded("The model server is overloaded. Try again in a moment.", internal=internal, retry_after_s=retry_after_s or 2)
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
