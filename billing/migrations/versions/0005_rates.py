"""Rate cards in versions, and cost books."""

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add it."""


def downgrade() -> None:
    """Take it away."""
