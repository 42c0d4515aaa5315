"""A provider's bill as a value, and what all readers of bills share: JSON without floats, pages that are all there, buckets of whole UTC days.

A line says a quantity or a cost of one day, model and bucket. A model that the bill does not name is "", a cost of all buckets together `TOTAL`.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any, Literal

import msgspec

from billing.errors import Invalid
from billing.money import pico_of_price

DAY_US = 86_400_000_000
TOTAL = "total"
QUANTITY_MAX = 2**63 - 1
Measure = Literal["quantity", "cost"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Line(msgspec.Struct, frozen=True, order=True):
    """So much of a bucket of a model on a UTC day (midnight's epoch microseconds): units, or pico-units of the bill's currency."""

    day_us: int
    model: str
    bucket: str
    measure: Measure
    amount: int


class Bill(msgspec.Struct, frozen=True, kw_only=True):
    """Lines of the days in [start_us, end_us). `currency` is None where no line is a cost; `warnings` are for the clerk to read."""

    start_us: int
    end_us: int
    currency: str | None
    lines: tuple[Line, ...]
    warnings: tuple[str, ...] = ()

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What the bill tells: quantities, costs or both."""
        said = {line.measure for line in self.lines}
        return tuple(measure for measure in ("cost", "quantity") if measure in said)


class Draft:
    """A bill while it is read: adds lines of one place up, and collects currencies and amounts that had to be rounded."""

    def __init__(self) -> None:
        self.sums: dict[tuple[int, str, str, Measure], int] = {}
        self.currencies: set[str] = set()
        self.rounded = 0

    def quantity(self, day_us: int, model: str, bucket: str, amount: int) -> None:
        """Add units."""
        self._add((day_us, model, bucket, "quantity"), amount)

    def cost(self, day_us: int, model: str, bucket: str, amount: Decimal, currency: str, *, units: int = 1) -> None:
        """Add money, `units` of which are a major unit; what is finer than a pico-unit is rounded, halves up, and counted."""
        pico, exact = pico_of_price(amount, units)
        self.rounded += not exact
        self.currencies.add(currency.upper())
        self._add((day_us, model, bucket, "cost"), pico)

    def finish(self, start_us: int, end_us: int) -> Bill:
        """Make the bill. Raises `Invalid` for one without lines, in several currencies, or with a quantity past 64 bits."""
        if not self.sums:
            raise Invalid("file", "file: the bill has no lines; was the right period and grouping asked for?")
        if len(self.currencies) > 1:
            raise Invalid("file", f"file: the bill is in {' and '.join(sorted(self.currencies))}; import one file per currency")
        if any(abs(amount) > QUANTITY_MAX for (*_place, measure), amount in self.sums.items() if measure == "quantity"):
            raise Invalid("file", "file: a quantity is past 64 bits; that is damage")
        warnings = (f"{self.rounded} amounts are finer than 10^-12 of a major unit and were rounded",) if self.rounded else ()
        lines = tuple(sorted(Line(*place, amount) for place, amount in self.sums.items()))
        return Bill(start_us=start_us, end_us=end_us, currency=next(iter(self.currencies), None), lines=lines, warnings=warnings)

    def _add(self, place: tuple[int, str, str, Measure], amount: int) -> None:
        self.sums[place] = self.sums.get(place, 0) + amount


def read_pages(data: bytes) -> list[dict[str, Any]]:
    """Return the time buckets of a report: one page, or a JSON list of pages in their order. Raises `Invalid` where pages are missing."""
    try:
        found = json.loads(data, parse_float=Decimal, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Invalid("file", f"file: this is no JSON: {error}") from None
    pages = found if isinstance(found, list) else [found]
    if not pages or not all(isinstance(page, dict) and isinstance(page.get("data"), list) for page in pages):
        raise Invalid("file", "file: this is no usage or cost report; it has `data`, a list of time buckets (several pages: a JSON list of them)")
    if any(not page.get("has_more") for page in pages[:-1]) or pages[-1].get("has_more") is not False:
        raise Invalid(
            "file", "file: pages are missing or out of order; the last has `has_more: false`. Ask for the others by `next_page` and put all into a list"
        )
    buckets = [bucket for page in pages for bucket in page["data"]]
    if not all(isinstance(bucket, dict) and isinstance(bucket.get("results"), list) for bucket in buckets):
        raise Invalid("file", "file: a time bucket has no `results`")
    return buckets


def check_spans(spans: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return [start_us, end_us) of time buckets that follow each other within whole UTC days. Raises `Invalid` for one twice, an overlap or a gap."""
    ordered = sorted(spans)
    if not ordered:
        raise Invalid("file", "file: the report has no time buckets")
    for start_us, end_us in ordered:
        if start_us >= end_us or start_us // DAY_US != (end_us - 1) // DAY_US:
            raise Invalid("file", f"file: the time bucket from {show_instant(start_us)} is not within one UTC day; ask for buckets of 1d, 1h or 1m")
    for (_, end_us), (start_us, _) in pairwise(ordered):
        if start_us != end_us:
            what = "comes twice or overlaps another" if start_us < end_us else "does not follow the one before"
            raise Invalid("file", f"file: the time bucket from {show_instant(start_us)} {what}")
    first_us, last_us = ordered[0][0], ordered[-1][1]
    if first_us % DAY_US or last_us % DAY_US:
        raise Invalid("file", "file: the report does not begin and end at midnight UTC; ask for whole days")
    return first_us, last_us


def count(result: dict[str, Any], name: str) -> int:
    """Return a count of a result, 0 where it is absent. Raises `Invalid` for what is no count."""
    value = result.get(name)
    if value is None:
        return 0
    if type(value) is not int or value < 0:
        raise Invalid("file", f"file: `{name}` is {value!r}; a count is a whole number, at least 0")
    return value


def check_fields(result: dict[str, Any], known: frozenset[str]) -> None:
    """Raise `Invalid` for a figure that no reader knows: left out, it would be usage or money that is not looked at."""
    for name, value in result.items():
        if name not in known and isinstance(value, int | Decimal | dict | list) and not isinstance(value, bool) and value:
            raise Invalid("file", f"file: a result has `{name}`, which is not known here; nothing is dropped, so the bill is refused")


def label(result: dict[str, Any], name: str) -> str:
    """Return a text of a result, "" where it is absent. Raises `Invalid` for what is no text."""
    value = result.get(name)
    if value is not None and not isinstance(value, str):
        raise Invalid("file", f"file: `{name}` is {value!r}, and should be text")
    return value or ""


def us_of(instant: object, name: str) -> int:
    """Return epoch microseconds of Unix seconds or an RFC 3339 instant. Raises `Invalid`."""
    if type(instant) is int and 0 <= instant < 10**11:
        return instant * 1_000_000
    try:
        found = datetime.fromisoformat(instant if isinstance(instant, str) else "")
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise Invalid("file", f"file: `{name}` is {instant!r}, and no instant")
    return (found - _EPOCH) // timedelta(microseconds=1)


def show_day(day_us: int) -> str:
    """Write a UTC day: 2026-11-03."""
    return f"{_EPOCH + timedelta(microseconds=day_us):%Y-%m-%d}"


def show_instant(at_us: int) -> str:
    """Write an instant in UTC."""
    return f"{_EPOCH + timedelta(microseconds=at_us):%Y-%m-%d %H:%M:%SZ}"


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")
