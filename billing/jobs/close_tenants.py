"""Revoke the keys of tenants whose closing was to come and has come. They are refused from that instant on, whether this has run or not."""

from sqlmodel import Session

from billing.audit.store import record
from billing.tenants import store

TENANTS_MAX = 100  # of one run


def run_once(session: Session, now_us: int) -> int:
    """Finish the closing of tenants that are due, at most `TENANTS_MAX`; return how many."""
    due = store.closing_by(session, now_us, TENANTS_MAX)
    for tenant_id in due:
        store.note_change(session, tenant_id, now_us)
        store.finish_closing(session, tenant_id)
        record(session, now_us, action="tenant.closed", tenant_id=tenant_id, subject=tenant_id, before=None, after={"keys": "revoked"})
    return len(due)
