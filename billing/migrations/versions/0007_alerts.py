"""Thresholds of credits, and the webhooks that tell of them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add what was reached, endpoints and their outbox; and to each account how far the books have looked.

    What was reached before is found at the next flush.
    """
    for column, kind in (("noticed_us", sa.BigInteger()), ("noticed_percent", sa.Integer())):
        op.add_column("credit_account", sa.Column(column, kind, nullable=False, server_default=sa.text("0")))
    op.create_table(
        "threshold", _text("tenant_id"), sa.Column("period_us", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("percent", sa.Integer(), nullable=False, autoincrement=False), _big("at_us"), _big("used_ncr"), _big("limit_ncr"),
        sa.PrimaryKeyConstraint("tenant_id", "period_us", "percent"),
    )  # fmt: skip
    op.create_table(
        "webhook", _text("id"), _text("url"), _text("tenant_id", null=True), sa.Column("events", sa.JSON(), nullable=True), _big("created_us"),
        _big("disabled_us", null=True), sa.PrimaryKeyConstraint("id"), sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"]),
    )  # fmt: skip
    op.create_index("ix_webhook_tenant_id", "webhook", ["tenant_id"])
    op.create_table(
        "webhook_delivery", _text("id"), _text("webhook_id"), _text("tenant_id", null=True), _text("type"), _text("body"), _text("state"), _big("created_us"),
        _big("due_us"), sa.Column("tries", sa.Integer(), nullable=False), _big("tried_us", null=True), sa.Column("status", sa.Integer(), nullable=True),
        _text("answer", null=True), sa.PrimaryKeyConstraint("id"),
    )  # fmt: skip
    waiting = sa.text("state = 'waiting'")
    op.create_index("ix_webhook_delivery_due", "webhook_delivery", ["due_us", "webhook_id"], postgresql_where=waiting, sqlite_where=waiting)
    op.create_index("ix_webhook_delivery_created_us", "webhook_delivery", ["created_us", "id"])
    op.create_index("ix_webhook_delivery_webhook_id", "webhook_delivery", ["webhook_id"])


def downgrade() -> None:
    """Take it away: what was reached, the endpoints and what was not delivered are lost."""
    for table in ("webhook_delivery", "webhook", "threshold"):
        op.drop_table(table)
    for column in ("noticed_percent", "noticed_us"):
        op.drop_column("credit_account", column)


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=null)


def _big(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=null)
