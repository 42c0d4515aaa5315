"""Thresholds of credits, and the webhooks that tell of them."""

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add it."""


def downgrade() -> None:
    """Take it away."""
