"""How this process notices what an admin changed, here or in another process: it follows the change feed.

A change is noticed within `every_s`; one made through this process's own /admin at once (`wake`).
"""

import asyncio
import logging
from collections.abc import Callable

from billing.db import Database
from billing.errors import BillingError
from billing.tenants.store import changes_since
from billing.tenants.tenant import Change

log = logging.getLogger("weir.changes")

MANY = 1000  # past so many changes at once everything is looked up anew


class ChangeFeed:
    """Follows the feed on the event loop. `on_change` hears the tenants that changed, or None for everything."""

    def __init__(self, db: Database, on_change: Callable[[set[str] | None], None], *, every_s: float) -> None:
        self._db = db
        self._on_change = on_change
        self._every_s = every_s
        self._last = 0
        self._woken = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        """Look now. May be called from any thread."""
        self._loop.call_soon_threadsafe(self._woken.set)

    def start_after(self, seq: int) -> None:
        """Take everything up to a change as known: what is loaded from here on includes it."""
        self._last = seq

    async def follow(self) -> None:
        """Follow until cancelled. While the database is away, what is known stays in force."""
        away = False
        while True:
            try:
                found = await asyncio.to_thread(self._read)
                away = False
            except BillingError as error:
                if not away:
                    log.error("the change feed cannot be read; what is known stays in force: %s", error)
                away, found = True, []
            if found:
                self._last = found[-1].seq
                tenants = {change.tenant_id for change in found}
                everything = None in tenants or len(found) >= MANY
                self._on_change(None if everything else {tenant for tenant in tenants if tenant is not None})
            try:
                async with asyncio.timeout(self._every_s):
                    await self._woken.wait()
            except TimeoutError:
                continue
            self._woken.clear()

    def _read(self) -> list[Change]:
        with self._db.read() as session:
            return changes_since(session, self._last, MANY)
