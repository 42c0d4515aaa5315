"""Closed periods, invoices with their numbers, and credits that are sold."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

FROZEN = ("billing_period", "invoice_document")


def upgrade() -> None:
    """Make room; what is closed and what is issued refuses to change from the start."""
    op.create_table(
        "billing_period", _text("tenant_id"), sa.Column("start_us", sa.BigInteger(), nullable=False, autoincrement=False), _big("end_us"), _big("closed_us"),
        _big("close_seq"), _big("events"), _big("late_events"), _text("facts"), _text("sha256"), sa.PrimaryKeyConstraint("tenant_id", "start_us"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"]), sa.UniqueConstraint("close_seq"),
    )  # fmt: skip
    op.create_index("ix_billing_period_end_us", "billing_period", ["end_us"])
    op.create_table(
        "billing_cursor", _text("tenant_id"), _big("start_us", null=True), _big("end_us"), sa.Column("seen", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"]),
    )  # fmt: skip
    op.create_index("ix_billing_cursor_end_us", "billing_cursor", ["end_us"])
    op.create_table(
        "invoice", _text("id"), _text("tenant_id"), _text("kind"), _text("state"), _big("start_us"), _big("end_us"), _text("currency"), _big("net_minor"),
        _big("tax_minor"), _big("total_minor"), _big("created_us"), _text("number", null=True), _big("issued_us", null=True), _big("paid_us", null=True),
        _big("voided_us", null=True), _text("note", null=True), _text("corrects_id", null=True), sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"]), sa.ForeignKeyConstraint(["corrects_id"], ["invoice.id"]), sa.UniqueConstraint("number"),
    )  # fmt: skip
    op.create_index("ix_invoice_tenant_id_start_us", "invoice", ["tenant_id", "start_us"])
    op.create_index("ix_invoice_end_us", "invoice", ["end_us", "id"])
    op.create_index("ix_invoice_corrects_id", "invoice", ["corrects_id"])
    op.create_table(
        "invoice_document", _text("invoice_id"), _text("document"), _text("sha256"), sa.PrimaryKeyConstraint("invoice_id"),
        sa.ForeignKeyConstraint(["invoice_id"], ["invoice.id"]),
    )  # fmt: skip
    op.create_table("invoice_sequence", _text("series"), _big("last"), sa.PrimaryKeyConstraint("series"))
    op.create_table(
        "grant_sale", _text("grant_id"), _text("tenant_id"), _big("amount_ncr"), _big("price_minor"), _big("at_us"), _text("note"),
        _big("period_us", null=True),
        sa.PrimaryKeyConstraint("grant_id"), sa.ForeignKeyConstraint(["grant_id"], ["credit_grant.id"]),
    )  # fmt: skip
    op.create_index("ix_grant_sale_tenant_id_at_us", "grant_sale", ["tenant_id", "at_us"])
    _freeze()


def downgrade() -> None:
    """Take it away: what was closed and issued is lost."""
    for table in ("grant_sale", "invoice_sequence", "invoice_document", "invoice", "billing_cursor", "billing_period"):
        op.drop_table(table)


def _freeze() -> None:
    for table in FROZEN:
        if op.get_bind().dialect.name == "postgresql":
            op.execute(f"CREATE TRIGGER {table}_immutable BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION weir_refuse_change()")
            op.execute(f"CREATE TRIGGER {table}_kept BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION weir_refuse_change()")
            continue
        for verb in ("UPDATE", "DELETE"):
            raised = f"BEGIN SELECT RAISE(ABORT, '{table} is never changed: {verb} refused'); END"
            op.execute(f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} {raised}")


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=null)


def _big(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=null)
