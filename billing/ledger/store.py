"""Queries over ledger transactions and their entries. Takes a session, never commits; nothing here updates or deletes."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Table, func, insert
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from billing.grants.grant import Grant
from billing.ledger.postings import Posting, balanced, issue_entries
from billing.ledger.table import LedgerEntryRow, LedgerTxRow

_TX: Table = LedgerTxRow.metadata.tables["ledger_tx"]
_ENTRY: Table = LedgerEntryRow.metadata.tables["ledger_entry"]
_INSERT_ENTRIES = insert(_ENTRY)
_INSERT_TX = {
    "postgresql": postgresql.insert(_TX).on_conflict_do_nothing(index_elements=["idem_key"]).returning(_TX.c.id),
    "sqlite": sqlite.insert(_TX).on_conflict_do_nothing(index_elements=["idem_key"]).returning(_TX.c.id),
}


def post(session: Session, postings: Iterable[Posting]) -> int:
    """Write transactions whose `idem_key` is new; return how many were. Raises `ValueError` for one that does not sum to 0."""
    connection = session.connection()
    insert_tx = _INSERT_TX[connection.dialect.name]
    entries: list[dict[str, Any]] = []
    posted = 0
    for posting in postings:
        sides = balanced(posting.entries)
        tx = {"idem_key": posting.idem_key, "kind": posting.kind, "tenant_id": posting.tenant_id, "at_us": posting.at_us}
        tx_id = connection.execute(insert_tx, tx).scalar_one_or_none()
        if tx_id is not None:
            posted += 1
            entries += [{"tx_id": tx_id, "seq": seq, "account": side.account, "amount_ncr": side.amount_ncr} for seq, side in enumerate(sides)]
    if entries:
        connection.execute(_INSERT_ENTRIES, entries)
    return posted


def issues(grants: Iterable[Grant]) -> list[Posting]:
    """Say that grants were issued, as transactions; posting them twice is harmless."""
    return [
        Posting(
            idem_key=f"issue:{grant.id}", kind="issue", tenant_id=grant.tenant_id, at_us=grant.created_us, entries=issue_entries(grant.id, grant.amount_ncr)
        )
        for grant in grants
    ]


def balances(session: Session) -> dict[tuple[str, str], int]:
    """Return the balance of every account by (tenant, account), in ncr."""
    query = (
        select(LedgerTxRow.tenant_id, LedgerEntryRow.account, func.sum(LedgerEntryRow.amount_ncr))
        .join(LedgerTxRow, col(LedgerTxRow.id) == col(LedgerEntryRow.tx_id))
        .group_by(LedgerTxRow.tenant_id, LedgerEntryRow.account)
    )
    return {(tenant_id, account): int(total) for tenant_id, account, total in session.exec(query)}


def entry_sum(session: Session, after: int, upto: int | None = None) -> tuple[int, int]:
    """Return the highest transaction id past `after` (and up to `upto`, if given) and the sum of the entries from there, in ncr.

    Without any such transaction: `after` and 0.
    """
    query = select(func.max(LedgerEntryRow.tx_id), func.sum(LedgerEntryRow.amount_ncr)).where(col(LedgerEntryRow.tx_id) > after)
    last, total = session.exec(query if upto is None else query.where(col(LedgerEntryRow.tx_id) <= upto)).one()
    return int(last or after), int(total or 0)


def unbalanced(session: Session) -> list[tuple[int, int]]:
    """Return (transaction id, sum) of every transaction whose entries do not sum to 0; there should be none."""
    total = func.sum(LedgerEntryRow.amount_ncr)
    query = select(LedgerEntryRow.tx_id, total).group_by(col(LedgerEntryRow.tx_id)).having(total != 0).order_by(col(LedgerEntryRow.tx_id))
    return [(tx_id, int(amount)) for tx_id, amount in session.exec(query)]
