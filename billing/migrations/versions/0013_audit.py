"""The audit log: who changed what. Its entries are refused UPDATE and DELETE by the database itself, as facts are."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

TEXTS = ("actor", "action", "tenant_id", "subject", "before", "after", "prev_hash", "hash")


def upgrade() -> None:
    """Make room for it; what was done before is not in it."""
    op.create_table(
        "audit_entry",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=name in ("tenant_id", "before", "after")) for name in TEXTS),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("ix_audit_entry_tenant_id_seq", "audit_entry", ["tenant_id", "seq"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute("CREATE TRIGGER audit_entry_immutable BEFORE UPDATE OR DELETE ON audit_entry FOR EACH ROW EXECUTE FUNCTION weir_refuse_change()")
        op.execute("CREATE TRIGGER audit_entry_kept BEFORE TRUNCATE ON audit_entry FOR EACH STATEMENT EXECUTE FUNCTION weir_refuse_change()")
        return
    for verb in ("UPDATE", "DELETE"):
        refused = f"BEGIN SELECT RAISE(ABORT, 'audit_entry is never changed: {verb} refused'); END"
        op.execute(f"CREATE TRIGGER audit_entry_no_{verb.lower()} BEFORE {verb} ON audit_entry {refused}")
    # INSERT OR REPLACE deletes what is there without asking the trigger above.
    op.execute(
        "CREATE TRIGGER audit_entry_no_replace BEFORE INSERT ON audit_entry WHEN EXISTS (SELECT 1 FROM audit_entry WHERE seq = NEW.seq) "
        "BEGIN SELECT RAISE(ABORT, 'audit_entry is never changed: REPLACE refused'); END"
    )


def downgrade() -> None:
    """Drop it; its triggers go with it."""
    op.drop_table("audit_entry")
