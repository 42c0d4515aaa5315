"""What the accounts in memory hear of a batch that is booked: what its events took, and where their tenants stand now."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from billing.credits.account import Flushed
from billing.leases.quantum import CAP
from billing.usage.event import taken
from billing.usage.waiting import Item
from billing.usage.writer import Standing


def flushed(batch: Iterable[Item], standings: Mapping[str, Standing]) -> list[Flushed]:
    """Add up by tenant what a batch's events took, those of other processes not counted; a tenant without a standing has none told."""
    took: dict[str, Counter[str]] = defaultdict(Counter)
    by_period: dict[str, Counter[tuple[str, int | None]]] = defaultdict(Counter)
    past: Counter[str] = Counter()
    for event, _segment, mine in batch:
        tenant = took[event.tenant_id]
        if not mine:
            continue
        tenant.update(taken(event))
        for purse, ncr in (event.purses or {}).items():
            if purse.startswith(CAP):
                by_period[event.tenant_id][purse, event.period_us] += ncr
        past[event.tenant_id] += event.charge_ncr - event.cover_ncr
    flushes = []
    for tenant_id, tenant in took.items():
        flush = Flushed(tenant_id=tenant_id, taken=dict(tenant), past_ncr=past[tenant_id], by_period=dict(by_period[tenant_id]))
        if (told := standings.get(tenant_id)) is not None:
            flush = msgspec.structs.replace(flush, states=told.states, ceilings=told.ceilings, debt_ncr=told.debt_ncr, today=told.today)
        flushes.append(flush)
    return flushes
