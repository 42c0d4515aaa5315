"""From a secret to the principal it stands for, from memory.

Secrets are looked up by keyed digest; a miss asks the database once, however many requests wait for it. What was found stays until
the change feed says that its tenant changed, or a change of plan comes that was written before; then it is looked up again at its next
use, and stays in force until that could be done: a database that is away shuts out no key that was known. Unknown keys are remembered
too, so that guessing costs the database little.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from billing.errors import BillingError
from billing.operations.directory import Principal, find_principal
from billing.tenants.keys import KeyHasher
from gateway.reads import BookReads

V = TypeVar("V")

KNOWN_MAX = 65_536
UNKNOWN_MAX = 16_384
STALE_WAIT_S = 0.5  # how long a key that was known waits for its new lookup before it is taken as it was

log = logging.getLogger("weir.keyring")


class Keyring:
    """A bounded cache over the stored keys."""

    def __init__(self, reads: BookReads, hasher: KeyHasher, now_us: Callable[[], int]) -> None:
        self._reads = reads
        self._hasher = hasher
        self._now_us = now_us
        self._known: dict[bytes, Principal] = {}
        self._stale: dict[bytes, Principal] = {}  # known before a change, not looked up since
        self._unknown: dict[bytes, None] = {}
        self._loading: dict[bytes, asyncio.Task[Principal | None]] = {}
        self._generation = 0  # counts changes: what was read before one is not kept after it
        self._away = False  # the last lookup failed

    def known(self, secret: str) -> Principal | None:
        """Return the principal of a secret that is in memory and needs no look at a clock; None: ask `find`."""
        principal = self._known.get(self._hasher.digest(secret))
        return principal if principal is not None and principal.terms_until_us is None and principal.expires_us is None else None

    async def find(self, secret: str) -> Principal | None:
        """Return the principal of a secret; None when it is unknown, revoked or expired.

        Raises `BillingError`, within seconds, for a key that is not in memory while the database is away.
        """
        digest = self._hasher.digest(secret)
        principal = self._known.get(digest)
        if principal is not None and principal.terms_until_us is not None and principal.terms_until_us <= self._now_us():
            self._outlived(digest, principal)
            principal = None
        if principal is None:
            if digest in self._unknown:
                return None
            stale = self._stale.get(digest)
            principal = await (asyncio.shield(self._load(digest)) if stale is None else self._renew(digest, stale))
        if principal is None or (principal.expires_us is not None and principal.expires_us <= self._now_us()):
            return None
        return principal

    def forget(self, tenant_id: str | None) -> None:
        """Look up anew what is remembered of a tenant, at its next use; None: of everybody."""
        self._generation += 1
        self._away = False  # whoever knows of a change has read it in the database
        self._unknown.clear()
        changed = {digest: principal for digest, principal in self._known.items() if tenant_id in (None, principal.tenant_id)}
        for digest, principal in changed.items():
            del self._known[digest]
            _remember(self._stale, digest, principal, KNOWN_MAX)

    def _outlived(self, digest: bytes, principal: Principal) -> None:
        """Take note that a change of plan has come that was written before: the key is known, its terms are not."""
        del self._known[digest]
        _remember(self._stale, digest, principal, KNOWN_MAX)

    async def _renew(self, digest: bytes, stale: Principal) -> Principal | None:
        """Look a key up that was known; while that cannot be done it stays what it was."""
        task = self._load(digest)
        if self._away:
            return stale  # the lookup goes on by itself, and tells when the database is back
        try:
            async with asyncio.timeout(STALE_WAIT_S):
                return await asyncio.shield(task)
        except BillingError:
            return stale
        except TimeoutError:
            self._lost("no answer yet")
            return stale

    def _load(self, digest: bytes) -> asyncio.Task[Principal | None]:
        """Return the lookup of a digest, begun or joined. Await it shielded: one waiter's cancellation must not fail the others."""
        task = self._loading.get(digest)
        if task is None:
            task = self._loading[digest] = asyncio.create_task(self._read(digest))
            task.add_done_callback(lambda done: self._loaded(digest, done))
        return task

    def _loaded(self, digest: bytes, task: asyncio.Task[Principal | None]) -> None:
        self._loading.pop(digest, None)
        error = None if task.cancelled() else task.exception()  # taken note of here, since nobody may be waiting
        if isinstance(error, BillingError):
            self._lost(str(error))
        elif error is not None:
            log.error("a key could not be looked up", exc_info=error)

    async def _read(self, digest: bytes) -> Principal | None:
        while True:
            generation = self._generation
            principal = await self._reads.run(lambda session: find_principal(session, digest, self._now_us()))
            if generation == self._generation:
                break
        self._away = False
        self._stale.pop(digest, None)
        if principal is not None:
            _remember(self._known, digest, principal, KNOWN_MAX)
        else:
            _remember(self._unknown, digest, None, UNKNOWN_MAX)
        return principal

    def _lost(self, why: str) -> None:
        if not self._away:
            self._away = True
            log.warning("keys cannot be looked up; those that were known stay in force: %s", why)


def _remember(cache: dict[bytes, V], digest: bytes, value: V, most: int) -> None:
    if len(cache) >= most and digest not in cache:
        del cache[next(iter(cache))]  # the oldest; a key in use comes back with its next request
    cache[digest] = value
