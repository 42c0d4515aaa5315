"""How a batch of usage is posted: every charge goes to `consumed`, out of what paid for it. Pure.

    consumed        + everything that was used
    grant:<id>      - what that grant gave, for use and to repay debt
    debt            - what fast requests used beyond the credits;  + what later grants repaid
    excess          - what the slow lane served past the credits, owed by nobody
    overage         - what was used past the credits and will be invoiced
    issued          - the other side of every grant

So an account's balance is its sum, and every transaction sums to 0.
"""

from collections.abc import Mapping

import msgspec

CONSUMED, DEBT, EXCESS, OVERAGE, ISSUED = "consumed", "debt", "excess", "overage", "issued"
GRANT_PREFIX = "grant:"


class Entry(msgspec.Struct, frozen=True):
    """`amount_ncr` into an account, or out of it when negative."""

    account: str
    amount_ncr: int


class Posting(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction to be written. Posting the same `idem_key` again changes nothing."""

    idem_key: str
    kind: str
    tenant_id: str
    at_us: int
    entries: tuple[Entry, ...]


def usage_entries(draws: Mapping[str, int], *, charged: int, repaid: int, new_debt: int, excess: int, overage: int) -> tuple[Entry, ...]:
    """Write what a batch used and who paid (ncr) as entries, grants by id. Raises `ValueError` when the two sides differ."""
    entries = [Entry(GRANT_PREFIX + grant_id, -draws[grant_id]) for grant_id in sorted(draws)]
    entries += [Entry(DEBT, repaid), Entry(DEBT, -new_debt), Entry(EXCESS, -excess), Entry(OVERAGE, -overage), Entry(CONSUMED, charged)]
    return balanced(tuple(entry for entry in entries if entry.amount_ncr))


def issue_entries(grant_id: str, amount_ncr: int) -> tuple[Entry, ...]:
    """Write the issue of a grant as entries."""
    return balanced((Entry(ISSUED, -amount_ncr), Entry(GRANT_PREFIX + grant_id, amount_ncr)))


def balanced(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """Return the entries, or raise `ValueError` when they do not sum to 0."""
    total = sum(entry.amount_ncr for entry in entries)
    if total:
        raise ValueError(f"the entries {entries} sum to {total} ncr and not to 0")
    return entries
