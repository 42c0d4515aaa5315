"""Calendar days as ISO text. Pure."""

from datetime import UTC, date, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def day_before(day: str) -> str:
    """Return the day before: the last day of a span that ends before `day`."""
    return (date.fromisoformat(day) - timedelta(days=1)).isoformat()


def instant(at_us: int) -> str:
    """Write an instant (UTC epoch microseconds) in ISO 8601, to the microsecond where it has one: 2026-11-03T12:00:00Z."""
    return (_EPOCH + timedelta(microseconds=at_us)).isoformat().replace("+00:00", "Z")
