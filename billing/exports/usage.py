"""The usage export: one line per tenant, day and model, as CSV or JSON; the same bytes for the same lines.

CSV follows RFC 4180. A text that a spreadsheet would run as a formula gets an apostrophe in front. Credits and money are exact decimals
in text, so that no reader's float spoils them.
"""

import csv
import io
import json
from collections.abc import Iterable

from billing.money import format_credits, format_exact
from billing.usage.daily import UNIT_COLUMNS, DailyUsage, unit_columns

CREDITS = ("credits", "covered_credits", "debt_credits", "excess_credits", "overage_credits")
COLUMNS = ("tenant", "day", "model", "requests", "unreported_requests", *UNIT_COLUMNS.values(), *CREDITS, "currency", "overage_amount")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def to_csv(lines: Iterable[DailyUsage]) -> bytes:
    """Write lines as CSV with a header, in UTF-8; a header alone when there are none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for line in lines:
        row = _row(line)
        writer.writerow([_safe(value) if column in ("tenant", "model") else value for column, value in row.items()])
    return out.getvalue().encode()


def to_json(month: str, lines: Iterable[DailyUsage]) -> bytes:
    """Write lines as one JSON object {month, lines, totals}; credits and money as text, counts as numbers."""
    listed = list(lines)
    totals = {
        "lines": len(listed),
        "requests": sum(line.requests for line in listed),
        "credits": format_credits(sum(line.charge_ncr for line in listed)),
        "covered_credits": format_credits(sum(line.covered_ncr for line in listed)),
        "overage_credits": format_credits(sum(line.overage_ncr for line in listed)),
    }
    document = {"month": month, "lines": [_row(line) for line in listed], "totals": totals}
    return (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode()


def _row(line: DailyUsage) -> dict[str, str | int]:
    amounts = (line.charge_ncr, line.covered_ncr, line.debt_ncr, line.excess_ncr, line.overage_ncr)
    return {
        "tenant": line.tenant_id,
        "day": line.day,
        "model": line.model,
        "requests": line.requests,
        "unreported_requests": line.unreported,
        **unit_columns(line),
        **{name: format_credits(ncr) for name, ncr in zip(CREDITS, amounts, strict=True)},
        "currency": line.currency,
        "overage_amount": format_exact(line.overage_exact),
    }


def _safe(value: str | int) -> str | int:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
