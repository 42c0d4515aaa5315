"""Grants with a scope; ceilings of keys and projects."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add who may use a grant: a key, a project, some models; NULL is anybody, as before."""
    op.add_column("credit_grant", sa.Column("key_id", sa.String(), nullable=True))
    op.add_column("credit_grant", sa.Column("project", sa.String(), nullable=True))
    op.add_column("credit_grant", sa.Column("models", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Take it away."""
    for column in ("models", "project", "key_id"):
        op.drop_column("credit_grant", column)
