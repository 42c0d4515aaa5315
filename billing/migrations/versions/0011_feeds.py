"""Destinations of other kinds than webhooks, and what they were told of use."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Make room; every endpoint there is stays the webhook that it was."""
    op.add_column("webhook", sa.Column("kind", sa.String(), nullable=False, server_default=sa.text("'webhook'")))
    op.add_column("webhook", sa.Column("options", sa.JSON(), nullable=True))
    op.create_table(
        "feed_day", _text("webhook_id"), _text("tenant_id"), sa.Column("day_us", sa.BigInteger(), nullable=False, autoincrement=False),
        _big("events"), _big("looked_us"), sa.PrimaryKeyConstraint("webhook_id", "tenant_id", "day_us"),
    )  # fmt: skip
    op.create_table(
        "feed_told", _text("webhook_id"), _text("tenant_id"), sa.Column("day_us", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("hour_us", sa.BigInteger(), nullable=False, autoincrement=False), _text("model"), _text("project"), _big("requests"), _big("unreported"),
        sa.Column("units", sa.JSON(), nullable=False), _big("charge_ncr"), _big("cover_ncr"), _big("excess_ncr"), _big("overage_ncr"),
        sa.PrimaryKeyConstraint("webhook_id", "tenant_id", "day_us", "hour_us", "model", "project"),
    )  # fmt: skip
    op.create_table("feed_tenant", _text("webhook_id"), _text("tenant_id"), _big("carry_ncr"), sa.PrimaryKeyConstraint("webhook_id", "tenant_id"))
    op.create_table(
        "stripe_customer", _text("tenant_id"), _text("customer"), sa.PrimaryKeyConstraint("tenant_id"), sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"])
    )


def downgrade() -> None:
    """Take it away, and every endpoint that is no webhook with it."""
    for table in ("stripe_customer", "feed_tenant", "feed_told", "feed_day"):
        op.drop_table(table)
    op.execute("DELETE FROM webhook_delivery WHERE webhook_id IN (SELECT id FROM webhook WHERE kind <> 'webhook')")
    op.execute("DELETE FROM webhook WHERE kind <> 'webhook'")
    op.drop_column("webhook", "options")
    op.drop_column("webhook", "kind")


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=False)


def _big(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)
