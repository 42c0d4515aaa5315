"""The months of usage events that PostgreSQL is about to need; made at every start and by and by. On SQLite there is nothing to do."""

from sqlmodel import Session

from billing.usage.partitions import make_months


def run_once(session: Session, now_us: int) -> int:
    """Make the partitions of this month and the next three where they are missing; return how many were made."""
    return len(make_months(session, now_us))
