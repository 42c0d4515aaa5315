"""Post what was left in grants that are over, once no request that could use them can still be told.

A request uses the grants of its own start, and is told within the grace; so a grant's rest is its tenant's until its end + `GRACE_US`. An event that
comes later still finds the grant, with nothing in it: what other grants cannot pay of it becomes debt, and a closed grant never changes again. So a clock
alone closes none: the books must have seen a use or a change not long before. Where nothing happens, closing can wait.
"""

import logging
from collections.abc import Iterable

from sqlmodel import Session

from billing.credits import store as accounts
from billing.grants import store as grants
from billing.grants.allowance import ensure_allowance
from billing.grants.grant import Grant
from billing.ledger import store as ledger
from billing.ledger.postings import EXPIRE, end_posting
from billing.plans import store as plans
from billing.tenants.store import changed_us
from billing.usage.store import newest_us

GRACE_US = 72 * 3_600_000_000
GRANTS_MAX = 100  # of one run: it holds the accounts of their tenants until it commits, and their flushes wait for it
BEHIND_US_MAX = 7 * 86_400_000_000  # of the newest fact in the books: past it the clock may be what is wrong

log = logging.getLogger(__name__)


def run_once(session: Session, now_us: int) -> int:
    """Close grants whose end and grace have passed, the first to expire first, at most `GRANTS_MAX`; return how many. Posts nothing for an empty one."""
    over = grants.over_by(session, now_us - GRACE_US, GRANTS_MAX)
    if not over or _alone_with_the_clock(session, now_us):
        return 0
    accounts.lock(session, {tenant_id for _grant_id, tenant_id in over})  # no flush takes from them meanwhile
    ids = [grant_id for grant_id, _tenant_id in over]
    _roll_over(session, grants.get_grants(session, ids))
    left = [grant for grant in grants.get_grants(session, ids) if grant.voided_us is None]
    full = [grant for grant in left if grant.remaining_ncr]
    ends = (end_posting(EXPIRE, grant.id, grant.tenant_id, now_us, grant.remaining_ncr) for grant in full)
    ledger.post(session, [*ledger.issues(full), *ends])
    grants.expire(session, [grant.id for grant in left], now_us)
    return len(over)


def _alone_with_the_clock(session: Session, now_us: int) -> bool:
    seen = [at_us for at_us in (newest_us(session), changed_us(session)) if at_us is not None]
    if not seen or now_us - max(seen) <= BEHIND_US_MAX:
        return False
    behind_days = (now_us - max(seen)) // 86_400_000_000
    log.warning("grants that are over stay open: the newest use or change in the books is %d days behind this clock, too far behind to tell which is wrong",
                behind_days)  # fmt: skip
    return True


def _roll_over(session: Session, over: Iterable[Grant]) -> None:
    # What a plan lets go on moves when somebody first looks at the next period. Where nobody did within the grace, it would be expired instead.
    for tenant_id, end_us in sorted({(grant.tenant_id, grant.expires_us or 0) for grant in over if grant.kind == "plan" and grant.remaining_ncr}):
        found = plans.subscribed(session, tenant_id, end_us)
        if found is not None and found[1].terms.rollover_cap_ncr:
            ensure_allowance(session, tenant_id, end_us, activate=False)
