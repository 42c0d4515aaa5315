"""Tenants that are closed, lists of tenants and keys that are read a page at a time, and what was said of model servers."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Make room for the instant from which a tenant is closed; nobody is."""
    op.add_column("tenant", sa.Column("closes_us", sa.BigInteger(), nullable=True))
    op.create_index("ix_tenant_name_id", "tenant", ["name", "id"])
    op.create_index("ix_tenant_created_us_id", "tenant", ["created_us", "id"])
    open_ = sa.text("state <> 'closed'")
    op.create_index("ix_tenant_closing", "tenant", ["closes_us"], postgresql_where=open_, sqlite_where=open_)
    op.create_index("ix_api_key_created_us_id", "api_key", ["created_us", "id"])
    op.create_table(
        "backend_server",
        sa.Column("backend", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("draining", sa.Boolean(), nullable=False),
        sa.Column("weight", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("backend", "url"),
    )


def downgrade() -> None:
    """Forget who is closed: their keys stay revoked."""
    op.drop_table("backend_server")
    op.drop_index("ix_api_key_created_us_id", "api_key")
    for index in ("ix_tenant_closing", "ix_tenant_created_us_id", "ix_tenant_name_id"):
        op.drop_index(index, "tenant")
    op.drop_column("tenant", "closes_us")
