"""What the bearer of a key may do. Operators' keys that are there could do everything, and go on so."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Make room for a role; every operator so far is an owner."""
    op.add_column("api_key", sa.Column("role", sa.String(), nullable=True))
    op.execute("UPDATE api_key SET role = 'owner' WHERE kind = 'admin'")


def downgrade() -> None:
    """Take the roles away, and revoke the keys that were less than all: without a role they would be everything, or nothing that is known."""
    op.execute("UPDATE api_key SET revoked_us = 0 WHERE revoked_us IS NULL AND (kind = 'staff' OR (kind = 'admin' AND role <> 'owner'))")
    op.drop_column("api_key", "role")
