"""Queries over ledger transactions and their entries. Takes a session, never commits; nothing here updates or deletes."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import msgspec
from sqlalchemy import Table, case, func
from sqlalchemy import select as columns
from sqlmodel import Session, col, select

from billing.bulk import Insert, InsertNew, among, listed
from billing.ledger.postings import DEBT, GRANT_PREFIX, ROLLOVER, Entry, Posting, balanced, issue_entries
from billing.ledger.table import LedgerEntryRow, LedgerTxRow

_TX: Table = LedgerTxRow.metadata.tables["ledger_tx"]
_ENTRY: Table = LedgerTxRow.metadata.tables["ledger_entry"]
_OF = among(_TX.c.tenant_id)
_INSERT_TX = InsertNew("ledger_tx", {"idem_key": "text", "kind": "text", "tenant_id": "text", "at_us": "bigint"}, key="idem_key", returning="id")
_INSERT_ENTRIES = Insert("ledger_entry", ("tx_id", "seq", "account", "amount_ncr"))


class Flow(NamedTuple):
    """What one kind of transaction moved into and out of an account (ncr, both counted up), and when first."""

    in_ncr: int
    out_ncr: int
    first_us: int

    @property
    def amount_ncr(self) -> int:
        """What it did to the balance."""
        return self.in_ncr - self.out_ncr


class Transaction(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction as it was posted, with its entries in order."""

    id: int
    kind: str
    at_us: int
    idem_key: str
    entries: tuple[Entry, ...]


class Given(Protocol):
    """What the ledger needs to know of a grant; grants stand above it, and post in it."""

    @property
    def id(self) -> str:
        """Name it."""
        ...

    @property
    def tenant_id(self) -> str:
        """Whose it is."""
        ...

    @property
    def kind(self) -> str:
        """How it came about."""
        ...

    @property
    def amount_ncr(self) -> int:
        """What it gave."""
        ...

    @property
    def created_us(self) -> int:
        """When it was written."""
        ...


def post(session: Session, postings: Iterable[Posting]) -> int:
    """Write transactions whose `idem_key` is new; return how many were. Raises `ValueError` for one that does not sum to 0.

    Two statements, however many there are.
    """
    given: dict[str, Posting] = {}
    for posting in postings:
        balanced(posting.entries)
        given.setdefault(posting.idem_key, posting)
    connection = session.connection()
    ids = _INSERT_TX.run(connection, [(posting.idem_key, posting.kind, posting.tenant_id, posting.at_us) for posting in given.values()])
    sides = ((tx_id, given[idem_key].entries) for idem_key, tx_id in ids.items())
    _INSERT_ENTRIES.run(connection, [(tx_id, seq, side.account, side.amount_ncr) for tx_id, entries in sides for seq, side in enumerate(entries)])
    return len(ids)


def issues(grants: Iterable[Given]) -> list[Posting]:
    """Say that grants were issued, as transactions; posting them twice is harmless. A rollover is not: its credits came out of another grant."""
    return [
        Posting(
            idem_key=f"issue:{grant.id}", kind="issue", tenant_id=grant.tenant_id, at_us=grant.created_us, entries=issue_entries(grant.id, grant.amount_ncr)
        )
        for grant in grants
        if grant.kind != ROLLOVER
    ]


def balances(session: Session) -> dict[tuple[str, str], int]:
    """Return the balance of every account by (tenant, account), in ncr."""
    query = (
        select(LedgerTxRow.tenant_id, LedgerEntryRow.account, func.sum(LedgerEntryRow.amount_ncr))
        .join(LedgerTxRow, col(LedgerTxRow.id) == col(LedgerEntryRow.tx_id))
        .group_by(LedgerTxRow.tenant_id, LedgerEntryRow.account)
    )
    return {(tenant_id, account): int(total) for tenant_id, account, total in session.exec(query)}


def repaid(session: Session, tenant_ids: Iterable[str]) -> dict[str, int]:
    """Return how much of tenants' debt grants have repaid since they began (ncr), by tenant; one that never owed anything is left out."""
    query = (
        columns(_TX.c.tenant_id, func.sum(_ENTRY.c.amount_ncr))
        .join(_ENTRY, _ENTRY.c.tx_id == _TX.c.id)
        .where(_ENTRY.c.account == DEBT, _ENTRY.c.amount_ncr > 0, _TX.c.tenant_id.in_(sorted(set(tenant_ids))))
        .group_by(_TX.c.tenant_id)
    )
    return {tenant_id: int(total) for tenant_id, total in session.connection().execute(query)}


def newest_entry(session: Session) -> int:
    """Return the highest id of a transaction that has entries; 0 without any."""
    return session.exec(select(func.max(LedgerEntryRow.tx_id))).one() or 0


def entry_sum(session: Session, after: int, upto: int) -> int:
    """Return the sum of the entries of transactions with an id in (after, upto], in ncr. Costs what lies in there: keep it short."""
    query = select(func.sum(LedgerEntryRow.amount_ncr)).where(col(LedgerEntryRow.tx_id) > after, col(LedgerEntryRow.tx_id) <= upto)
    return int(session.exec(query).one() or 0)


