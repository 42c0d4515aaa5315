"""How a batch of usage is posted: every charge goes to `consumed`, out of what paid for it. Pure.

    consumed        + everything that was used
    grant:<id>      - what that grant gave, for use and to repay debt
    debt            - what fast requests used beyond the credits;  + what later grants repaid
    excess          - what the slow lane served past the credits, owed by nobody
    overage         - what was used past the credits and will be invoiced
    issued          - the other side of every grant, but for a rollover, whose other side is the grants it came out of;  + what was voided
    expired         + what was left in grants when they were over

So an account's balance is its sum, and every transaction sums to 0.
"""

from collections.abc import Mapping

import msgspec

CONSUMED, DEBT, EXCESS, OVERAGE, ISSUED, EXPIRED = "consumed", "debt", "excess", "overage", "issued", "expired"
GRANT_PREFIX = "grant:"
VOID, EXPIRE = "void", "expire"  # the two ways in which a grant ends with something left
ROLLOVER = "rollover"  # the kind of grant whose credits were another's, and of the transaction that moved them


class Entry(msgspec.Struct, frozen=True, gc=False):
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


def rollover_posting(grant_id: str, tenant_id: str, at_us: int, taken: Mapping[str, int]) -> Posting:
    """Write what was left in grants (ncr taken, by id) and goes on in another, as a transaction: no credit exists twice."""
    entries = [Entry(GRANT_PREFIX + source, -taken[source]) for source in sorted(taken)]
    moved = balanced((*entries, Entry(GRANT_PREFIX + grant_id, sum(taken.values()))))
    return Posting(idem_key=f"{ROLLOVER}:{grant_id}", kind=ROLLOVER, tenant_id=tenant_id, at_us=at_us, entries=moved)


def end_posting(kind: str, grant_id: str, tenant_id: str, at_us: int, left_ncr: int) -> Posting:
    """Write how a grant ended with something left: `void` gives it back to where it was issued from, `expire` to the account of what ended unused."""
    account = {VOID: ISSUED, EXPIRE: EXPIRED}[kind]
    entries = (Entry(GRANT_PREFIX + grant_id, -left_ncr), Entry(account, left_ncr))
    return Posting(idem_key=f"{kind}:{grant_id}", kind=kind, tenant_id=tenant_id, at_us=at_us, entries=balanced(entries))


def balanced(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """Return the entries, or raise `ValueError` when they do not sum to 0."""
    total = sum(entry.amount_ncr for entry in entries)
    if total:
        raise ValueError(f"the entries {entries} sum to {total} ncr and not to 0")
    return entries
