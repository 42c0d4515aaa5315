"""How this process notices what an admin changed, here or in another process: it follows the change feed.

A change is noticed within `every_s`; one made through this process's own /admin at once (`wake`). A change counts as known only once
it was acted upon: what could not be is tried again, in order. Nothing but its cancellation ends the feed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from sqlmodel import Session

from billing.errors import BillingError
from billing.tenants.store import changes_since
from billing.tenants.tenant import Change
from gateway.reads import BookReads

log = logging.getLogger("weir.changes")

MANY = 1000  # past so many changes at once everything is looked up anew


class ChangeFeed:
    """Follows the feed on the event loop. `on_change` hears the tenants that changed, or None for everything; what it raises makes it hear again."""

    def __init__(self, reads: BookReads, on_change: Callable[[set[str] | None], Awaitable[None]], *, every_s: float) -> None:
        self._reads = reads
        self._on_change = on_change
        self._every_s = every_s
        self._last = 0
        self._woken = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._said: set[str] = set()  # troubles that the log has heard of since the feed last worked

    def wake(self) -> None:
        """Look now. May be called from any thread."""
        self._loop.call_soon_threadsafe(self._woken.set)

    def start_after(self, seq: int) -> None:
        """Take everything up to a change as known: what is loaded from here on includes it."""
        self._last = seq

    async def follow(self) -> None:
        """Follow until cancelled. While the database is away, what is known stays in force."""
        while True:
            try:
                await self._look()
                if self._said:
                    self._said.clear()
                    log.info("the change feed can be read again")
            except Exception as error:  # noqa: BLE001 - a feed that ends would leave revoked keys in force for ever: it is logged and tried again
                self._say(error)
            try:
                async with asyncio.timeout(self._every_s):
                    await self._woken.wait()
            except TimeoutError:
                continue
            self._woken.clear()

    async def _look(self) -> None:
        found = await self._reads.run(self._read)
        if found:
            tenants = {change.tenant_id for change in found}
            missed = found[0].seq > self._last + 1  # it was away for so long that some were pruned
            everything = missed or None in tenants or len(found) >= MANY
            await self._on_change(None if everything else {tenant for tenant in tenants if tenant is not None})
            self._last = found[-1].seq

    def _read(self, session: Session) -> list[Change]:
        return changes_since(session, self._last, MANY)

    def _say(self, error: Exception) -> None:
        """Log each kind of trouble once, until the feed works again."""
        kind = type(error).__name__
        if kind in self._said:
            return
        self._said.add(kind)
        expected = isinstance(error, BillingError)
        log.error("the change feed cannot be followed; what is known stays in force: %s", error, exc_info=None if expected else error)
