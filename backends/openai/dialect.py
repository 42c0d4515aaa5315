"""OpenAI's dialect as a provider: the requests, the headers, the usage, and a vendor's quirks.

The providers of the family are subclasses that change a member or a path. No state: one instance serves every replica of a backend.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.metadata import version
from types import MappingProxyType

import msgspec

from backends.errors import BadAnswer
from backends.openai.body import JOIN_MAX, stream_options, write_body
from backends.openai.usage import read_usage
from backends.provider import Call, Target, Usage
from backends.sse import UNREADABLE
from backends.transport.seam import Buffer, Exchange, Transport
from backends.vendors import PLAIN, Vendor

USER_AGENT = f"weir/{version('weir-gateway')}"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
TOO_LONG = "context_length_exceeded"
_FLEX_NO_ROOM = frozenset({(429, "resource_unavailable"), (498, "capacity_exceeded")})  # OpenAI, which does not charge for it; Groq
_SAYS_NO_FLEX = re.compile(r"\bflex\b|service[ _]tier|resource[ _]unavailable", re.IGNORECASE)
_SAYS_TOO_LONG = re.compile(r"maximum (?:context|model) length")  # OpenAI itself, vLLM, SGLang, TGI, and the vendors that run them
_AUTH = {"bearer": ("authorization", "Bearer "), "api-key": ("api-key", ""), "x-api-key": ("x-api-key", "")}
# What the dialect itself sells beside tokens: a dearer tier, searches. No client switches these on, but for a tier that its model's rate prices.
PAID_EXTRAS = frozenset({"service_tier", "web_search_options"})
_CLIENTS_TOOLS = ("function", "custom")  # run by the client; any other type of tool is the vendor's own, and most are sold by the call

_encode = msgspec.json.Encoder().encode


class OpenAIDialect:
    """What the family shares. A vendor's row says what the vendor refuses, renames and hides."""

    counts_every_choice: bool = True
    own_servers: bool = False
    withheld: frozenset[str] = PAID_EXTRAS  # members that are never passed on from a client; we may send them ourselves
    forced_in_streams: Mapping[str, bool] = MappingProxyType({"include_usage": True})

    def __init__(self, vendor: Vendor = PLAIN) -> None:
        self.transport: Transport | None = None
        self.vendor = vendor
        self._withheld = self.withheld | vendor.withholds
        self._handled = self._withheld if self.own_servers else self._withheld | {"tools"}  # members that are looked at, each by itself
        self._renames, self._paths, self._auth = vendor.renames, vendor.paths, vendor.auth
        self._rate_limit, self._errors, self._reasoning_beside = vendor.rate_limit, vendor.errors, vendor.usage == "reasoning_beside"
        self._picky = bool(vendor.refuses) or vendor.accepts is not None
        self.sells_tiers: bool = not self.own_servers and "service_tier" not in vendor.withholds and self._takes("service_tier")
        self.flex_tier: str | None = None if self.own_servers or not self._takes("service_tier") else vendor.flex

    def exchange(self, call: Call, target: Target) -> Exchange:
        """Write the request: the client's members in their order, but for the model, forced stream options, and what the vendor does not take."""
        path = self._paths.get(call.endpoint, call.endpoint) if self._paths else call.endpoint
        return Exchange(
            method="POST",
            origin=target.replica.origin,
            path=f"{target.replica.base_path}/{path}",
            headers=_headers(self._auth, target.api_key, "text/event-stream" if call.stream else "application/json"),
            own_headers=_identifiers(call),
            body=self._body(call, target),
            timeouts=target.timeouts,
        )

    def replaced(self, call: Call, target: Target) -> dict[str, msgspec.Raw]:
        """Return the members that must differ from the client's; one that the client did not send is added at the end."""
        changed = {"model": msgspec.Raw(_encode(target.model))}
        if call.stream:
            changed["stream_options"] = stream_options(call.members.get("stream_options"), **self.forced_in_streams)
        if target.flex and self.flex_tier is not None and call.service_tier is None:
            changed["service_tier"] = msgspec.Raw(_encode(self.flex_tier))
        return changed

    def _body(self, call: Call, target: Target) -> tuple[Buffer, ...]:
        changed = self.replaced(call, target)
        if call.body_bytes <= JOIN_MAX and not self._renames and not self._picky and self._handled.isdisjoint(call.members):
            return (_encode(call.members | changed),)
        return write_body(self._members(call, changed))

    def _members(self, call: Call, changed: dict[str, msgspec.Raw]) -> Iterator[tuple[str, msgspec.Raw | bytes]]:
        renames, withheld, picky = self._renames, self._withheld, self._picky
        value: msgspec.Raw | bytes
        for name, value in call.members.items():
            if name in withheld and not (name == "service_tier" and call.service_tier is not None and self.sells_tiers):
                continue
            if name == "tools" and not self.own_servers:
                value = clients_tools(value)
                if not value:
                    continue
            new = renames.get(name, name) if renames else name
            if (not picky or self._takes(new)) and (new == name or new not in call.members):
                yield new, changed.pop(name, value)
        for name, value in changed.items():
            if not picky or self._takes(name):
                yield name, value

    def _takes(self, name: str) -> bool:
        accepts = self.vendor.accepts
        return name not in self.vendor.refuses and (accepts is None or name in accepts)

    def usage(self, raw: msgspec.Raw | bytes) -> Usage | None:
        """Read a usage object into disjoint buckets; None for null. Raises `BadAnswer` for counts that cannot be."""
        return read_usage(raw, reasoning_beside=self._reasoning_beside)

    def true_status(self, status: int, body: bytes) -> int:
        """Return the status that an answer really means, by the vendor's row."""
        limit, errors = self._rate_limit, self._errors
        if limit is not None and status == limit.status:
            text = body.decode("utf-8", "replace").lower()
            return 429 if any(mark in text for mark in limit.marks) else status
        if errors is not None and status == 200 and errors.member.encode() in body:
            try:
                inner = msgspec.json.decode(body).get(errors.member) or {}
                code = inner.get(errors.code, errors.ok)
            except (*UNREADABLE, AttributeError):  # no object: judged elsewhere, as any other answer is
                return status
            return status if code == errors.ok else errors.statuses.get(code, 502) if isinstance(code, int) else 502
        return status

    def error_code(self, status: int, kind: str | None, message: str) -> str | None:
        """Return OpenAI's code for a refusal that a server words without one: so far, a prompt that is too long."""
        return TOO_LONG if 400 <= status < 500 and _SAYS_TOO_LONG.search(message) else None

    def flex_refused(self, status: int, code: str | None, param: str | None = None, message: str = "") -> bool:
        """Tell a refusal of the tier from one of the request: no room in it ("429 Resource Unavailable" at OpenAI, 498 at Groq), or a model or project
        that is not sold in it (400 about `service_tier`: "Flex is not available for this model."). Where no code says so, the words do: a request
        that is wrongly sent again is refused again, and costs nothing.
        """
        if self.flex_tier is None or status not in (400, 403, 404, 422, 429, 498):
            return False
        return (status, code) in _FLEX_NO_ROOM or param == "service_tier" or _SAYS_NO_FLEX.search(message) is not None

    def count_exchange(self, text: str, target: Target) -> Exchange | None:
        """The dialect has no way to count tokens."""
        return None

    def count(self, answer: bytes) -> int:
        """Never asked for."""
        raise BadAnswer("this dialect counts no tokens")

    def health_exchange(self, target: Target) -> Exchange | None:
        """Ask for the models: it costs nothing."""
        return self.models_exchange(target)

    def models_exchange(self, target: Target) -> Exchange | None:
        """Ask for the models, where the vendor lists them."""
        return self.get(f"{target.replica.base_path}/models", target) if self.vendor.models else None

    def load_exchange(self, target: Target) -> Exchange | None:
        """The dialect says nothing of a server's load."""
        return None

    def priority_exchange(self, target: Target) -> Exchange | None:
        """The dialect has no priorities."""
        return None

    def get(self, path: str, target: Target) -> Exchange:
        """Write a plain GET."""
        return Exchange(method="GET", origin=target.replica.origin, path=path, headers=self._plain_headers(target), timeouts=target.timeouts)

    def post(self, path: str, body: object, target: Target) -> Exchange:
        """Write a POST of a JSON value of our own."""
        return Exchange(
            method="POST", origin=target.replica.origin, path=path, headers=self._plain_headers(target), body=(_encode(body),), timeouts=target.timeouts
        )

    def _plain_headers(self, target: Target) -> tuple[tuple[str, str], ...]:
        return _headers(self._auth, target.api_key, "application/json")


