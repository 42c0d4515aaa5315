"""Processes that share a tenant's credits: replicas, leases, and running sums so that no balance adds up events."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add who runs, what is set aside for whom, the sums, and what an event says of its day, period and purses. Sums of old events are made here once."""
    op.create_table(
        "replica", _text("id"), _big("beat"), _text("host"), sa.Column("pid", sa.Integer(), nullable=False), _big("started_us"), sa.PrimaryKeyConstraint("id")
    )
    op.create_table(
        "lease", _text("tenant_id"), _text("purse"), _text("replica_id"), _big("amount_ncr"), _big("valid_until_us"),
        sa.PrimaryKeyConstraint("tenant_id", "purse", "replica_id"), sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"]),
    )  # fmt: skip
    op.create_index("ix_lease_replica_id", "lease", ["replica_id"])
    op.create_table(
        "usage_sum", _text("tenant_id"), _text("span"), _big("start_us"), _big("events"), _big("charge_ncr"), _big("cover_ncr"), _big("excess_ncr"),
        _big("overage_ncr"), sa.PrimaryKeyConstraint("tenant_id", "span", "start_us"),
    )  # fmt: skip
    for column in ("day_us", "period_us"):
        op.add_column("usage_event", sa.Column(column, sa.BigInteger(), nullable=True))
    op.add_column("usage_event", sa.Column("purses", sa.JSON(), nullable=True))
    op.add_column("usage_event", sa.Column("service_tier", sa.String(), nullable=True))


def downgrade() -> None:
    """Take it away; what purses paid and the sums are lost."""
    for column in ("service_tier", "purses", "period_us", "day_us"):
        op.drop_column("usage_event", column)
    for table in ("usage_sum", "lease", "replica"):
        op.drop_table(table)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=False)


def _big(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)
