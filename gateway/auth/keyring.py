"""From a secret to the principal it stands for, from memory.

Secrets are looked up by keyed digest; a miss asks the database once, however many requests wait for it. What was found stays until
the change feed says that its tenant changed; unknown keys are remembered too, so that guessing costs the database little.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from billing.db import Database
from billing.operations.directory import Principal, find_principal
from billing.tenants.keys import KeyHasher

V = TypeVar("V")

KNOWN_MAX = 65_536
UNKNOWN_MAX = 16_384


class Keyring:
    """A bounded cache over the stored keys."""

    def __init__(self, db: Database, hasher: KeyHasher, now_us: Callable[[], int]) -> None:
        self._db = db
        self._hasher = hasher
        self._now_us = now_us
        self._known: dict[bytes, Principal] = {}
        self._unknown: dict[bytes, None] = {}
        self._loading: dict[bytes, asyncio.Task[Principal | None]] = {}
        self._generation = 0  # counts changes: what was read before one is not kept after it

    async def find(self, secret: str) -> Principal | None:
        """Return the principal of a secret; None when it is unknown, revoked or expired."""
        digest = self._hasher.digest(secret)
        principal = self._known.get(digest)
        if principal is None:
            if digest in self._unknown:
                return None
            principal = await self._load(digest)
        if principal is None or (principal.expires_us is not None and principal.expires_us <= self._now_us()):
            return None
        return principal

    def forget(self, tenant_id: str | None) -> None:
        """Drop what is remembered of a tenant; None: of everybody."""
        self._generation += 1
        self._unknown.clear()
        if tenant_id is None:
            self._known.clear()
        else:
            self._known = {digest: principal for digest, principal in self._known.items() if principal.tenant_id != tenant_id}

    async def _load(self, digest: bytes) -> Principal | None:
        task = self._loading.get(digest)
        if task is None:
            task = self._loading[digest] = asyncio.create_task(self._read(digest))
            task.add_done_callback(lambda _: self._loading.pop(digest, None))
        return await asyncio.shield(task)  # one waiter's cancellation must not fail the others

    async def _read(self, digest: bytes) -> Principal | None:
        while True:
            generation = self._generation
            principal = await asyncio.to_thread(self._query, digest)
            if generation == self._generation:
                break
        if principal is not None:
            _remember(self._known, digest, principal, KNOWN_MAX)
        else:
            _remember(self._unknown, digest, None, UNKNOWN_MAX)
        return principal

    def _query(self, digest: bytes) -> Principal | None:
        with self._db.read() as session:
            return find_principal(session, digest, self._now_us())


def _remember(cache: dict[bytes, V], digest: bytes, value: V, most: int) -> None:
    if len(cache) >= most:
        del cache[next(iter(cache))]  # the oldest; a key in use comes back with its next request
    cache[digest] = value
