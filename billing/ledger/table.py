"""The rows of the double entry: a transaction, and the entries that make it sum to 0. Neither is ever changed."""

from sqlalchemy import BigInteger, Integer
from sqlmodel import Field, SQLModel

# SQLite numbers rows by itself only in a column of type INTEGER; both hold 64 bits there.
TxId = BigInteger().with_variant(Integer(), "sqlite")


class LedgerTxRow(SQLModel, table=True):
    """One transaction. `idem_key` makes posting it again a no-op."""

    __tablename__ = "ledger_tx"

    id: int | None = Field(default=None, primary_key=True, sa_type=TxId)
    idem_key: str = Field(unique=True)
    kind: str
    tenant_id: str = Field(index=True)
    at_us: int = Field(sa_type=BigInteger)


class LedgerEntryRow(SQLModel, table=True):
    """One side of a transaction: `amount_ncr` goes into `account` (or out of it, when negative)."""

    __tablename__ = "ledger_entry"

    tx_id: int = Field(primary_key=True, foreign_key="ledger_tx.id", sa_type=TxId)
    seq: int = Field(primary_key=True)
    account: str = Field(index=True)
    amount_ncr: int = Field(sa_type=BigInteger)
