"""Processes that share a tenant's credits: replicas, leases, and running sums so that no balance adds up events."""

from collections import defaultdict
from typing import Any

import sqlalchemy as sa
from alembic import op

from billing.grants.periods import day_span, period_at

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add who runs, what is set aside for whom, the sums, and what an event says of its day, period and purses.

    Sums of old events are made here once, and every tenant's account is opened: from now on that is done when the tenant is created.
    """
    op.create_table(
        "replica", _text("id"), _big("beat"), _text("host"), sa.Column("pid", sa.Integer(), nullable=False), _big("started_us"), sa.PrimaryKeyConstraint("id")
    )
    op.create_table(
        "lease", _text("tenant_id"), _text("purse"), _text("replica_id"), _big("amount_ncr"), _big("valid_until_us"),
        sa.PrimaryKeyConstraint("tenant_id", "purse", "replica_id"), sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"]),
    )  # fmt: skip
    op.create_index("ix_lease_replica_id", "lease", ["replica_id"])
    op.create_table(
        "usage_sum", _text("tenant_id"), _text("span"), _big("start_us"), _big("events"), _big("charge_ncr"), _big("cover_ncr"), _big("excess_ncr"),
        _big("overage_ncr"), sa.PrimaryKeyConstraint("tenant_id", "span", "start_us"),
    )  # fmt: skip
    for column in ("day_us", "period_us"):
        op.add_column("usage_event", sa.Column(column, sa.BigInteger(), nullable=True))
    op.add_column("usage_event", sa.Column("purses", sa.JSON(), nullable=True))
    op.add_column("usage_event", sa.Column("service_tier", sa.String(), nullable=True))
    op.execute(
        "INSERT INTO credit_account (tenant_id, debt_ncr, consumed_ncr, excess_ncr, overage_ncr) SELECT id, 0, 0, 0, 0 FROM tenant"
        " WHERE id NOT IN (SELECT tenant_id FROM credit_account)"
    )
    _sum_up_old_events()


def downgrade() -> None:
    """Take it away; what purses paid and the sums are lost."""
    for column in ("service_tier", "purses", "period_us", "day_us"):
        op.drop_column("usage_event", column)
    for table in ("usage_sum", "lease", "replica"):
        op.drop_table(table)


def _sum_up_old_events() -> None:
    """Add events up that were booked before sums were kept, so that a day or a period under way goes on where it was."""
    connection = op.get_bind()
    zones = {row.id: row.timezone for row in connection.execute(sa.text("SELECT id, timezone FROM tenant"))}
    months: dict[str, list[tuple[int, int | None, int]]] = defaultdict(list)
    for tenant_id, started_us, ended_us, anchor_us in connection.execute(sa.text("SELECT tenant_id, started_us, ended_us, anchor_us FROM subscription")):
        months[tenant_id].append((started_us, ended_us, anchor_us))
    sums: dict[tuple[str, str, int], list[int]] = defaultdict(lambda: [0] * 5)
    columns = "tenant_id, key_id, project, lane, started_us, charge_ncr, cover_ncr"
    for event in connection.execute(sa.text(f"SELECT {columns} FROM usage_event").execution_options(yield_per=1000)):  # noqa: S608 - our own words
        if event.tenant_id not in zones:
            continue
        past = event.charge_ncr - event.cover_ncr
        figures = (1, event.charge_ncr, event.cover_ncr, past if event.lane == "slow" else 0, past if event.lane == "fast" else 0)
        for span, start_us in _spans(event, zones[event.tenant_id], months[event.tenant_id]):
            total = sums[event.tenant_id, span, start_us]
            for index, figure in enumerate(figures):
                total[index] += figure
    names = ("tenant_id", "span", "start_us", "events", "charge_ncr", "cover_ncr", "excess_ncr", "overage_ncr")
    rows = [dict(zip(names, (*key, *total), strict=True)) for key, total in sums.items()]
    if rows:
        connection.execute(sa.table("usage_sum", *(sa.column(name) for name in names)).insert(), rows)


def _spans(event: Any, zone: str, months: list[tuple[int, int | None, int]]) -> list[tuple[str, int]]:
    spans = [("day", day_span(event.started_us, zone)[0])]
    for started_us, ended_us, anchor_us in months:
        if started_us <= event.started_us and (ended_us is None or event.started_us < ended_us):
            start_us = period_at(anchor_us, zone, event.started_us).start_us
            spans += [("period", start_us), (f"key:{event.key_id}", start_us)]
            spans += [] if event.project is None else [(f"project:{event.project}", start_us)]
            break
    return spans


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=False)


def _big(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)
