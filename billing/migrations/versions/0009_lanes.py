"""What slow means, as a plan says it; and what each process lets the others know."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

NEW = ("spill_after_ms", "slow_flex", "slow_priority", "slow_tokens_per_second", "slow_delay_ms")


def upgrade() -> None:
    """Add the terms, with which the plans sold until now mean what they meant, and a note to each running process."""
    op.add_column("plan_version", sa.Column("slow_delay_ms", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.add_column("plan_version", sa.Column("slow_tokens_per_second", sa.Integer(), nullable=True))
    op.add_column("plan_version", sa.Column("slow_priority", sa.Integer(), nullable=False, server_default=sa.text("10")))
    op.add_column("plan_version", sa.Column("slow_flex", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("plan_version", sa.Column("spill_after_ms", sa.Integer(), nullable=True))
    op.add_column("replica", sa.Column("note", sa.String(), nullable=True))


def downgrade() -> None:
    """Take them away: every plan's slow lane is that of before."""
    op.drop_column("replica", "note")
    for column in NEW:
        op.drop_column("plan_version", column)
