"""A bill as plain CSV, for vendors without a report of their own.

Header: `day,model,bucket,quantity,cost,currency`. `day` is a UTC day (2026-11-03), `bucket` one of ours or `total` (a cost of all of them); a row
has a quantity, a cost in major units with its currency, or both. The period is from the first day to the last.
"""

import csv
import io
from datetime import date

from billing.errors import Invalid
from billing.meter import BUCKETS
from billing.money import parse_money_exact
from billing.reconcile.bill import DAY_US, TOTAL, Bill, Draft

HEADER = ("day", "model", "bucket", "quantity", "cost", "currency")


def read(data: bytes) -> Bill:
    """Read a file. Raises `Invalid`, naming the line."""
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise Invalid("file", f"file: this is no CSV in UTF-8: {error}") from None
    if not rows or tuple(rows[0]) != HEADER:
        raise Invalid("file", f"file: the first line is not {','.join(HEADER)}")
    draft, seen = Draft(), set()
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(HEADER):
            raise Invalid("file", f"file: line {number} has {len(row)} fields; {len(HEADER)} are in the header")
        day, model, bucket, quantity, cost, currency = row
        day_us = _day(day, number)
        if (day_us, model, bucket) in seen:
            raise Invalid("file", f"file: line {number}: {day} {model} {bucket} comes twice")
        seen.add((day_us, model, bucket))
        if bucket != TOTAL and bucket not in BUCKETS:
            raise Invalid("file", f"file: line {number}: there is no bucket `{bucket}`; one of {', '.join((*BUCKETS, TOTAL))}")
        if not (quantity or cost) or (quantity and bucket == TOTAL) or bool(cost) != bool(currency):
            raise Invalid("file", f"file: line {number}: write a quantity (not of {TOTAL}), or a cost with its currency, or both")
        if quantity:
            if not (quantity.isascii() and quantity.isdigit() and len(quantity) < 20):
                raise Invalid("file", f"file: line {number}: `{quantity}` is no quantity; a whole number, at least 0")
            draft.quantity(day_us, model, bucket, int(quantity))
        if cost:
            draft.cost(day_us, model, bucket, parse_money_exact(cost, f"line {number}"), currency)
    days = [place[0] for place in seen]
    return draft.finish(min(days, default=0), max(days, default=0) + DAY_US)


def _day(text: str, number: int) -> int:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise Invalid("file", f"file: line {number}: `{text}` is no day; write it like 2026-11-03") from None
    return (day - date(1970, 1, 1)).days * DAY_US
