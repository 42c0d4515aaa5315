"""Usage events by month on PostgreSQL; events that came again with other content."""

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add it."""


def downgrade() -> None:
    """Take it away."""
