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
from billing.jobs import Report, job_names, run_jobs
from gateway.clock import Clock

EVERY_S = 600.0

log = logging.getLogger("weir.chores")


class Chores:
    """Runs every job now and again.

    `clock_ahead_s`: how far this machine's clock is ahead of the database's, in seconds; None on SQLite, and until it is known.
    """

    def __init__(self, database: Database, clock: Clock, *, every_s: float = EVERY_S) -> None:
        self._database = database
        self._clock = clock
        self._every_s = every_s
        self._done_s = dict.fromkeys(job_names(), clock.monotonic_s())
        self.clock_ahead_s: float | None = None

    def ages(self) -> dict[tuple[str], float]:
        """Return how long ago each job last ended well, in seconds; for one that never did, how long ago this process began."""
        now_s = self._clock.monotonic_s()
        return {(name,): now_s - done_s for name, done_s in tuple(self._done_s.items())}

    async def follow(self) -> None:
        """Run them until cancelled. What fails is logged and tried again the next time."""
        while True:
            try:
                did = await self.run()
            except BooksUnavailable as error:
                log.warning("the chores wait for the database: %s", error)
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
            report = Report()
            try:
                did = run_jobs(self._database, self._clock.now_us(), report)
            except BaseException as error:  # noqa: BLE001 - it is the asker's: the future raises it there
                self._note(report)
                future.set_exception(error)
            else:
                self._note(report)
                future.set_result(did)

        threading.Thread(target=work, name="weir-chores", daemon=True).start()
        return await asyncio.wrap_future(future)

    def _note(self, report: Report) -> None:
        self._done_s |= dict.fromkeys(report.succeeded, self._clock.monotonic_s())
        self.clock_ahead_s = None if report.clock_off_us is None else report.clock_off_us / 1e6
