"""What the books say of one tenant, side by side, for `proofs.py` to compare. Amounts in ncr. Pure."""

import msgspec

from billing.credits.store import Sum, Totals
from billing.grants.grant import Grant
from billing.leases.store import Lease
from billing.ledger.store import Flow
from billing.usage.store import Audit

SpanKey = tuple[str, int]  # a span's name and when it began
Figures = tuple[int, int, int, int, int]  # events, charge, cover, excess, overage
NOTHING: Figures = (0, 0, 0, 0, 0)


class Facts(msgspec.Struct, kw_only=True):
    """One tenant in the books at one instant.

    `flows` are the ledger's movements by (kind of transaction, account); `cover_in_life` by grant what credits paid of the requests that began
    in its life; `purse_ncr` what events say they took from each purse; `spans` the events added up as the running sums should be, and
    `undated` those that do not say their day: they were booked before sums were kept, and the schema's change put them in.
    """

    tenant_id: str
    now_us: int
    events: Audit
    totals: Totals
    flows: dict[tuple[str, str], Flow]
    grants: list[Grant]
    leases: list[Lease]
    cover_in_life: dict[str, int]
    purse_ncr: dict[str, int]
    spans: dict[SpanKey, Figures]
    undated: Figures
    sums: list[Sum]

    def balance(self, account: str) -> int:
        """Return the balance of one of the tenant's ledger accounts."""
        return sum(flow.amount_ncr for (_kind, name), flow in self.flows.items() if name == account)
