"""What the accounts in memory hear of a batch that is booked: what its events took, and where their tenants stand now."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from billing.credits.account import Flushed
from billing.leases.quantum import CAP
from billing.usage.event import taken
from billing.usage.waiting import Item
from billing.usage.writer import Standing


def flushed(batch: Iterable[Item], standings: Mapping[str, Standing]) -> list[Flushed]:
    """Add up by tenant what a batch's events took, those of other processes not counted; a tenant without a standing has none told."""
    took: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    by_period: dict[str, dict[tuple[str, int | None], int]] = defaultdict(lambda: defaultdict(int))
    past: dict[str, int] = defaultdict(int)
    for event, _segment, mine in batch:
        tenant_id = event.tenant_id
        tenant = took[tenant_id]
        if not mine:
            continue
        for purse, ncr in taken(event).items():
            tenant[purse] += ncr
            if purse.startswith(CAP):
                by_period[tenant_id][purse, event.period_us] += ncr
        past[tenant_id] += event.charge_ncr - event.cover_ncr
    flushes = []
    for tenant_id, tenant in took.items():
        flush = Flushed(tenant_id=tenant_id, taken=dict(tenant), past_ncr=past[tenant_id], by_period=dict(by_period[tenant_id]))
        if (told := standings.get(tenant_id)) is not None:
            flush = msgspec.structs.replace(flush, states=told.states, ceilings=told.ceilings, debt_ncr=told.debt_ncr, today=told.today)
        flushes.append(flush)
    return flushes
