"""What has to happen by and by (`billing.jobs`), done beside the requests: at the start, then every few minutes.

Every process tries, and the database lets one at a time. It runs on a thread of its own, a daemon: a database that hangs holds up the
chores and nothing else.
"""

import asyncio
import logging
import threading
from concurrent.futures import Future

from billing.db import Database
from billing.errors import BooksUnavailable
from billing.jobs import run_jobs
from gateway.clock import Clock

EVERY_S = 600.0

log = logging.getLogger("weir.chores")


class Chores:
    """Runs every job now and again."""

    def __init__(self, database: Database, clock: Clock, *, every_s: float = EVERY_S) -> None:
        self._database = database
        self._clock = clock
        self._every_s = every_s

    async def follow(self) -> None:
        """Run them until cancelled. What fails is logged and tried again the next time."""
        while True:
            try:
                did = await self.run()
            except BooksUnavailable as error:
                log.info("the chores wait for the database: %s", error)
            except Exception:  # whatever is wrong now, the chores of the next hours have to be done
                log.exception("the chores failed; they are tried again")
            else:
                if any(did.values()):
                    log.info("chores: %s", ", ".join(f"{name} {count}" for name, count in did.items() if count))
            await asyncio.sleep(self._every_s)

    async def run(self) -> dict[str, int]:
        """Run every job once; return how many things each did. Raises `BooksUnavailable`."""
        future: Future[dict[str, int]] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(run_jobs(self._database, self._clock.now_us()))
            except BaseException as error:  # noqa: BLE001 - it is the asker's: the future raises it there
                future.set_exception(error)

        threading.Thread(target=work, name="weir-chores", daemon=True).start()
        return await asyncio.wrap_future(future)
