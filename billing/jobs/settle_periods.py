"""Close billing periods whose end and grace have passed; their invoices are there as drafts then. Nothing is issued: that is for a person to say."""

from sqlmodel import Session

from billing.operations.periods import close_due

TENANTS_MAX = 5  # of one run: it holds their accounts until it commits, and their flushes wait for it


def run_once(session: Session, now_us: int) -> int:
    """Close what is due of at most `TENANTS_MAX` tenants; return how many were looked at."""
    return close_due(session, now_us, limit=TENANTS_MAX)
