"""The ledger as finance reads it: one tenant's account in full, and the proof that all books agree and the log is whole. Both only read."""

from collections import Counter
from hashlib import sha256
from pathlib import Path

import msgspec
from sqlmodel import Session

from billing.audit.chain import walk
from billing.audit.store import every_entry
from billing.credits import store as accounts
from billing.db import Database
from billing.errors import Invalid
from billing.grants import store as grants
from billing.grants.grant import Grant, purse_of
from billing.invoices import store as invoices
from billing.leases import store as leases
from billing.ledger import store as ledger
from billing.ledger.store import Transaction
from billing.operations.tenants import require_tenant
from billing.periods import store as periods
from billing.usage.proofs import Proof
from billing.usage.verify import prove

TRANSACTIONS_MAX = 1000


class GrantAccount(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a grant (ncr): amount = used + rolled_over + expired + voided + left. `state`: in effect, later, over, void. `scope`: None for all."""

    id: str
    kind: str
    state: str
    scope: str | None
    amount_ncr: int
    used_ncr: int
    rolled_over_ncr: int
    expired_ncr: int
    voided_ncr: int
    left_ncr: int
    effective_us: int
    expires_us: int | None


class Leased(msgspec.Struct, frozen=True, kw_only=True):
    """Credits of one purse (or ceiling, "cap:...") that are set aside for one process, and until when at most."""

    process: str
    host: str | None
    pid: int | None
    purse: str
    amount_ncr: int
    valid_until_us: int


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's account at one instant (ncr). `more`: there are older transactions than those given."""

    tenant_id: str
    at_us: int
    left_ncr: int
    leased_ncr: int
    debt_ncr: int
    consumed_ncr: int
    excess_ncr: int
    overage_ncr: int
    grants: tuple[GrantAccount, ...]
    leases: tuple[Leased, ...]
    transactions: tuple[Transaction, ...]
    more: bool


def statement(
    db: Database, tenant_id: str, *, now_us: int, from_us: int | None = None, to_us: int | None = None, before: int | None = None, limit: int = 50
) -> Statement:
    """Return a tenant's account, with its transactions posted in [from_us, to_us), the newest first and `before` a transaction's id.

    Raises `NotFound` (tenant) and `Invalid` (limit).
    """
    if not 1 <= limit <= TRANSACTIONS_MAX:
        raise Invalid("limit", f"limit: {limit} is out of range; between 1 and {TRANSACTIONS_MAX}")
    with db.read(snapshot=True) as session:
        require_tenant(session, tenant_id)
        totals = accounts.get(session, tenant_id)
        given = _grants(session, tenant_id, now_us)
        held = _leases(session, tenant_id)
        found = ledger.transactions(session, tenant_id, from_us=from_us, to_us=to_us, before=before, limit=limit + 1)
    return Statement(
        tenant_id=tenant_id,
        at_us=now_us,
        left_ncr=sum(grant.left_ncr for grant in given if grant.state == "in effect"),
        leased_ncr=sum(lease.amount_ncr for lease in held if not lease.purse.startswith("cap:")),
        debt_ncr=totals.debt_ncr,
        consumed_ncr=totals.consumed_ncr,
        excess_ncr=totals.excess_ncr,
        overage_ncr=totals.overage_ncr,
        grants=given,
        leases=held,
        transactions=tuple(found[:limit]),
        more=len(found) > limit,
    )


def verify(db: Database, now_us: int, journal: Path | None = None) -> list[Proof]:
    """Prove the invariants of the books, the audit log's chain and what was issued, in one snapshot, also while they are written to.

    `journal`: this machine's journal folder, looked through too.
    """
    with db.read(long=True, snapshot=True) as session:
        return [*prove(session, now_us, journal), _untouched(session), _as_issued(session)]


def _as_issued(session: Session) -> Proof:
    proof = Proof(number="invoices", says="closed periods and issued invoices are as they were")
    for tenant_id, start_us, content, digest in periods.sealed(session):
        proof.checked["periods"] += 1
        if sha256(content.encode()).hexdigest() != digest:
            proof.differ(f"the period of tenant `{tenant_id}` that began at {start_us} is not what it was when it was closed")
    for name, content, digest in invoices.all_kept(session):
        proof.checked["invoices"] += 1
        if sha256(content.encode()).hexdigest() != digest:
            proof.differ(f"invoice `{name}` does not say what it said when it was issued")
    return proof


def _untouched(session: Session) -> Proof:
    verdict = walk(every_entry(session))
    return Proof(
        number="audit",
        says="the audit log is as it was written",
        checked=Counter(entries=verdict.entries),
        differences=[fault.says for fault in verdict.faults],
        omitted=verdict.omitted,
    )


def _grants(session: Session, tenant_id: str, now_us: int) -> tuple[GrantAccount, ...]:
    moved = ledger.rolled_over(session, tenant_id)
    return tuple(_grant(grant, moved.get(grant.id, 0), now_us) for grant in grants.all_grants(session, tenant_id))


def _grant(grant: Grant, rolled_over_ncr: int, now_us: int) -> GrantAccount:
    state = "in effect"
    if grant.voided_us is not None:
        state = "void"
    elif grant.expires_us is not None and grant.expires_us <= now_us:
        state = "over"
    elif grant.effective_us > now_us:
        state = "later"
    unposted = grant.remaining_ncr if state == "over" else 0  # it is posted as expired when the events of its time can no longer come
    return GrantAccount(
        id=grant.id,
        kind=grant.kind,
        state=state,
        scope=purse_of(grant) or None,
        amount_ncr=grant.amount_ncr,
        used_ncr=grant.used_ncr - rolled_over_ncr,
        rolled_over_ncr=rolled_over_ncr,
        expired_ncr=grant.expired_ncr + unposted,
        voided_ncr=grant.voided_ncr,
        left_ncr=grant.remaining_ncr - unposted,
        effective_us=grant.effective_us,
        expires_us=grant.expires_us,
    )


def _leases(session: Session, tenant_id: str) -> tuple[Leased, ...]:
    processes = {process.id: process for process in leases.replicas(session)}
    found = []
    for lease in leases.leases_of(session, [tenant_id]).get(tenant_id, []):
        process = processes.get(lease.replica_id)
        found.append(
            Leased(
                process=lease.replica_id,
                host=process.host if process else None,
                pid=process.pid if process else None,
                purse=lease.purse,
                amount_ncr=lease.amount_ncr,
                valid_until_us=lease.valid_until_us,
            )
        )
    return tuple(sorted(found, key=lambda lease: (lease.process, lease.purse)))
