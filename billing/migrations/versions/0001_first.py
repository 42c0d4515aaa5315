"""The first schema: who may use, what they are promised, what it costs, what was used, and the books.

Facts and entries are refused UPDATE and DELETE by the database itself, on both engines: a mistake is corrected by another entry.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

BUCKETS = (
    "input", "cache_read", "cache_write_5m", "cache_write_1h", "audio_in", "image_in", "output", "audio_out", "reasoning",
    "images", "seconds", "requests", "searches",
)  # fmt: skip
IMMUTABLE = ("usage_event", "ledger_tx", "ledger_entry")
TABLES_DOWN = (
    "ledger_entry", "ledger_tx", "credit_account", "usage_event", "rate", "grant_balance", "credit_grant",
    "subscription", "plan_version", "plan", "change", "api_key", "tenant",
)  # fmt: skip


def upgrade() -> None:
    """Create every table, parents first."""
    _tenants()
    _plans()
    _grants_and_rates()
    _usage()
    _books()
    for table in IMMUTABLE:
        _refuse_changes(table)


def downgrade() -> None:
    """Drop every table, children first; their triggers go with them."""
    for table in TABLES_DOWN:
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION weir_refuse_change()")


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=null)


def _int(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=null)


def _big(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=null)


def _row_id(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False)


def _tenants() -> None:
    op.create_table(
        "tenant", _text("id"), _text("name"), _text("state"), _text("currency"), _text("timezone"), _big("created_us"),
        sa.PrimaryKeyConstraint("id"),
    )  # fmt: skip
    op.create_table(
        "api_key", _text("id"), _text("kind"), _text("tenant_id", null=True), _text("name"), sa.Column("digest", sa.LargeBinary(), nullable=False),
        _text("hint"), _text("project", null=True), _int("requests_per_minute", null=True), _big("tokens_per_minute", null=True),
        _big("created_us"), _big("expires_us", null=True), _big("revoked_us", null=True),
        sa.PrimaryKeyConstraint("id"), sa.UniqueConstraint("digest"), sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"]),
    )  # fmt: skip
    op.create_index("ix_api_key_tenant_id", "api_key", ["tenant_id"])
    op.create_table(
        "change", sa.Column("seq", sa.BigInteger(), autoincrement=False), _text("tenant_id", null=True), _big("at_us"), sa.PrimaryKeyConstraint("seq")
    )


def _plans() -> None:
    op.create_table("plan", _text("id"), _big("created_us"), sa.PrimaryKeyConstraint("id"))
    op.create_table(
        "plan_version", _text("plan_id"), sa.Column("version", sa.Integer(), autoincrement=False), _text("name"), _big("allowance_ncr"), _text("on_exhausted"),
        _big("slow_daily_cap_ncr", null=True), _int("weight"), _int("fast_concurrency", null=True), _int("slow_concurrency"),
        _int("requests_per_minute", null=True), _big("tokens_per_minute", null=True), sa.Column("allowed_models", sa.JSON(), nullable=True),
        _big("monthly_fee_minor"), _text("currency"), _text("credit_price", null=True), _big("created_us"),
        sa.PrimaryKeyConstraint("plan_id", "version"), sa.ForeignKeyConstraint(["plan_id"], ["plan.id"]),
    )  # fmt: skip
    op.create_table(
        "subscription", _text("id"), _text("tenant_id"), _text("plan_id"), _int("version"), _big("anchor_us"), _big("started_us"), _big("ended_us", null=True),
        sa.PrimaryKeyConstraint("id"), sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"]),
        sa.ForeignKeyConstraint(["plan_id", "version"], ["plan_version.plan_id", "plan_version.version"]),
    )  # fmt: skip
    op.create_index("ix_subscription_tenant_id", "subscription", ["tenant_id"])


def _grants_and_rates() -> None:
    op.create_table(
        "credit_grant", _text("id"), _text("tenant_id"), _text("kind"), _big("amount_ncr"), _int("priority"), _big("effective_us"),
        _big("expires_us", null=True), _big("voided_us", null=True), _big("created_us"), _text("note"),
        sa.PrimaryKeyConstraint("id"), sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"]),
    )  # fmt: skip
    op.create_index("ix_credit_grant_tenant_id_expires_us", "credit_grant", ["tenant_id", "expires_us"])
    op.create_table(
        "grant_balance", _text("grant_id"), _big("remaining_ncr"),
        sa.PrimaryKeyConstraint("grant_id"), sa.ForeignKeyConstraint(["grant_id"], ["credit_grant.id"]),
    )  # fmt: skip
    op.create_table(
        "rate", sa.Column("id", sa.BigInteger(), autoincrement=False), _text("model"), _big("effective_us"), sa.Column("free", sa.Boolean(), nullable=False),
        sa.Column("prices", sa.JSON(), nullable=False), _big("created_us"), sa.PrimaryKeyConstraint("id"),
    )  # fmt: skip
    op.create_index("ix_rate_model_effective_us_id", "rate", ["model", "effective_us", "id"])


def _usage() -> None:
    op.create_table(
        "usage_event", _text("id"), _text("tenant_id"), _text("key_id"), _text("project", null=True), _text("model"), _text("backend"),
        _text("upstream_model"), _text("endpoint"), _big("started_us"), _big("ended_us"), _int("status"), _text("outcome"), _text("lane"),
        sa.Column("stream", sa.Boolean(), nullable=False), _text("source"), *(_big(bucket, null=True) for bucket in BUCKETS),
        _int("rate_id", null=True), _big("charge_ncr"), _big("cover_ncr"), _big("covered_ncr"), _int("attempts"), _int("queue_ms"), _big("ttft_us", null=True),
        sa.PrimaryKeyConstraint("id"),
    )  # fmt: skip
    op.create_index("usage_event_tenant_started", "usage_event", ["tenant_id", "started_us"])
    op.create_index("usage_event_started", "usage_event", ["started_us"])


def _books() -> None:
    op.create_table(
        "credit_account", _text("tenant_id"), _big("debt_ncr"), _big("consumed_ncr"), _big("excess_ncr"), _big("overage_ncr"),
        sa.PrimaryKeyConstraint("tenant_id"), sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"]),
    )  # fmt: skip
    op.create_table(
        "ledger_tx", _row_id("id"), _text("idem_key"), _text("kind"), _text("tenant_id"), _big("at_us"),
        sa.PrimaryKeyConstraint("id"), sa.UniqueConstraint("idem_key"),
    )  # fmt: skip
    op.create_index("ix_ledger_tx_tenant_id", "ledger_tx", ["tenant_id"])
    op.create_table(
        "ledger_entry", _row_id("tx_id"), _int("seq"), _text("account"), _big("amount_ncr"),
        sa.PrimaryKeyConstraint("tx_id", "seq"), sa.ForeignKeyConstraint(["tx_id"], ["ledger_tx.id"]),
    )  # fmt: skip
    op.create_index("ix_ledger_entry_account", "ledger_entry", ["account"])


def _refuse_changes(table: str) -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE OR REPLACE FUNCTION weir_refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION '% is never changed: % refused', TG_TABLE_NAME, TG_OP; END $$"
        )
        op.execute(f"CREATE TRIGGER {table}_immutable BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION weir_refuse_change()")
        op.execute(f"CREATE TRIGGER {table}_kept BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION weir_refuse_change()")
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} BEGIN SELECT RAISE(ABORT, '{table} is never changed: {verb} refused'); END"
        )
