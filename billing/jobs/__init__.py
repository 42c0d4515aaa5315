"""What has to happen by and by, without anybody asking: one file per job, found by scanning this folder.

A job is `run_once(session, now_us) -> int`: it does a bounded piece of work in the caller's transaction and says how many things it did; 0 is
none left. It is idempotent, because a commit whose answer was lost is run again. However many processes there are, one runs the jobs at a time: who
finds another at one leaves all the rest to it. Going on with the next job instead would let two pass each other so that neither did the job between.
What a job ends stays ended, so none runs on the word of a clock that the database's own contradicts.
"""

import logging
from importlib import import_module
from pkgutil import iter_modules

import msgspec
from sqlalchemy import text
from sqlmodel import Session

from billing.db import Database
from billing.errors import BooksUnavailable

__all__ = ["Report", "job_names", "run_jobs"]

JOBS_LOCK = 0x5745495200000007  # PostgreSQL advisory lock held by a job, whichever, until it commits; on SQLite a write is alone anyhow
ROUNDS_MAX = 200  # pieces of one job in a row: what is left waits for the next time
CLOCK_OFF_US_MAX = 3_600_000_000

log = logging.getLogger(__name__)


class Report(msgspec.Struct):
    """What `run_jobs` found, written as it goes: there also where it ends with an error.

    `clock_off_us`: how far the asker's clock is ahead of the database's (microseconds, negative: behind); None on SQLite. `succeeded`: the jobs that ended
    without an error, not those that another process is at.
    """

    clock_off_us: int | None = None
    succeeded: set[str] = msgspec.field(default_factory=set)


def run_jobs(db: Database, now_us: int, report: Report | None = None) -> dict[str, int]:
    """Run every job, each piece in a transaction of its own, and return how many things each did: 0 those that were left to another process.

    A job that fails is logged and keeps no other from its turn; it is tried again the next time. Where `now_us` and PostgreSQL's clock are more than
    an hour apart, nothing is done. Raises `BooksUnavailable`, once every job had its turn.
    """
    report = Report() if report is None else report
    names = job_names()
    if not _right_clock(db, now_us, report):
        return dict.fromkeys(names, 0)
    did, away = dict.fromkeys(names, 0), None
    for name in names:
        try:
            did[name], alone = _run(db, name, now_us, report)
            if not alone:
                break
        except BooksUnavailable as error:  # a lock that one job waits for in vain is not in the way of the others
            log.warning("jobs: %s waits for the database: %s", name, error)
            away = error
    if away is not None:
        raise away
    return did


def job_names() -> list[str]:
    """List the jobs there are."""
    return sorted(module.name for module in iter_modules(__path__))


def _right_clock(db: Database, now_us: int, report: Report) -> bool:
    if db.dialect != "postgresql":
        return True
    with db.read() as session:
        server_us = int(session.execute(text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")).scalar_one())
    report.clock_off_us = now_us - server_us
    if abs(report.clock_off_us) <= CLOCK_OFF_US_MAX:
        return True
    log.error(
        "jobs: the clock of this machine and the database's differ by %.0f s (ours minus its); nothing is done until they agree: set the wrong one right",
        report.clock_off_us / 1e6,
    )
    return False


def _run(db: Database, name: str, now_us: int, report: Report) -> tuple[int, bool]:
    """How many things the job did, and whether no other process was found at a job."""
    done = 0
    try:
        run_once = import_module(f"{__name__}.{name}").run_once
        for _ in range(ROUNDS_MAX):
            did = db.retrying(lambda session: run_once(session, now_us) if _alone(session) else None)
            if did is None:  # that this one ends well is for the other process to say
                return done, False
            done += did
            if not did:
                break
    except BooksUnavailable:
        raise
    except Exception:  # whatever is wrong with one job, the others have to run
        log.exception("jobs: %s failed after %d", name, done)
    else:
        report.succeeded.add(name)
    return done, True


def _alone(session: Session) -> bool:
    if session.get_bind().dialect.name != "postgresql":
        return True
    return bool(session.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": JOBS_LOCK}).scalar_one())