def unbalanced(session: Session) -> list[tuple[int, int]]:
    """Return (transaction id, sum) of every transaction whose entries do not sum to 0; there should be none."""
    total = func.sum(LedgerEntryRow.amount_ncr)
    query = select(LedgerEntryRow.tx_id, total).group_by(col(LedgerEntryRow.tx_id)).having(total != 0).order_by(col(LedgerEntryRow.tx_id))
    return [(tx_id, int(amount)) for tx_id, amount in session.exec(query)]


def empty(session: Session) -> list[int]:
    """Return the ids of transactions without entries; there should be none."""
    query = columns(_TX.c.id).where(~columns(_ENTRY.c.tx_id).where(_ENTRY.c.tx_id == _TX.c.id).exists()).order_by(_TX.c.id)
    return [row.id for row in session.connection().execute(query)]


def counted(session: Session) -> tuple[int, int]:
    """Return how many transactions and how many entries there are."""
    connection = session.connection()
    counts = [connection.execute(columns(func.count()).select_from(table)).scalar_one() for table in (_TX, _ENTRY)]
    return counts[0], counts[1]


def tenants(session: Session) -> set[str]:
    """Return every tenant that has a transaction."""
    return {row.tenant_id for row in session.connection().execute(columns(_TX.c.tenant_id).distinct())}


def flows(session: Session, tenant_ids: Iterable[str]) -> dict[str, dict[tuple[str, str], Flow]]:
    """Add up what moved, by tenant and by (kind of transaction, account)."""
    connection = session.connection()
    amount = _ENTRY.c.amount_ncr
    query = (
        columns(
            _TX.c.tenant_id,
            _TX.c.kind,
            _ENTRY.c.account,
            func.sum(case((amount > 0, amount), else_=0)),
            func.sum(case((amount < 0, -amount), else_=0)),
            func.min(_TX.c.at_us),
        )
        .join_from(_TX, _ENTRY, _TX.c.id == _ENTRY.c.tx_id)
        .where(_OF[connection.dialect.name])
        .group_by(_TX.c.tenant_id, _TX.c.kind, _ENTRY.c.account)
    )
    found: dict[str, dict[tuple[str, str], Flow]] = {}
    for tenant_id, kind, account, received, given, first_us in connection.execute(query, {"ids": listed(connection, tenant_ids)}):
        found.setdefault(tenant_id, {})[kind, account] = Flow(int(received), int(given), first_us)
    return found


def usage_names(session: Session) -> Iterator[tuple[int, str]]:
    """Yield (transaction id, event id) of every transaction of usage: the event is the first of its batch, and the transaction is named after it."""
    query = columns(_TX.c.id, _TX.c.idem_key).where(_TX.c.kind == "usage").execution_options(yield_per=1000)
    for row in session.execute(query):
        yield row.id, row.idem_key.rpartition(":")[2]


def transactions(
    session: Session, tenant_id: str, *, from_us: int | None = None, to_us: int | None = None, before: int | None = None, limit: int = 50
) -> list[Transaction]:
    """Return a tenant's transactions posted in [from_us, to_us), the newest first, at most `limit`; `before`: only those with a lower id."""
    query = columns(_TX.c.id, _TX.c.kind, _TX.c.at_us, _TX.c.idem_key).where(_TX.c.tenant_id == tenant_id).order_by(_TX.c.id.desc()).limit(limit)
    if from_us is not None:
        query = query.where(_TX.c.at_us >= from_us)
    if to_us is not None:
        query = query.where(_TX.c.at_us < to_us)
    if before is not None:
        query = query.where(_TX.c.id < before)
    found = session.connection().execute(query).all()
    entries: dict[int, list[Entry]] = {row.id: [] for row in found}
    of = columns(_ENTRY).where(_ENTRY.c.tx_id.in_(list(entries))).order_by(_ENTRY.c.tx_id, _ENTRY.c.seq)
    for row in session.connection().execute(of):
        entries[row.tx_id].append(Entry(row.account, row.amount_ncr))
    return [Transaction(id=row.id, kind=row.kind, at_us=row.at_us, idem_key=row.idem_key, entries=tuple(entries[row.id])) for row in found]


def rolled_over(session: Session, tenant_id: str) -> dict[str, int]:
    """Return what went on in another grant, in ncr, by the grant that it came out of."""
    query = (
        columns(_ENTRY.c.account, func.sum(-_ENTRY.c.amount_ncr))
        .join_from(_TX, _ENTRY, _TX.c.id == _ENTRY.c.tx_id)
        .where(_TX.c.tenant_id == tenant_id, _TX.c.kind == ROLLOVER, _ENTRY.c.amount_ncr < 0)
        .group_by(_ENTRY.c.account)
    )
    return {account.removeprefix(GRANT_PREFIX): int(ncr) for account, ncr in session.connection().execute(query)}
