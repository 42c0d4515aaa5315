"""What has to happen by and by, without anybody asking: one file per job, found by scanning this folder.

A job is `run_once(session, now_us) -> int`: it does a bounded piece of work in the caller's transaction and says how many things it did; 0 is
none left. It is idempotent, because a commit whose answer was lost is run again. However many processes there are, one does it at a time.
"""

import logging
from importlib import import_module
from pkgutil import iter_modules

from sqlalchemy import text
from sqlmodel import Session

from billing.db import Database
from billing.errors import BooksUnavailable

__all__ = ["job_names", "run_jobs"]

JOBS_LOCK = 0x5745495200000007  # PostgreSQL advisory lock held by a job until it commits; on SQLite a write is alone anyhow
ROUNDS_MAX = 20  # pieces of one job in a row: what is left waits for the next time

log = logging.getLogger(__name__)


def run_jobs(db: Database, now_us: int) -> dict[str, int]:
    """Run every job, each piece in a transaction of its own, and return how many things each did. One that another process is at does 0 here.

    A job that fails is logged and keeps no other from its turn; it is tried again the next time. Raises `BooksUnavailable`.
    """
    return {name: _run(db, name, now_us) for name in job_names()}


def job_names() -> list[str]:
    """List the jobs there are."""
    return sorted(module.name for module in iter_modules(__path__))


def _run(db: Database, name: str, now_us: int) -> int:
    run_once = import_module(f"{__name__}.{name}").run_once
    done = 0
    try:
        for _ in range(ROUNDS_MAX):
            did = db.retrying(lambda session: run_once(session, now_us) if _alone(session) else 0)
            done += did
            if not did:
                break
    except BooksUnavailable:
        raise
    except Exception:  # whatever is wrong with one job, the others have to run
        log.exception("jobs: %s failed after %d", name, done)
    return done


def _alone(session: Session) -> bool:
    if session.get_bind().dialect.name != "postgresql":
        return True
    return bool(session.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": JOBS_LOCK}).scalar_one())
