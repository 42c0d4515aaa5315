"""Plans and subscriptions in full: seats, rollover, glide, fallback; months that begin at first use. A plan's version refuses to change."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

NEW = ("on_database_loss", "glide_percent", "slow_weight", "fallback_model", "activate_on_first_use", "rollover_cap_ncr", "seat_allowance_ncr")


def upgrade() -> None:
    """Add the terms; those sold until now keep what they meant, so without credits they weigh what they weigh with them."""
    op.add_column("plan_version", sa.Column("seat_allowance_ncr", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    op.add_column("plan_version", sa.Column("rollover_cap_ncr", sa.BigInteger(), nullable=True))
    op.add_column("plan_version", sa.Column("activate_on_first_use", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("plan_version", sa.Column("fallback_model", sa.String(), nullable=True))
    op.add_column("plan_version", sa.Column("slow_weight", sa.Integer(), nullable=False, server_default=sa.text("1")))
    op.add_column("plan_version", sa.Column("glide_percent", sa.Integer(), nullable=False, server_default=sa.text("10")))
    op.add_column("plan_version", sa.Column("on_database_loss", sa.String(), nullable=False, server_default=sa.text("'slow'")))
    op.execute("UPDATE plan_version SET slow_weight = weight")
    with op.batch_alter_table("subscription") as batch:
        batch.alter_column("anchor_us", existing_type=sa.BigInteger(), nullable=True)
    _refuse_changes()


def downgrade() -> None:
    """Take them away. Months that nobody has begun begin with their subscription; a change of plan that is still to come stays."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER plan_version_immutable ON plan_version")
    else:
        for verb in ("update", "delete"):
            op.execute(f"DROP TRIGGER plan_version_no_{verb}")
    op.execute("UPDATE subscription SET anchor_us = started_us WHERE anchor_us IS NULL")
    with op.batch_alter_table("subscription") as batch:
        batch.alter_column("anchor_us", existing_type=sa.BigInteger(), nullable=False)
    for column in NEW:
        op.drop_column("plan_version", column)


def _refuse_changes() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("CREATE TRIGGER plan_version_immutable BEFORE UPDATE OR DELETE ON plan_version FOR EACH ROW EXECUTE FUNCTION weir_refuse_change()")
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER plan_version_no_{verb.lower()} BEFORE {verb} ON plan_version"
            f" BEGIN SELECT RAISE(ABORT, 'plan_version is never changed: {verb} refused'); END"
        )
