"""`weir forecast`: what the periods that run now are going to use and cost."""

from typing import Any

import typer

from billing.money import format_credits, format_money
from billing.operations.forecasts import Expected, Forecast, forecasts
from gateway.cli.books import ConfigOption, open_books
from gateway.cli.render import Format, FormatOption, write_rows
from gateway.cli.usage import TenantOption

BANDS = ("expected", "low", "high")
FIGURES = ("credits", "past_credits", "total")
COLUMNS = (
    "tenant", "plan", "on_exhausted", "first_day", "end_day", "currency", "credits", "past_credits", "credits_left", "fee",
    *(f"{band}_{figure}" for figure in FIGURES for band in BANDS), "exhausted", "method",
)  # fmt: skip
BRIEF = ("tenant", "end_day", "credits", "expected_credits", "low_credits", "high_credits", "exhausted", "expected_total", "currency", "method")


def forecast(*, tenant: TenantOption = None, form: FormatOption = Format.table, config: ConfigOption = None) -> None:
    """Forecast the period that runs now: use, the day on which the credits are used up, what is past them, and the invoice. It says how."""
    with open_books(config) as books:
        found = forecasts(books.database, tenant_id=tenant, now_us=books.now_us)
    write_rows([_row(one) for one in found], form, COLUMNS, "no tenant is in a period now", brief=BRIEF)
    if form is Format.table and found:
        typer.echo("credits and totals are of the whole period; a total is the fee and what is invoiced past the credits, without tax")


def _row(one: Forecast) -> dict[str, Any]:
    row: dict[str, Any] = {
        "tenant": one.tenant_id, "plan": one.plan, "on_exhausted": one.on_exhausted, "first_day": one.first_day, "end_day": one.end_day,
        "currency": one.currency, "credits": format_credits(one.used_ncr), "past_credits": format_credits(one.past_ncr),
        "credits_left": format_credits(one.left_ncr), "fee": format_money(one.fee_minor, one.currency), "exhausted": one.exhausted_day, "method": one.method,
    }  # fmt: skip
    for band, expected in (("expected", one.expected), ("low", one.low), ("high", one.high)):
        row |= {f"{band}_{figure}": text for figure, text in zip(FIGURES, _texts(expected, one.currency), strict=True)}
    return row


def _texts(expected: Expected | None, currency: str) -> tuple[str | None, ...]:
    if expected is None:
        return None, None, None
    return format_credits(expected.used_ncr), format_credits(expected.past_ncr), format_money(expected.total_minor, currency)
