"""Rate limits of keys and tenants: requests and tokens per minute, kept in this process's memory, or asked of one that all processes share.

A key's own limit and its tenant's both hold; the tighter one answers. Buckets that are full again are forgotten, so memory follows
the keys in use and not the keys that exist. Where windows are shared but cannot be asked, each process goes on from what it last heard,
with its share of every limit.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from billing.operations.directory import Principal
from gateway.errors import RateLimited
from gateway.lanes.shared_windows import SharedWindows
from gateway.lanes.windows import Bucket

BUCKETS_MAX = 100_000

Beside = Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]]


class Limit(msgspec.Struct, frozen=True):
    """One limit that applies to a request. `kind` is requests or tokens; `owner` says whose it is, for the message."""

    kind: str
    owner: str
    bucket: Bucket
    shared: SharedWindows | None


class Limiter:
    """Every bucket of this process. `share` tells how many processes each have a part of every limit; `shared` are the windows they have in common."""

    def __init__(self, share: Callable[[], int] = lambda: 1, shared: SharedWindows | None = None) -> None:
        self.shared = shared
        self._share = share
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._forget_at = BUCKETS_MAX
        self._task: asyncio.Task[None] | None = None

    def admit(self, principal: Principal, now_us: int) -> tuple[Limit, ...]:
        """Take one request from this process's share of every limit that applies and return these limits. Raises `RateLimited`; nothing is taken then."""
        limits = self._limits(principal, now_us)
        if limits:
            self._take(limits, now_us)
        return limits

    async def admit_shared(self, principal: Principal, now_us: int) -> tuple[Limit, ...]:
        """Do what `admit` does, in the windows of all processes; in this process's share while those cannot be asked."""
        limits = self._limits(principal, now_us)
        shared = self.shared
        if not limits or shared is None:
            self._take(limits, now_us)
            return limits
        answer = await shared.ask([limit.bucket for limit in limits], [int(limit.kind == "requests") for limit in limits])
        if answer is None:
            self._take(limits, now_us)
            for limit in limits:
                if limit.kind == "requests":
                    shared.owe(limit.bucket, 1)
            return limits
        now_us = shared.clock.now_us()
        for limit, micro in zip(limits, answer.micros, strict=True):
            limit.bucket.processes = 1
            limit.bucket.adopt(micro, now_us)
        if not answer.taken:
            raise _refusal(next(limit for limit in limits if not limit.bucket.ready(now_us)), now_us)
        return limits

    async def start(self, beside: Beside) -> None:
        """Reach the windows that are shared, if there are any, and keep at it beside the requests."""
        if self.shared is not None:
            await self.shared.connect()
            self._task = beside("the sharing of rate windows", self.shared.run())

    async def aclose(self) -> None:
        """Report what was taken last, for a bounded time."""
        if self._task is not None and self.shared is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self.shared.aclose()

    def _take(self, limits: tuple[Limit, ...], now_us: int) -> None:
        processes = max(1, self._share())  # a process that counts none yet is there itself
        for limit in limits:
            limit.bucket.processes = processes
            if not limit.bucket.ready(now_us):
                raise _refusal(limit, now_us)
        for limit in limits:
            if limit.kind == "requests":
                limit.bucket.spend(1, now_us)

    def _limits(self, principal: Principal, now_us: int) -> tuple[Limit, ...]:
        terms, shared = principal.terms, self.shared
        found = []
        if principal.requests_per_minute:
            found.append(Limit("requests", "key", self._bucket("rk", principal.key_id, principal.requests_per_minute, now_us), shared))
        if principal.tokens_per_minute:
            found.append(Limit("tokens", "key", self._bucket("tk", principal.key_id, principal.tokens_per_minute, now_us), shared))
        if terms is not None:
            if terms.requests_per_minute:
                found.append(Limit("requests", "plan", self._bucket("rt", principal.tenant_id, terms.requests_per_minute, now_us), shared))
            if terms.tokens_per_minute:
                found.append(Limit("tokens", "plan", self._bucket("tt", principal.tenant_id, terms.tokens_per_minute, now_us), shared))
        return tuple(found)

    def _bucket(self, kind: str, owner: str, limit: int, now_us: int) -> Bucket:
        bucket = self._buckets.get((kind, owner))
        if bucket is None or bucket.limit != limit:
            if len(self._buckets) >= self._forget_at:
                self._buckets = {name: kept for name, kept in self._buckets.items() if kept.full_in_us(now_us)}
                self._forget_at = max(BUCKETS_MAX, 2 * len(self._buckets))
            bucket = self._buckets[(kind, owner)] = Bucket(limit, now_us)
            if self.shared is not None:
                bucket.name = f"{self.shared.prefix}:rate:{kind}:{owner}:{limit}"
        return bucket


def spend(limits: tuple[Limit, ...], tokens: int, now_us: int) -> None:
    """Take the tokens that a request turned out to have used."""
    for limit in limits:
        if limit.kind == "tokens":
            limit.bucket.spend(tokens, now_us)
            if limit.shared is not None:
                limit.shared.owe(limit.bucket, tokens)


def headers(limits: tuple[Limit, ...], now_us: int) -> list[tuple[bytes, bytes]]:
    """Write `x-ratelimit-*` for the tightest limit of each kind, in OpenAI's form."""
    written: list[tuple[bytes, bytes]] = []
    for kind in ("requests", "tokens"):
        mine = [limit.bucket for limit in limits if limit.kind == kind]
        if mine:
            bucket = min(mine, key=lambda bucket: bucket.remaining(now_us))
            name = kind.encode()
            written.append((b"x-ratelimit-limit-" + name, b"%d" % bucket.limit))
            written.append((b"x-ratelimit-remaining-" + name, b"%d" % bucket.remaining(now_us)))
            written.append((b"x-ratelimit-reset-" + name, b"%dms" % (bucket.full_in_us(now_us) // 1000)))
    return written


def _refusal(limit: Limit, now_us: int) -> RateLimited:
    wait_s = limit.bucket.wait_us(now_us) / 1e6
    return RateLimited(
        f"The {limit.owner}'s limit of {limit.bucket.limit} {limit.kind} per minute is reached. Try again in {wait_s:.1f} s.",
        retry_after_s=wait_s,
    )
