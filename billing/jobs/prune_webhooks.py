"""Forget what was told to webhooks a month ago; thresholds themselves stay in the books."""

from sqlmodel import Session

from billing.alerts import store

KEPT_US = 30 * 86_400_000_000
ROWS_MAX = 1000


def run_once(session: Session, now_us: int) -> int:
    """Delete messages older than 30 days, the oldest first, at most `ROWS_MAX`; return how many. One still waiting then would come too late to be news."""
    return store.prune(session, now_us - KEPT_US, ROWS_MAX)
