"""Do facts and books agree? Adds up everything and names every difference; used by `weir ledger verify` and the metrics.

Per tenant: events = credit account = ledger, and each grant's balance = what the ledger says is left of it.
"""

from sqlmodel import Session

from billing.credits import store as accounts
from billing.credits.store import Totals
from billing.grants import store as grants
from billing.ledger import store as ledger
from billing.ledger.postings import CONSUMED, DEBT, EXCESS, GRANT_PREFIX, OVERAGE
from billing.usage import store
from billing.usage.store import Sums


def verify(session: Session) -> list[str]:
    """Return one sentence per difference, by tenant; an empty list when everything agrees. Reads every event: seconds per million."""
    problems = [f"ledger transaction {tx_id} sums to {amount} ncr and not to 0" for tx_id, amount in ledger.unbalanced(session)]
    balances = ledger.balances(session)
    sums = store.sums(session)
    totals = accounts.every(session)
    for tenant_id in sorted({*sums, *totals, *(tenant_id for tenant_id, _account in balances)}):
        posted = {account: balances.get((tenant_id, account), 0) for account in (CONSUMED, DEBT, EXCESS, OVERAGE)}
        problems += _tenant(tenant_id, sums.get(tenant_id, Sums()), totals.get(tenant_id, Totals(tenant_id=tenant_id)), posted)
    return problems + _grants(session, balances)


def _tenant(tenant_id: str, events: Sums, account: Totals, posted: dict[str, int]) -> list[str]:
    repaid = account.consumed_ncr - events.covered_ncr
    pairs = [
        ("charges of events", events.charge_ncr, "the ledger's consumed", posted[CONSUMED]),
        ("cover of events", events.cover_ncr, "consumed + debt of the account", account.consumed_ncr + account.debt_ncr),
        ("excess of events", events.excess_ncr, "excess of the account", account.excess_ncr),
        ("overage of events", events.overage_ncr, "overage of the account", account.overage_ncr),
        ("debt of the account", account.debt_ncr, "the ledger's debt", -posted[DEBT]),
        ("excess of the account", account.excess_ncr, "the ledger's excess", -posted[EXCESS]),
        ("overage of the account", account.overage_ncr, "the ledger's overage", -posted[OVERAGE]),
    ]
    problems = [f"tenant {tenant_id}: {left} are {a} ncr, {right} is {b} ncr" for left, a, right, b in pairs if a != b]
    if account.debt_ncr < 0 or repaid < 0:
        problems.append(f"tenant {tenant_id}: debt {account.debt_ncr} ncr and repaid {repaid} ncr, neither can be below 0")
    return problems


def _grants(session: Session, balances: dict[tuple[str, str], int]) -> list[str]:
    problems = []
    untold = {account: amount for (_tenant_id, account), amount in balances.items() if account.startswith(GRANT_PREFIX)}
    for grant in grants.all_grants(session):
        posted = untold.pop(GRANT_PREFIX + grant.id, grant.amount_ncr)  # a grant is posted when it is first drawn from
        if grant.remaining_ncr != posted or not 0 <= grant.remaining_ncr <= grant.amount_ncr:
            problems.append(f"grant {grant.id}: {grant.remaining_ncr} of {grant.amount_ncr} ncr are left, the ledger says {posted} ncr")
    return problems + [f"the ledger draws on {account}, which does not exist" for account in sorted(untold)]
