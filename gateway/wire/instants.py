"""Instants and months between people and microseconds: ISO 8601 outside, UTC epoch microseconds (`*_us`) inside."""

import re
from datetime import UTC, date, datetime, timedelta

from billing.errors import Invalid

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)
_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])")


def to_us(instant: datetime) -> int:
    """Turn an aware instant into epoch microseconds, exactly."""
    return (instant - _EPOCH) // _US


def from_us(us: int) -> datetime:
    """Turn epoch microseconds into an instant in UTC, exactly."""
    return _EPOCH + us * _US


def show(us: int | None) -> str:
    """Write an instant for a person, in UTC to the second; an absent one as nothing."""
    return "" if us is None else from_us(us).strftime("%Y-%m-%d %H:%M:%SZ")


def parse(text: str, field: str) -> int:
    """Read `2027-01-01` (midnight UTC) or an ISO 8601 instant with its zone. Raises `Invalid` naming the field."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is not None and instant.tzinfo is None and len(text) == len("2027-01-01"):
        instant = instant.replace(tzinfo=UTC)
    if instant is None or instant.tzinfo is None:
        raise Invalid(field, f"{field}: `{text}` is no instant; write 2027-01-01 or 2027-01-01T12:00:00+01:00")
    return to_us(instant)


def parse_month(text: str, field: str = "month") -> str:
    """Check a month written as 2026-11 and return it. Raises `Invalid` naming the field."""
    if not _MONTH.fullmatch(text) or date(int(text[:4]) or 1, 1, 1).year < 1970:
        raise Invalid(field, f"{field}: `{text}` is no month; write it like 2026-11")
    return text
