"""The usage export: one row per tenant, day and model. The rows sum to the events to the last nano-credit."""

from collections.abc import Iterable

from billing.files.grid import Column, Grid, Row, columns
from billing.money import format_exact
from billing.usage.daily import UNIT_COLUMNS, DailyUsage, unit_columns

COLUMNS = (
    *columns(("tenant", "day", "model")),
    Column("requests", "count", total=True),
    Column("unreported_requests", "count", total=True),
    *columns(UNIT_COLUMNS.values(), "count"),
    *columns(("credits", "covered_credits", "debt_credits", "excess_credits", "overage_credits"), "credits", total=True),
    Column("currency"),
    Column("overage_amount", "amount", total=True),
)


def grid(lines: Iterable[DailyUsage], about: dict[str, str], made_us: int) -> Grid:
    """Lay lines out as rows."""
    return Grid(name="usage", columns=COLUMNS, rows=map(_row, lines), about=about, made_us=made_us, currency="currency")


def _row(line: DailyUsage) -> Row:
    return (
        line.tenant_id, line.day, line.model, line.requests, line.unreported, *unit_columns(line).values(),
        line.charge_ncr, line.covered_ncr, line.debt_ncr, line.excess_ncr, line.overage_ncr, line.currency, format_exact(line.overage_exact),
    )  # fmt: skip
