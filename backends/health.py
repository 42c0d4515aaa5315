"""Whether a replica may be used, and what it says of itself.

Two sources, one verdict: requests that fail in a row eject a replica (passive), and a probe's success lets it back (active). A server
that answers probes but fails requests is let back at once only twice; after that it waits out its back-off.
"""

import logging
import math
from typing import Any

import msgspec

from backends.errors import BackendError
from backends.provider import Provider, Target
from backends.replica import Replica
from backends.sse import UNREADABLE
from backends.transport.seam import Exchange, Transport

SICK = frozenset((502, 503, 504))  # the server is at fault; a 500 may be the request's
FAILURES_MAX = 3  # in a row
BACK_OFF_S = 1.0
BACK_OFF_S_MAX = 60.0
PROBES_MISSED_MAX = 2  # in a row
QUICK_RESTORES = 2
ANSWER_BYTES_MAX = 8 * 2**20  # the longest list of models seen is below 1 MB

log = logging.getLogger("weir.backends")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica said of itself. `takes_priority` None: nobody knows."""

    models: tuple[str, ...] = ()
    context_tokens: dict[str, int] = {}
    takes_priority: bool | None = None


def failed(replica: Replica, now_s: float) -> bool:
    """Count a failure; True when it ejects the replica. The back-off doubles with each ejection."""
    replica.failures += 1
    if replica.failures < FAILURES_MAX or replica.ejected_until_s > now_s:
        return False
    eject(replica, now_s)
    return True


def eject(replica: Replica, now_s: float) -> None:
    """Take a replica out for its back-off. Its next failure after that ejects it again."""
    replica.failures = FAILURES_MAX - 1
    replica.ejections += 1
    replica.ejected_until_s = now_s + min(BACK_OFF_S * 2.0 ** min(replica.ejections - 1, 16), BACK_OFF_S_MAX)


def answered(replica: Replica) -> None:
    """Note an exchange that went well to its end: nothing is held against the replica any more."""
    replica.failures = replica.ejections = 0
    replica.ejected_until_s = 0.0


def hold_out(replica: Replica) -> None:
    """Take a replica out until a probe succeeds: it does not answer probes, so no request needs to find that out."""
    replica.ejected_until_s = math.inf


def probe_succeeded(replica: Replica, now_s: float) -> bool:
    """Note a good probe; True when it let the replica back."""
    held_out = replica.ejected_until_s == math.inf
    if replica.ejected_until_s <= now_s or (replica.ejections > QUICK_RESTORES and not held_out):
        return False
    replica.ejected_until_s = 0.0
    return True


def usable(replica: Replica, now_s: float) -> bool:
    """Say whether a request may go there now."""
    return not replica.draining and replica.ejected_until_s <= now_s


async def ask(transport: Transport, exchange: Exchange) -> tuple[int, bytes]:
    """Make a small exchange and return its status and whole body. Raises as transports do; a body over 8 MB ends it with what came."""
    answer = await transport.open(exchange)
    try:
        parts: list[bytes] = []
        size = 0
        while part := await answer.read():
            parts.append(part)
            size += len(part)
            if size > ANSWER_BYTES_MAX:
                break
        return answer.status, b"".join(parts)
    finally:
        answer.abort()


async def probe(transport: Transport, exchange: Exchange) -> str | None:
    """Ask a replica whether it is alive; None if so, else why not. A refused key is no death: requests will say more."""
    try:
        status, _ = await ask(transport, exchange)
    except BackendError as error:
        return str(error) or type(error).__name__
    return f"{exchange.path} answered {status}" if status >= 500 else None


async def learn(provider: Provider, target: Target, transport: Transport, *, priority: bool) -> Facts:
    """Ask one of the operator's own servers for its models and their context (tokens) and, if `priority`, whether it takes priorities.

    What it does not say stays unknown; nothing is raised.
    """
    models: tuple[str, ...] = ()
    context: dict[str, int] = {}
    try:
        listing = provider.models_exchange(target)
        if listing is not None:
            models, context = _read_models(await ask(transport, listing))
        asked = provider.priority_exchange(msgspec.structs.replace(target, model=models[0])) if priority and models else None
        takes = _read_priority(await ask(transport, asked)) if asked is not None else None
    except BackendError as error:
        log.info("%s did not say what it is: %s", target.replica.name, error)
        takes = None
    return Facts(models=models, context_tokens=context, takes_priority=takes)


def _read_models(answer: tuple[int, bytes]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Read names and contexts: vLLM says `max_model_len`, llama.cpp `meta.n_ctx` (of one slot)."""
    try:
        entries: list[dict[str, Any]] = msgspec.json.decode(answer[1])["data"] if answer[0] == 200 else []
        names = tuple(str(entry["id"]) for entry in entries)
        said = {str(entry["id"]): entry.get("max_model_len") or (entry.get("meta") or {}).get("n_ctx") for entry in entries}
    except (*UNREADABLE, KeyError, TypeError, AttributeError):  # a list of another shape tells nothing, and harms nothing
        return (), {}
    return names, {name: length for name, length in said.items() if isinstance(length, int) and length > 0}


def _read_priority(answer: tuple[int, bytes]) -> bool | None:
    """Read the answer to a request with a priority; any refusal means: do not send one."""
    status = answer[0]
    return True if status == 200 else False if 400 <= status < 500 and status not in (401, 403, 408, 429) else None
