"""Providers' bills, and what comparing them with the books found."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def _big(name: str, *keys: sa.ForeignKey, nullable: bool = False, alone: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), *keys, nullable=nullable, autoincrement=False if alone else "auto")


def _text(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.String(), nullable=False) for name in names]


def upgrade() -> None:
    """Make room for bills, runs, items and residues."""
    op.create_table(
        "provider_bill",
        _big("id", alone=True),
        *_text("backend", "vendor"),
        _big("start_us"),
        _big("end_us"),
        sa.Column("currency", sa.String(), nullable=True),
        *(sa.Column(name, sa.JSON(), nullable=False) for name in ("measures", "aliases", "warnings")),
        *_text("sha256"),
        sa.Column("file", sa.LargeBinary(), nullable=False),
        _big("imported_us"),
        _big("superseded_by", nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_provider_bill_backend", "provider_bill", ["backend"])
    op.create_table(
        "provider_bill_line",
        _big("bill_id", sa.ForeignKey("provider_bill.id")),
        _big("day_us"),
        *_text("model", "bucket", "measure", "amount"),
        sa.PrimaryKeyConstraint("bill_id", "day_us", "model", "bucket", "measure"),
    )
    op.create_table(
        "recon_run",
        _big("id", alone=True),
        _big("bill_id", sa.ForeignKey("provider_bill.id")),
        _big("at_us"),
        *_text("token_tolerance", "cost_tolerance"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_recon_run_bill_id", "recon_run", ["bill_id"])
    op.create_table(
        "recon_item",
        _big("run_id", sa.ForeignKey("recon_run.id")),
        _big("day_us"),
        *_text("model", "bucket", "measure", "state", "provider", "gateway"),
        _big("unreported"),
        _big("without_cost"),
        sa.PrimaryKeyConstraint("run_id", "day_us", "model", "bucket", "measure"),
    )
    op.create_table(
        "recon_residue",
        _big("run_id", sa.ForeignKey("recon_run.id")),
        _big("day_us"),
        *_text("currency", "amount_pico"),
        sa.PrimaryKeyConstraint("run_id", "day_us"),
    )
    op.create_index("ix_recon_residue_day_us", "recon_residue", ["day_us"])


def downgrade() -> None:
    """Take all of it away."""
    for table in ("recon_residue", "recon_item", "recon_run", "provider_bill_line", "provider_bill"):
        op.drop_table(table)
