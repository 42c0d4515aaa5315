"""Who tenants are on paper, and who sends them invoices."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def _party() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("address", sa.JSON(), nullable=False),
        sa.Column("country", sa.String(), nullable=True),
        sa.Column("tax_id", sa.String(), nullable=True),
        sa.Column("email", sa.String(), nullable=True),
    )


def upgrade() -> None:
    """Make room for both; nobody has said anything yet."""
    op.create_table(
        "tenant_profile",
        sa.Column("tenant_id", sa.String(), nullable=False),
        *_party(),
        sa.Column("tax_category", sa.String(), nullable=False),
        sa.Column("tax_percent", sa.String(), nullable=False),
        sa.Column("tax_note", sa.String(), nullable=True),
        sa.Column("po_number", sa.String(), nullable=True),
        sa.Column("cost_centre", sa.String(), nullable=True),
        sa.Column("language", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"]),
        sa.PrimaryKeyConstraint("tenant_id"),
    )
    op.create_table(
        "company",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=False),
        *_party(),
        sa.Column("series", sa.String(), nullable=False),
        sa.Column("credit_series", sa.String(), nullable=False),
        sa.Column("grace_hours", sa.Integer(), nullable=False),
        sa.Column("payment_days", sa.Integer(), nullable=False),
        sa.Column("bank", sa.JSON(), nullable=False),
        sa.Column("footer", sa.String(), nullable=True),
        sa.Column("logo", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )


def downgrade() -> None:
    """Take both away."""
    op.drop_table("company")
    op.drop_table("tenant_profile")
