"""Facts into books: one batch of events, one transaction, each event exactly once by its id.

The tenants' credit accounts are locked first, in the order of their ids, and only then is looked which events are known already; so
two processes that tell the same fact cannot both book it, and a commit whose answer was lost is simply told again. What this process
had leased for what it books is taken off its leases in the same transaction.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from sqlmodel import Session

from billing.alerts import store as alerts
from billing.alerts.thresholds import Noticed, Threshold, crossed
from billing.credits import store as accounts
from billing.credits.burndown import Burn, Charge, burn
from billing.credits.draw import pots_of, share_out
from billing.credits.purse import PurseState
from billing.credits.store import DAY, KEY_PREFIX, PERIOD, PROJECT_PREFIX, Sum, Totals
from billing.grants import store as grants
from billing.grants.grant import Grant
from billing.leases import store as leases
from billing.leases.quantum import CAP
from billing.leases.store import Lease
from billing.ledger import store as ledger
from billing.ledger.postings import Posting, usage_entries
from billing.usage import store
from billing.usage.event import UsageEvent, excess_ncr, overage_ncr, taken

log = logging.getLogger(__name__)


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What the books say of a tenant after a batch (ncr). `covered_ncr` is what grants paid of this batch's new events.

    `states` are its purses, `ceilings` what is leased to this process of each. `today`: when its day of the newest event began, and what was
    served past its credits since, by any process; None where this batch had none of that.
    """

    states: tuple[PurseState, ...]
    ceilings: dict[str, int]
    today: tuple[int, int] | None = None
    debt_ncr: int
    covered_ncr: int


