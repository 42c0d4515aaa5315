"""Plans and subscriptions in full."""

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add it."""


def downgrade() -> None:
    """Take it away."""
