"""The row of the audit log. It has no foreign keys: it outlives what it speaks of. It is never changed; the database refuses it."""

from typing import ClassVar

from sqlalchemy import BigInteger, Index
from sqlmodel import Field, SQLModel


class AuditEntryRow(SQLModel, table=True):
    """One admin write. `before` and `after` are JSON as it was hashed, so they are kept as text."""

    __tablename__: ClassVar[str] = "audit_entry"
    __table_args__ = (Index("ix_audit_entry_tenant_id_seq", "tenant_id", "seq"),)
    seq: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    at_us: int = Field(sa_type=BigInteger)
    actor: str
    action: str
    tenant_id: str | None = None
    subject: str
    before: str | None = None
    after: str | None = None
    prev_hash: str
    hash: str