@lru_cache(1024)
def _headers(auth: str, api_key: str | None, accept: str) -> tuple[tuple[str, str], ...]:
    """Write the headers that every request to a backend has: our own credentials, and none of the client's headers."""
    name, prefix = _AUTH[auth]
    credentials = () if api_key is None else ((name, prefix + api_key),)
    return (("user-agent", USER_AGENT), ("content-type", "application/json"), *credentials, ("accept", accept))


def _identifiers(call: Call) -> tuple[tuple[str, str], ...]:
    if call.traceparent is not None and _TRACEPARENT.fullmatch(call.traceparent):
        return ("x-request-id", call.request_id), ("traceparent", call.traceparent)
    return (("x-request-id", call.request_id),)


class _Tool(msgspec.Struct):
    type: object = None


_tools = msgspec.json.Decoder(list[_Tool])
_raw_tools = msgspec.json.Decoder(list[msgspec.Raw])


def clients_tools(tools: msgspec.Raw | bytes) -> msgspec.Raw | bytes:
    """Leave out of the tools those that the vendor would run, at a price of its own; b"" where none is left.

    What is no list of objects is returned as it came, for the vendor to refuse.
    """
    try:
        kept = [tool.type in _CLIENTS_TOOLS for tool in _tools.decode(tools)]
        if all(kept):
            return tools
        return b"[%b]" % b",".join([bytes(tool) for tool, keep in zip(_raw_tools.decode(tools), kept, strict=True) if keep]) if any(kept) else b""
    except UNREADABLE:
        return tools


def beside_v1(base_path: str, path: str) -> str:
    """Return a path of the server that stands beside its /v1, as /health and /tokenize do."""
    return f"{base_path.removesuffix('/v1')}/{path}"


class _Counted(msgspec.Struct):
    count: int | None = None
    tokens: list[msgspec.Raw] | None = None


def read_count(answer: bytes) -> int:
    """Read how many tokens a tokenizer's answer holds: its `count`, or else the length of its `tokens`. Raises `BadAnswer`."""
    try:
        counted = msgspec.json.decode(answer, type=_Counted)
    except UNREADABLE as error:
        raise BadAnswer(f"token count: {error}") from error
    count = counted.count if counted.count is not None else None if counted.tokens is None else len(counted.tokens)
    if count is None or count < 0:
        raise BadAnswer(f"token count: the answer of {len(answer)} bytes holds none")
    return count
