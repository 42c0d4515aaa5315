"""Tenants that are closed, and lists of tenants and keys that are read a page at a time."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0010"


def upgrade() -> None:
    """Make room for the instant from which a tenant is closed; nobody is."""
    op.add_column("tenant", sa.Column("closes_us", sa.BigInteger(), nullable=True))
    op.create_index("ix_tenant_name_id", "tenant", ["name", "id"])
    op.create_index("ix_tenant_created_us_id", "tenant", ["created_us", "id"])
    open_ = sa.text("state <> 'closed'")
    op.create_index("ix_tenant_closing", "tenant", ["closes_us"], postgresql_where=open_, sqlite_where=open_)
    op.create_index("ix_api_key_created_us_id", "api_key", ["created_us", "id"])


def downgrade() -> None:
    """Forget who is closed: their keys stay revoked."""
    op.drop_index("ix_api_key_created_us_id", "api_key")
    for index in ("ix_tenant_closing", "ix_tenant_created_us_id", "ix_tenant_name_id"):
        op.drop_index(index, "tenant")
    op.drop_column("tenant", "closes_us")
