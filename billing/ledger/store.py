"""Queries over ledger transactions and their entries. Takes a session, never commits; nothing here updates or deletes."""

from collections.abc import Iterable, Sequence

from sqlalchemy import func, insert
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from billing.grants.grant import Grant
from billing.ledger.postings import Posting, balanced, issue_entries
from billing.ledger.table import LedgerEntryRow, LedgerTxRow


def post(session: Session, postings: Sequence[Posting]) -> int:
    """Write transactions whose `idem_key` is new; return how many were. Raises `ValueError` for one that does not sum to 0."""
    wanted = {posting.idem_key: posting for posting in postings if balanced(posting.entries)}
    if not wanted:
        return 0
    new = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    rows = [{"idem_key": p.idem_key, "kind": p.kind, "tenant_id": p.tenant_id, "at_us": p.at_us} for p in wanted.values()]
    statement = new(LedgerTxRow).values(rows).on_conflict_do_nothing(index_elements=["idem_key"])
    inserted = session.execute(statement.returning(col(LedgerTxRow.id), col(LedgerTxRow.idem_key))).all()
    entries = [
        {"tx_id": tx_id, "seq": seq, "account": entry.account, "amount_ncr": entry.amount_ncr}
        for tx_id, idem_key in inserted
        for seq, entry in enumerate(wanted[idem_key].entries)
    ]
    if entries:
        session.execute(insert(LedgerEntryRow), entries)
    return len(inserted)


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


def unbalanced(session: Session) -> list[tuple[int, int]]:
    """Return (transaction id, sum) of every transaction whose entries do not sum to 0; there should be none."""
    total = func.sum(LedgerEntryRow.amount_ncr)
    query = select(LedgerEntryRow.tx_id, total).group_by(col(LedgerEntryRow.tx_id)).having(total != 0).order_by(col(LedgerEntryRow.tx_id))
    return [(tx_id, int(amount)) for tx_id, amount in session.exec(query)]
