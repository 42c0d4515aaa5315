"""Grants with a scope and an end in the ledger; projects; ceilings of keys and projects."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

# What a posting that ended a grant took out of it: the ledger is append-only, so it still knows after a step down and up again.
CLOSE_VOID = """
    UPDATE grant_balance SET remaining_ncr = 0, voided_ncr = COALESCE((
        SELECT SUM(entry.amount_ncr) FROM ledger_tx AS tx JOIN ledger_entry AS entry ON entry.tx_id = tx.id
        WHERE tx.idem_key = 'void:' || grant_balance.grant_id AND entry.amount_ncr > 0), 0)
    WHERE grant_id IN (SELECT id FROM credit_grant WHERE voided_us IS NOT NULL)
"""
CLOSE_EXPIRED = """
    UPDATE grant_balance SET expired_ncr = COALESCE((
        SELECT SUM(entry.amount_ncr) FROM ledger_tx AS tx JOIN ledger_entry AS entry ON entry.tx_id = tx.id
        WHERE tx.idem_key = 'expire:' || grant_balance.grant_id AND entry.amount_ncr > 0), 0)
    WHERE remaining_ncr = 0 AND grant_id IN (SELECT id FROM credit_grant WHERE expires_us IS NOT NULL AND voided_us IS NULL)
"""


def upgrade() -> None:
    """Add who may use a grant (NULL is anybody, as before), what of it ended unused, projects with a row for those that keys name, and ceilings."""
    op.add_column("credit_grant", sa.Column("key_id", sa.String(), nullable=True))
    op.add_column("credit_grant", sa.Column("project", sa.String(), nullable=True))
    op.add_column("credit_grant", sa.Column("models", sa.JSON(), nullable=True))
    op.add_column("credit_grant", sa.Column("closed_us", sa.BigInteger(), nullable=True))
    for column in ("expired_ncr", "voided_ncr"):
        op.add_column("grant_balance", sa.Column(column, sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    op.add_column("api_key", sa.Column("ceiling_ncr", sa.BigInteger(), nullable=True))
    op.create_table(
        "project", sa.Column("tenant_id", sa.String(), nullable=False), sa.Column("name", sa.String(), nullable=False),
        sa.Column("ceiling_ncr", sa.BigInteger(), nullable=True), sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "name"), sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"]),
    )  # fmt: skip
    op.execute(
        "INSERT INTO project (tenant_id, name, created_us) SELECT tenant_id, project, MIN(created_us) FROM api_key"
        " WHERE tenant_id IS NOT NULL AND project IS NOT NULL GROUP BY tenant_id, project"
    )
    _close_what_has_ended()
    still_open = sa.text("closed_us IS NULL")
    op.create_index("ix_credit_grant_open_expires_us", "credit_grant", ["expires_us", "id"], postgresql_where=still_open, sqlite_where=still_open)


def downgrade() -> None:
    """Take it away. What of a grant ended unused stays out of it: the ledger says so too."""
    op.drop_index("ix_credit_grant_open_expires_us", "credit_grant")
    op.drop_table("project")
    op.drop_column("api_key", "ceiling_ncr")
    for column in ("voided_ncr", "expired_ncr"):
        op.drop_column("grant_balance", column)
    for column in ("closed_us", "models", "project", "key_id"):
        op.drop_column("credit_grant", column)


def _close_what_has_ended() -> None:
    """Say of void grants what was voided (their rest stayed beside them until now), and of those posted as expired what expired."""
    op.execute(CLOSE_VOID)
    op.execute("UPDATE credit_grant SET closed_us = voided_us WHERE voided_us IS NOT NULL")
    op.execute(CLOSE_EXPIRED)
