"""What GPUs of our own cost, and stated rates of exchange: for margins."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Make room for both; nobody has said anything yet."""
    op.create_table(
        "gpu_cost",
        sa.Column("id", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("backend", sa.String(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("hour_pico", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.Column("start_us", sa.BigInteger(), nullable=False),
        sa.Column("end_us", sa.BigInteger(), nullable=True),
        sa.Column("weight_input", sa.Integer(), nullable=False),
        sa.Column("weight_cached", sa.Integer(), nullable=False),
        sa.Column("weight_output", sa.Integer(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "exchange_rate",
        sa.Column("base", sa.String(), nullable=False),
        sa.Column("quote", sa.String(), nullable=False),
        sa.Column("day", sa.String(), nullable=False),
        sa.Column("rate", sa.String(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("base", "quote", "day"),
    )


def downgrade() -> None:
    """Take both away."""
    op.drop_table("exchange_rate")
    op.drop_table("gpu_cost")
