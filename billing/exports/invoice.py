"""The invoice export: per tenant the fee of every period that begins in the month, then one line per day and model.

Each line's amount is rounded to the currency's minor unit, and the amounts are then summed by whoever sums them (EN 16931); the file holds
no total rows, so that every row is a line. Use that grants covered costs nothing here; it is listed, so that the tenant sees it.
"""

import csv
import io
from collections.abc import Iterable

import msgspec

from billing.files.grid import disarm
from billing.money import format_credits, format_money, round_money
from billing.usage.daily import UNIT_COLUMNS, DailyUsage, unit_columns

COLUMNS = (
    "tenant", "tenant_name", "month", "line", "description", "day", "model", "requests", *UNIT_COLUMNS.values(),
    "credits", "covered_credits", "debt_credits", "excess_credits", "overage_credits", "currency", "amount",
)  # fmt: skip
_TEXTS = ("tenant", "tenant_name", "description", "model")


class Fee(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription's fee for one period, invoiced in the month in which the period begins. `first_day` and `end_day` bound it: [first, end)."""

    plan: str
    version: int
    first_day: str
    end_day: str
    fee_minor: int
    currency: str


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What one tenant is invoiced for a month."""

    tenant_id: str
    tenant_name: str
    fees: tuple[Fee, ...]
    usage: tuple[DailyUsage, ...]


def to_csv(month: str, accounts: Iterable[Account]) -> bytes:
    """Write the month's invoice lines as CSV (RFC 4180, UTF-8); a header alone when there are none."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\r\n")
    writer.writeheader()
    for account in accounts:
        for row in (*map(_fee, account.fees), *map(_usage, account.usage)):
            writer.writerow({key: _safe(key, value) for key, value in (_heading(month, account) | row).items()})
    return out.getvalue().encode()


def _heading(month: str, account: Account) -> dict[str, str | int]:
    return {"tenant": account.tenant_id, "tenant_name": account.tenant_name, "month": month}


def _fee(fee: Fee) -> dict[str, str | int]:
    return {
        "line": "fee",
        "description": f"plan {fee.plan} version {fee.version}, {fee.first_day} until {fee.end_day}",
        "day": fee.first_day,
        "currency": fee.currency,
        "amount": format_money(fee.fee_minor, fee.currency),
    }


def _usage(line: DailyUsage) -> dict[str, str | int]:
    return {
        "line": "usage",
        "description": f"use of {line.model} on {line.day}",
        "day": line.day,
        "model": line.model,
        "requests": line.requests,
        **unit_columns(line),
        "credits": format_credits(line.charge_ncr),
        "covered_credits": format_credits(line.covered_ncr),
        "debt_credits": format_credits(line.debt_ncr),
        "excess_credits": format_credits(line.excess_ncr),
        "overage_credits": format_credits(line.overage_ncr),
        "currency": line.currency,
        "amount": format_money(round_money(line.overage_exact, line.currency), line.currency),
    }


def _safe(column: str, value: str | int) -> str | int:
    return disarm(value) if column in _TEXTS and isinstance(value, str) else value
