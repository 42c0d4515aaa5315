"""What a provider is: one dialect of model server, and the value types that pass between it and its callers.

A provider turns a call into a request of its dialect and reads that dialect's usage. It opens nothing and keeps no state, so a
new dialect is one new file in `providers/`.
"""

from typing import Literal, Protocol

import msgspec

from backends.replica import Replica
from backends.transport.seam import Exchange, Timeouts, Transport

Endpoint = Literal["chat/completions", "completions", "embeddings"]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What an upstream said it used, in disjoint buckets (tokens, but for the last four), and in which service tier. None: it did not say."""

    input: int | None = None
    cache_read: int | None = None
    cache_write_5m: int | None = None
    cache_write_1h: int | None = None
    audio_in: int | None = None
    image_in: int | None = None
    output: int | None = None
    audio_out: int | None = None
    reasoning: int | None = None
    images: int | None = None
    seconds: int | None = None
    requests: int | None = None
    searches: int | None = None
    service_tier: str | None = None


class Call(msgspec.Struct, kw_only=True):
    """What a client asked for, as far as a backend needs it.

    `members` are the top-level members of the client's JSON in their order, each a slice of the bytes that came; `model` is the public name.
    `service_tier`: the one that the client may buy upstream; None: its wish for one is not passed on.
    """

    endpoint: Endpoint
    request_id: str
    model: str
    members: dict[str, msgspec.Raw]
    body_bytes: int
    stream: bool = False
    wants_usage: bool = False  # the client itself asked for usage in its stream
    session: str | None = None
    traceparent: str | None = None
    service_tier: str | None = None


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where one attempt goes: a replica, the model's name there, and the engine priority to ask for (None: do not say; lower runs earlier).

    `flex`: buy the vendor's cheap, slow tier if it sells one and the client has bought none.
    """

    replica: Replica
    model: str
    timeouts: Timeouts
    api_key: str | None = None
    priority: int | None = None
    flex: bool = False


class Provider(Protocol):
    """One dialect."""

    transport: Transport | None  # a provider that needs no socket brings its own; None: the process's
    counts_every_choice: bool  # False: with n > 1 its output count is of one choice only, so the output has to be estimated
    sells_tiers: bool  # a service tier that the client asks for is passed on, so that it may be served and has to be paid
    flex_tier: str | None  # what buys the vendor's cheap, slow tier, as `service_tier`; None: it sells none
    own_servers: bool  # servers that the operator runs: probed often, and asked at start what they are

    def exchange(self, call: Call, target: Target) -> Exchange:
        """Write the request in this dialect. The client's bytes are kept; only the members that must differ are replaced."""
        ...

    def usage(self, raw: msgspec.Raw | bytes) -> Usage | None:
        """Read the JSON of a usage object into disjoint buckets; None for null. Raises `BadAnswer` for counts that are negative or no integers."""
        ...

    def count_exchange(self, text: str, target: Target) -> Exchange | None:
        """Write the request that has this server count the tokens of a text; None where the dialect has no such thing."""
        ...

    def count(self, answer: bytes) -> int:
        """Read the count out of that request's answer. Raises `BadAnswer`."""
        ...

    def true_status(self, status: int, body: bytes) -> int:
        """Return the status that an answer really means: some vendors hide a rate limit in a 400, or an error in a 200. Costs nothing where none does."""
        ...

    def error_code(self, status: int, kind: str | None, message: str) -> str | None:
        """Return OpenAI's own `code` for a refusal whose server names none, by the error's `type` (`kind`) and message; None: leave it as it is."""
        ...

    def flex_refused(self, status: int, code: str | None, param: str | None = None, message: str = "") -> bool:
        """Tell whether a refusal of a request that asked for the cheap tier is of that tier only: it has no room now, or this model is not sold in it.
        Then the same request may be sent again without it. `code`, `param`, `message`: of the error.
        """
        ...

    def load_exchange(self, target: Target) -> Exchange | None:
        """Write the request that shows how loaded a server is (`load.read_load` reads its answer); None where the dialect has none."""
        ...

    def health_exchange(self, target: Target) -> Exchange | None:
        """Write the request that shows whether a replica is alive, at no cost; None where there is none."""
        ...

    def models_exchange(self, target: Target) -> Exchange | None:
        """Write the request for the list of models; None where it is not served."""
        ...

    def priority_exchange(self, target: Target) -> Exchange | None:
        """Write a request (of one token) that a server which takes no priorities refuses; None where the dialect has no priorities."""
        ...
