"""Usage events by month on PostgreSQL; events that came again with other content.

The id is a UUIDv7, whose text sorts by time in the "C" collation: partitions are ranges of it, so the primary key stays the id alone and
an id is unique over all months. Ids of no month (no UUIDv7, or a time out of this world) go into the default partition. Rows are
copied once, about 100,000 a second, with the table locked; nothing bounds the time of that.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

HOT = ("credit_account", "grant_balance", "lease", "usage_sum")  # written by every flush

# The month of an id, where it is a UUIDv7 of the years 2000 to 2099.
MONTHS = """
SELECT DISTINCT date_trunc('month', made, 'UTC') AS month FROM (
    SELECT to_timestamp(('x' || lpad(replace(left(id, 13), '-', ''), 16, '0'))::bit(64)::bigint / 1000.0) AS made FROM usage_event_before
    WHERE id ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$'
) ids WHERE made >= '2000-01-01Z' AND made < '2100-01-01Z' ORDER BY 1
"""


def upgrade() -> None:
    """Add the table of conflicts, and divide the events."""
    op.create_table(
        "usage_conflict", _text("id"), _text("sha256"), _text("tenant_id"), sa.Column("seen_us", sa.BigInteger(), nullable=False), _text("content"),
        sa.PrimaryKeyConstraint("id", "sha256"),
    )  # fmt: skip
    op.create_index("ix_usage_conflict_seen_us", "usage_conflict", ["seen_us"])
    if op.get_bind().dialect.name == "postgresql":
        _refuse_changes("usage_conflict")
        _refuse_truncate("usage_conflict")
        _rebuild(divided=True)
        for table in HOT:  # room in every page for a row's next version, so that it needs no new entry in an index: 95 % of updates instead of 20 %
            op.execute(f"ALTER TABLE {table} SET (fillfactor = 60)")
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER usage_conflict_no_{verb.lower()} BEFORE {verb} ON usage_conflict "
            f"BEGIN SELECT RAISE(ABORT, 'usage_conflict is never changed: {verb} refused'); END"
        )


def downgrade() -> None:
    """Put the events into one table again; the conflicts are lost."""
    if op.get_bind().dialect.name == "postgresql":
        _rebuild(divided=False)
        for table in HOT:
            op.execute(f"ALTER TABLE {table} RESET (fillfactor)")
    op.drop_table("usage_conflict")


def _rebuild(*, divided: bool) -> None:
    op.execute("SET LOCAL statement_timeout = 0")
    op.execute("ALTER TABLE usage_event RENAME TO usage_event_before")
    # A table's partition key cannot change its collation, so an empty copy does before it is one.
    op.execute("CREATE TABLE usage_event_shape (LIKE usage_event_before)")
    op.execute(f"ALTER TABLE usage_event_shape ALTER COLUMN id TYPE varchar COLLATE {_COLLATION[divided]}")
    op.execute(f"CREATE TABLE usage_event (LIKE usage_event_shape) {'PARTITION BY RANGE (id)' if divided else ''}")
    op.execute("DROP TABLE usage_event_shape")
    if divided:
        op.execute("CREATE TABLE usage_event_default PARTITION OF usage_event DEFAULT")
        for month in op.get_bind().execute(sa.text(MONTHS)).scalars().all():
            _add_month(month.year, month.month)
        _refuse_truncate("usage_event_default")
    op.execute("INSERT INTO usage_event SELECT * FROM usage_event_before")
    op.execute("DROP TABLE usage_event_before")
    op.execute("ALTER TABLE usage_event ADD CONSTRAINT usage_event_pkey PRIMARY KEY (id)")
    op.create_index("usage_event_tenant_started", "usage_event", ["tenant_id", "started_us"])
    op.create_index("usage_event_started", "usage_event", ["started_us"])
    _refuse_changes("usage_event")
    _refuse_truncate("usage_event")


_COLLATION = {True: '"C"', False: '"default"'}


def _add_month(year: int, month: int) -> None:
    name = f"usage_event_{year}_{month:02}"
    end = (year + 1, 1) if month == 12 else (year, month + 1)
    op.execute(f"CREATE TABLE {name} PARTITION OF usage_event FOR VALUES FROM ('{_first_id(year, month)}') TO ('{_first_id(*end)}')")
    _refuse_truncate(name)


def _first_id(year: int, month: int) -> str:
    first = sa.text("SELECT lpad(to_hex((extract(epoch FROM make_timestamptz(:year, :month, 1, 0, 0, 0, 'UTC')) * 1000)::bigint), 12, '0')")
    digits = op.get_bind().execute(first, {"year": year, "month": month}).scalar_one()
    return f"{digits[:8]}-{digits[8:]}"


def _refuse_changes(table: str) -> None:
    op.execute(f"CREATE TRIGGER {table}_immutable BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION weir_refuse_change()")


def _refuse_truncate(table: str) -> None:
    op.execute(f"CREATE TRIGGER {table}_kept BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION weir_refuse_change()")


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=False)
