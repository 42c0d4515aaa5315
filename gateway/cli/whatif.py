"""`weir whatif`: a month as it would have been billed on another plan, at other rates, or both."""

import json
from typing import Annotated, Any

import typer

from billing.margins.amounts import in_major
from billing.money import format_credits, format_exact
from billing.operations.whatif import Bill, Outcome, what_if
from gateway.cli.books import ConfigOption, open_books
from gateway.cli.render import Format, FormatOption, write_rows
from gateway.cli.usage import MonthOption, TenantOption

CREDITS = ("charge", "from_credits", "overage", "excess", "refused")
COLUMNS = (
    "tenant",
    "first_day",
    "end_day",
    "running",
    "currency",
    "total",
    "total_then",
    "difference",
    "fee",
    "fee_then",
    "overage_amount",
    "overage_amount_then",
)
ALL = (*COLUMNS, "requests", *(f"{name}_credits{then}" for name in CREDITS for then in ("", "_then")))


def whatif(
    *,
    month: MonthOption,
    plan: Annotated[str | None, typer.Option("--plan", help="on the newest version of this plan (write one with weir plan set; nobody is on it yet)")] = None,
    rates: Annotated[int | None, typer.Option("--rates", help="at this version of rates, proposed or published (weir rate versions)")] = None,
    tenant: TenantOption = None,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """Bill the periods that begin in a month anew: on plan X, at rates Y. What was used, and in which order, stays as it was."""
    with open_books(config) as books:
        found = what_if(books.database, month, plan=plan, version_id=rates, tenant_id=tenant, now_us=books.now_us)
    rows = [_row(outcome) for outcome in found.outcomes]
    totals = _totals(found.outcomes)
    unpriced = [{"model": model, "bucket": bucket, "units": units} for model, bucket, units in found.unpriced]
    if form is Format.json:
        document = {"periods": rows, "totals": totals, "left_out": list(found.left_out), "unpriced": unpriced}
        typer.echo(json.dumps(document, ensure_ascii=False, indent=2))
        return
    write_rows(rows, form, ALL, "no period begins in this month", brief=("tenant", "first_day", "end_day", "total", "total_then", "difference", "currency"))
    if form is Format.table:
        for total in totals:
            typer.echo(f"total {total['currency']}: {total['total']} as it is, {total['total_then']} then, difference {total['difference']}")
        if any(outcome.running for outcome in found.outcomes):
            typer.echo("periods that are not over are billed so far")
    for one in unpriced:
        typer.echo(f"no rate: {one['units']} of `{one['bucket']}` of model {one['model']} would be charged nothing", err=True)
    if found.left_out:
        typer.echo(f"left out, invoiced in another currency than plan {plan}: {', '.join(found.left_out)}", err=True)


def _row(outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {
        "tenant": outcome.tenant_id, "first_day": outcome.first_day, "end_day": outcome.end_day, "running": outcome.running, "currency": outcome.currency,
        "requests": outcome.books.requests,
    }  # fmt: skip
    return row | _amounts(outcome.books, outcome.other) | _credits(outcome.books, "") | _credits(outcome.other, "_then")


def _amounts(books: Bill, other: Bill) -> dict[str, str]:
    pairs = {"total": (books.total, other.total), "fee": (books.fee, other.fee), "overage_amount": (books.overage, other.overage)}
    written = {f"{name}{then}": _money(amount) for name, pair in pairs.items() for then, amount in zip(("", "_then"), pair, strict=True)}
    return written | {"difference": _money(other.total - books.total)}


def _credits(bill: Bill, then: str) -> dict[str, str]:
    return {f"{name}_credits{then}": format_credits(getattr(bill, f"{name}_ncr")) for name in CREDITS}


def _totals(outcomes: tuple[Outcome, ...]) -> list[dict[str, str]]:
    found = []
    for currency in sorted({outcome.currency for outcome in outcomes}):
        books, other = Bill(), Bill()
        for outcome in outcomes:
            if outcome.currency == currency:
                for whole, part in ((books, outcome.books), (other, outcome.other)):
                    whole.fee += part.fee
                    whole.overage += part.overage
        found.append({"currency": currency} | _amounts(books, other))
    return found


def _money(amount: int) -> str:
    return format_exact(in_major(amount))