class Booked(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a batch: every tenant in it with its standing, how many events were new, and the ids that came with other content."""

    standings: dict[str, Standing]
    new: int
    conflicts: list[str]


def book(
    session: Session, events: Iterable[UsageEvent], now_us: int, replica_id: str = "", mine: frozenset[str] | None = None, *, gone: Sequence[str] = ()
) -> Booked:
    """Book a batch within the caller's transaction. Events that are known change nothing; one known with other content is a conflict, the first is kept.

    `mine` are the ids that the process `replica_id` has leases for (None: all of them). The others were told by processes that are gone; `gone` are those
    whose leases are still in the books: they backed those events, and must not go on counting as set aside beside what is left then.
    A database error of an event (a tenant that does not exist, a count past 64 bits) is raised and spoils the transaction.
    """
    by_id: dict[str, UsageEvent] = {}
    again: list[UsageEvent] = []
    conflicts: list[UsageEvent] = []
    by_tenant: dict[str, list[UsageEvent]] = defaultdict(list)
    for event in events:
        by_tenant[event.tenant_id]  # also a tenant whose events are all known gets its standing told
        if event.id in by_id:
            again.append(event)
        else:
            by_id[event.id] = event
    locked = accounts.lock(session, by_tenant)
    booked = store.known(session, by_id)
    for event in (*again, *(by_id[event_id] for event_id in booked)):
        _compare(booked.get(event.id) or by_id[event.id], event, conflicts)
    for event_id in booked:
        del by_id[event_id]
    for event in sorted(by_id.values(), key=lambda event: event.id):
        by_tenant[event.tenant_id].append(event)
    others = _took(event for event in by_id.values() if mine is not None and event.id not in mine)
    took = dict.fromkeys(gone, others) | {replica_id: _took(event for event in by_id.values() if mine is None or event.id in mine)}
    held = _lower(session, list(by_tenant), took)
    burnt = _burn(session, by_tenant, locked, now_us)
    covered = {event.id: ncr for tenant_id, events in by_tenant.items() for event, ncr in zip(events, burnt[tenant_id][1].covered, strict=True)}
    _post(session, by_tenant, burnt, now_us)
    grants.take(session, {grant_id: ncr for _grants, one in burnt.values() for grant_id, ncr in one.draws.items()})
    noticed = _crossed(by_tenant, burnt, locked, now_us)
    accounts.put(session, [_totals(locked[tenant_id], burnt[tenant_id][1], noticed[tenant_id][1]) for tenant_id in sorted(by_tenant)])
    alerts.note(session, [one for found, _noticed in noticed.values() for one in found])
    accounts.add_sums(session, _sums(by_id.values()))
    store.insert_events(session, list(by_id.values()), covered)
    store.keep_conflicts(session, conflicts, now_us)
    today = _today(session, by_tenant)
    standings = {tenant_id: _standing(*burnt[tenant_id], held.get(tenant_id, []), replica_id, now_us, today=today.get(tenant_id)) for tenant_id in by_tenant}
    return Booked(standings=standings, new=len(by_id), conflicts=[event.id for event in conflicts])


def _took(events: Iterable[UsageEvent]) -> Counter[tuple[str, str]]:
    """Sum what events took (ncr), by tenant and purse or ceiling."""
    took = Counter[tuple[str, str]]()
    for event in events:
        for purse, ncr in taken(event).items():
            took[event.tenant_id, purse] += ncr
    return took


def _lower(session: Session, tenant_ids: Sequence[str], took: Mapping[str, Counter[tuple[str, str]]]) -> dict[str, list[Lease]]:
    """Take what was taken off the leases that backed it, by process; return every lease of the tenants as it is then.

    Processes with the same counter share it: what one of them has not is taken off the next.
    """
    lowered: dict[str, dict[tuple[str, str], int]] = defaultdict(dict)
    after: dict[str, list[Lease]] = {}
    for tenant_id, found in leases.leases_of(session, tenant_ids).items():
        after[tenant_id] = []
        for lease in found:
            backed, part = took.get(lease.replica_id), (tenant_id, lease.purse)
            amount = 0 if backed is None else min(backed[part], lease.amount_ncr)
            if backed is not None and amount:
                backed[part] -= amount
                lowered[lease.replica_id][part] = amount
            after[tenant_id].append(msgspec.structs.replace(lease, amount_ncr=lease.amount_ncr - amount) if amount else lease)
    for holder, amounts in sorted(lowered.items()):
        leases.lower(session, holder, amounts)
    return after


def _burn(session: Session, by_tenant: Mapping[str, Sequence[UsageEvent]], locked: Mapping[str, Totals], now_us: int) -> dict[str, tuple[list[Grant], Burn]]:
    starts = [now_us, *(event.started_us for events in by_tenant.values() for event in events)]
    eligible = grants.eligible_grants(session, by_tenant, min(starts), max(starts))
    burnt = {}
    for tenant_id, events in by_tenant.items():
        mine = eligible.get(tenant_id, [])
        charges = [Charge(event.started_us, event.charge_ncr, event.cover_ncr, event.lane == "fast", event.purses) for event in events]
        burnt[tenant_id] = (mine, burn(mine, locked[tenant_id].debt_ncr, charges))
    return burnt


def _post(session: Session, by_tenant: Mapping[str, Sequence[UsageEvent]], burnt: Mapping[str, tuple[list[Grant], Burn]], now_us: int) -> None:
    postings: list[Posting] = []
    for tenant_id, (eligible, one) in sorted(burnt.items()):
        if not one.charged_ncr and not one.repaid_ncr:
            continue
        postings += ledger.issues([grant for grant in eligible if grant.id in one.draws and grant.remaining_ncr == grant.amount_ncr])  # first drawn from
        entries = usage_entries(
            one.draws, charged=one.charged_ncr, repaid=one.repaid_ncr, new_debt=one.new_debt_ncr, excess=one.excess_ncr, overage=one.overage_ncr
        )
        key = f"usage:{tenant_id}:{by_tenant[tenant_id][0].id}"
        postings.append(Posting(idem_key=key, kind="usage", tenant_id=tenant_id, at_us=now_us, entries=entries))
    ledger.post(session, postings)


def _crossed(
    by_tenant: Mapping[str, Sequence[UsageEvent]], burnt: Mapping[str, tuple[list[Grant], Burn]], locked: Mapping[str, Totals], now_us: int
) -> dict[str, tuple[list[Threshold], Noticed]]:
    found = {}
    for tenant_id, events in sorted(by_tenant.items()):
        noticed = Noticed(locked[tenant_id].noticed_us, locked[tenant_id].noticed_percent)
        found[tenant_id] = crossed(tenant_id, ((event.period_us, event.started_us) for event in events), *burnt[tenant_id], noticed=noticed, now_us=now_us)
    return found


def _totals(before: Totals, one: Burn, noticed: Noticed) -> Totals:
    return Totals(
        tenant_id=before.tenant_id,
        debt_ncr=one.debt_ncr,
        consumed_ncr=before.consumed_ncr + sum(one.covered) + one.repaid_ncr,
        excess_ncr=before.excess_ncr + one.excess_ncr,
        overage_ncr=before.overage_ncr + one.overage_ncr,
        noticed_us=noticed.period_us,
        noticed_percent=noticed.percent,
    )


def _sums(events: Iterable[UsageEvent]) -> list[Sum]:
    """Add events up by tenant and span, each sum once; what does not say its day or period (made before they did) is in none of those."""
    alike: dict[tuple[str, int | None, int | None, str, str | None], list[int]] = {}
    for event in events:  # first those that go into the same sums: of many events in a batch there are few kinds
        kind = (event.tenant_id, event.day_us, event.period_us, event.key_id, event.project)
        total = alike.get(kind)
        if total is None:
            total = alike[kind] = [0] * 5
        total[0] += 1
        total[1] += event.charge_ncr
        total[2] += event.cover_ncr
        total[3] += excess_ncr(event)
        total[4] += overage_ncr(event)
    found: dict[tuple[str, str, int], list[int]] = {}
    for (tenant_id, day_us, period_us, key_id, project), figures in alike.items():
        spans = [] if day_us is None else [(DAY, day_us)]
        if period_us is not None:
            spans += [(PERIOD, period_us), (KEY_PREFIX + key_id, period_us)]
            spans += [] if project is None else [(PROJECT_PREFIX + project, period_us)]
        for span, start_us in spans:
            before = found.get((tenant_id, span, start_us))
            found[tenant_id, span, start_us] = figures if before is None else [one + more for one, more in zip(before, figures, strict=True)]
    return [
        Sum(tenant_id=tenant_id, span=span, start_us=start_us, events=one[0], charge_ncr=one[1], cover_ncr=one[2], excess_ncr=one[3], overage_ncr=one[4])
        for (tenant_id, span, start_us), one in sorted(found.items())
    ]


def _today(session: Session, by_tenant: Mapping[str, Sequence[UsageEvent]]) -> dict[str, tuple[int, int]]:
    """Return what tenants that went past their credits in this batch were served past them on their newest day; asks nothing where none did."""
    days: dict[str, int] = {}
    for tenant_id, events in by_tenant.items():
        if any(event.charge_ncr > event.cover_ncr for event in events):
            days[tenant_id] = max((event.day_us for event in events if event.day_us is not None), default=0)
    return {tenant_id: (days[tenant_id], ncr) for tenant_id, ncr in accounts.past_of_days(session, days).items()}


def _standing(eligible: Sequence[Grant], one: Burn, held: Iterable[Lease], replica_id: str, now_us: int, *, today: tuple[int, int] | None) -> Standing:
    current = [msgspec.structs.replace(grant, remaining_ncr=one.left[grant.id]) for grant in eligible]
    pots = pots_of(current, one.debt_ncr, now_us)
    share_out(pots, held, replica_id, now_us)
    ceilings = {lease.purse: lease.amount_ncr for lease in held if lease.purse.startswith(CAP) and lease.replica_id == replica_id}
    states = tuple(pot.state() for pot in pots.values())
    return Standing(states=states, ceilings=ceilings, today=today, debt_ncr=one.debt_ncr, covered_ncr=sum(one.covered))


def _compare(first: UsageEvent, again: UsageEvent, conflicts: list[UsageEvent]) -> None:
    # A request that was taken for lost is told again as `recovered`; what was really settled stands.
    if again != first and again.source != "recovered":
        conflicts.append(again)
        log.error("books: event %s came again with other content and is ignored: booked %s, came %s", again.id, first, again)
