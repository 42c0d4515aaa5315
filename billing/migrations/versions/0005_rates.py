"""Rate cards in versions, and cost books.

A rate, a cost and a version that was published or withdrawn are refused changes by the database itself, on both engines.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

FINAL = "OLD.published_us IS NOT NULL OR OLD.withdrawn_us IS NOT NULL"


def upgrade() -> None:
    """Add other prices and the version to rates, the costs, and the versions of both. Rates that are there came in no version."""
    op.add_column("rate", sa.Column("variants", sa.JSON(), nullable=True))
    op.add_column("rate", sa.Column("version_id", sa.BigInteger(), nullable=True))
    op.create_table(
        "cost", _id(), _text("backend"), _text("model"), _text("currency"), _big("effective_us"), sa.Column("free", sa.Boolean(), nullable=False),
        sa.Column("prices", sa.JSON(), nullable=False), _big("created_us"), sa.Column("variants", sa.JSON(), nullable=True), _big("version_id", null=True),
        sa.PrimaryKeyConstraint("id"),
    )  # fmt: skip
    op.create_index("ix_cost_backend_model_effective_us_id", "cost", ["backend", "model", "effective_us", "id"])
    op.create_table(
        "price_version", _id(), _text("book"), _text("note"), sa.Column("changes", sa.JSON(), nullable=False), _big("effective_us", null=True),
        _big("created_us"), _big("published_us", null=True), _big("withdrawn_us", null=True), sa.PrimaryKeyConstraint("id"),
    )  # fmt: skip
    for table, verb, condition in REFUSED:
        _refuse(table, verb, condition)


def downgrade() -> None:
    """Take it away: costs, versions and the prices of variants are lost; a model whose rate was ended has a rate without prices."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    for table, verb, _condition in REFUSED:
        op.execute(f"DROP TRIGGER {_name(table, verb)}{f' ON {table}' if postgresql else ''}")
    op.drop_table("price_version")
    op.drop_table("cost")
    op.drop_column("rate", "version_id")
    op.drop_column("rate", "variants")


REFUSED = (
    ("rate", "UPDATE", None), ("rate", "DELETE", None), ("cost", "UPDATE", None), ("cost", "DELETE", None),
    ("price_version", "UPDATE", FINAL), ("price_version", "DELETE", None),
)  # fmt: skip


def _name(table: str, verb: str) -> str:
    return f"{table}_no_{verb.lower()}"


def _refuse(table: str, verb: str, condition: str | None) -> None:
    when = f" WHEN ({condition})" if condition else ""
    if op.get_bind().dialect.name == "postgresql":  # the function is the first step's
        op.execute(f"CREATE TRIGGER {_name(table, verb)} BEFORE {verb} ON {table} FOR EACH ROW{when} EXECUTE FUNCTION weir_refuse_change()")
        return
    said = f"SELECT RAISE(ABORT, '{table} is never changed: {verb} refused')"
    op.execute(f"CREATE TRIGGER {_name(table, verb)} BEFORE {verb} ON {table}{when} BEGIN {said}; END")


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger(), autoincrement=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=False)


def _big(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=null)
