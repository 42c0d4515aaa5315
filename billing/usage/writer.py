"""Facts into books: one batch of events, one transaction, each event exactly once by its id.

The tenants' credit accounts are locked first, in the order of their ids, and only then is looked which events are known already; so
two processes that tell the same fact cannot both book it, and a commit whose answer was lost is simply told again.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec
from sqlmodel import Session

from billing.credits import store as accounts
from billing.credits.burndown import Charge, burn, spendable_ncr
from billing.credits.store import Totals
from billing.grants import store as grants
from billing.ledger import store as ledger
from billing.ledger.postings import Posting, usage_entries
from billing.usage import store
from billing.usage.event import UsageEvent

log = logging.getLogger(__name__)


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What the books say of a tenant after a batch (ncr). `covered_ncr` is what grants paid of this batch's new events."""

    spendable_ncr: int
    debt_ncr: int
    covered_ncr: int


class Booked(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a batch: every tenant in it with its standing, how many events were new, and the ids that came with other content."""

    standings: dict[str, Standing]
    new: int
    conflicts: list[str]


def book(session: Session, events: Iterable[UsageEvent], now_us: int) -> Booked:
    """Book a batch within the caller's transaction. Events that are known change nothing; one known with other content is a conflict, the first is kept.

    A database error of an event (a tenant that does not exist, a count past 64 bits) is raised and spoils the transaction.
    """
    by_id: dict[str, UsageEvent] = {}
    conflicts: list[str] = []
    by_tenant: dict[str, list[UsageEvent]] = defaultdict(list)
    for event in events:
        by_tenant[event.tenant_id]  # also a tenant whose events are all known gets its standing told
        if event.id in by_id:
            _compare(by_id[event.id], event, conflicts)
        else:
            by_id[event.id] = event
    locked = accounts.lock(session, by_tenant)
    for event_id, first in store.known(session, by_id).items():
        _compare(first, by_id.pop(event_id), conflicts)
    for event in sorted(by_id.values(), key=lambda event: event.id):
        by_tenant[event.tenant_id].append(event)
    covered: dict[str, int] = {}
    standings = {tenant_id: _book_tenant(session, locked[tenant_id], by_tenant[tenant_id], covered, now_us) for tenant_id in sorted(by_tenant)}
    accounts.put(session, [locked[tenant_id] for tenant_id in sorted(by_tenant)])
    store.insert_events(session, list(by_id.values()), covered)
    return Booked(standings=standings, new=len(by_id), conflicts=conflicts)


def _book_tenant(session: Session, totals: Totals, events: Sequence[UsageEvent], covered: dict[str, int], now_us: int) -> Standing:
    starts = [now_us, *(event.started_us for event in events)]
    eligible = grants.eligible_grants(session, totals.tenant_id, min(starts), max(starts))
    burnt = burn(eligible, totals.debt_ncr, [Charge(event.started_us, event.charge_ncr, event.cover_ncr, event.lane == "fast") for event in events])
    covered.update(zip((event.id for event in events), burnt.covered, strict=True))
    paid = sum(burnt.covered)
    if burnt.charged_ncr or burnt.repaid_ncr:
        grants.take(session, burnt.draws)
        totals.debt_ncr = burnt.debt_ncr
        totals.consumed_ncr += paid + burnt.repaid_ncr
        totals.excess_ncr += burnt.excess_ncr
        totals.overage_ncr += burnt.overage_ncr
        entries = usage_entries(
            burnt.draws,
            charged=burnt.charged_ncr,
            repaid=burnt.repaid_ncr,
            new_debt=burnt.new_debt_ncr,
            excess=burnt.excess_ncr,
            overage=burnt.overage_ncr,
        )
        usage = Posting(idem_key=f"usage:{totals.tenant_id}:{events[0].id}", kind="usage", tenant_id=totals.tenant_id, at_us=now_us, entries=entries)
        first_drawn = [grant for grant in eligible if grant.id in burnt.draws and grant.remaining_ncr == grant.amount_ncr]
        ledger.post(session, [*ledger.issues(first_drawn), usage])
    return Standing(spendable_ncr=spendable_ncr(eligible, burnt.left, totals.debt_ncr, now_us), debt_ncr=totals.debt_ncr, covered_ncr=paid)


def _compare(first: UsageEvent, again: UsageEvent, conflicts: list[str]) -> None:
    # A request that was taken for lost is told again as `recovered`; what was really settled stands.
    if again != first and again.source != "recovered":
        conflicts.append(again.id)
        log.error("books: event %s came again with other content and is ignored: booked %s, came %s", again.id, first, again)
