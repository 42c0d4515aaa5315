"""Rate limits of keys and tenants: requests and tokens per minute, kept in this process's memory.

A key's own limit and its tenant's both hold; the tighter one answers. Buckets that are full again are forgotten, so memory follows
the keys in use and not the keys that exist.
"""

import msgspec

from billing.operations.directory import Principal
from gateway.errors import RateLimited
from gateway.lanes.windows import Bucket

BUCKETS_MAX = 100_000


class Limit(msgspec.Struct, frozen=True):
    """One limit that applies to a request. `kind` is requests or tokens; `owner` says whose it is, for the message."""

    kind: str
    owner: str
    bucket: Bucket


class Limiter:
    """Every bucket of this process."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def admit(self, principal: Principal, now_us: int) -> tuple[Limit, ...]:
        """Take one request from every limit that applies and return these limits. Raises `RateLimited`; nothing is taken then."""
        limits = self._limits(principal, now_us)
        for limit in limits:
            if limit.bucket.remaining(now_us) < 1:
                wait_s = limit.bucket.wait_us(now_us) / 1e6
                raise RateLimited(
                    f"The {limit.owner}'s limit of {limit.bucket.limit} {limit.kind} per minute is reached. Try again in {wait_s:.1f} s.",
                    retry_after_s=wait_s,
                )
        for limit in limits:
            if limit.kind == "requests":
                limit.bucket.take(now_us)
        return limits

    def _limits(self, principal: Principal, now_us: int) -> tuple[Limit, ...]:
        terms = principal.terms
        found = []
        if principal.requests_per_minute:
            found.append(Limit("requests", "key", self._bucket("rk", principal.key_id, principal.requests_per_minute, now_us)))
        if principal.tokens_per_minute:
            found.append(Limit("tokens", "key", self._bucket("tk", principal.key_id, principal.tokens_per_minute, now_us)))
        if terms is not None:
            if terms.requests_per_minute:
                found.append(Limit("requests", "plan", self._bucket("rt", principal.tenant_id, terms.requests_per_minute, now_us)))
            if terms.tokens_per_minute:
                found.append(Limit("tokens", "plan", self._bucket("tt", principal.tenant_id, terms.tokens_per_minute, now_us)))
        return tuple(found)

    def _bucket(self, kind: str, owner: str, limit: int, now_us: int) -> Bucket:
        bucket = self._buckets.get((kind, owner))
        if bucket is None or bucket.limit != limit:
            if len(self._buckets) >= BUCKETS_MAX:
                self._buckets = {name: kept for name, kept in self._buckets.items() if kept.remaining(now_us) < kept.limit}
            bucket = self._buckets[(kind, owner)] = Bucket(limit, now_us)
        return bucket


def spend(limits: tuple[Limit, ...], tokens: int, now_us: int) -> None:
    """Take the tokens that a request turned out to have used."""
    for limit in limits:
        if limit.kind == "tokens":
            limit.bucket.spend(tokens, now_us)


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
