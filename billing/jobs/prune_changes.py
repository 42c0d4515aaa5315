"""Forget what changed a week ago: who follows the feed asks only for what is newer than what it has.

The newest rows stay however old they are, so that the numbers go on. A process that was away for longer finds a gap, and looks everything up anew.
"""

from sqlmodel import Session

from billing.tenants.store import prune_changes

KEPT_US = 7 * 86_400_000_000
KEPT_ROWS = 1000
ROWS_MAX = 1000


def run_once(session: Session, now_us: int) -> int:
    """Delete changes older than 7 days but for the newest `KEPT_ROWS`, the oldest first, at most `ROWS_MAX`; return how many."""
    return prune_changes(session, now_us - KEPT_US, keep=KEPT_ROWS, limit=ROWS_MAX)
