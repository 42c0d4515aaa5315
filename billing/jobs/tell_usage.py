"""Tell the operator's own systems what was used, hour by hour; where no destination asked for it, nothing is read."""

from sqlmodel import Session

from billing.alerts.store import all_webhooks
from billing.feeds.tell import tell_use

DAYS_MAX = 200


def run_once(session: Session, now_us: int) -> int:
    """Put what is new of at most `DAYS_MAX` days of tenants into the outbox of each destination; return how many days were looked at."""
    return sum(tell_use(session, webhook, now_us, DAYS_MAX) for webhook in all_webhooks(session))
