"""The months that PostgreSQL divides usage events into; on SQLite there are none.

A partition is a range of ids: a UUIDv7's text sorts by its time, so the id alone stays unique over all months. What is in no month is
in the default partition, and so is a month whose first events came before its partition was made: nothing is ever moved, because facts
are not deleted, and everything finds them there all the same.
"""

import logging
from datetime import UTC, datetime
from functools import cache

from sqlalchemy import text
from sqlmodel import Session

MONTHS_AHEAD = 3
PARTITIONS_LOCK = 0x5745495200000002  # PostgreSQL advisory lock: processes that start together make them once

log = logging.getLogger(__name__)


def month_after(year: int, month: int, count: int) -> tuple[int, int]:
    """Return the (year, month) that comes `count` months later."""
    months = year * 12 + month - 1 + count
    return months // 12, months % 12 + 1


def first_id(year: int, month: int) -> str:
    """Return the text that every UUIDv7 made in a month (UTC), or later, is at or after, and every earlier one before."""
    digits = f"{int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1000:012x}"
    return f"{digits[:8]}-{digits[8:]}"


def make_months(session: Session, now_us: int, ahead: int = MONTHS_AHEAD) -> list[str]:
    """Make the partitions of this month (UTC) and the next ones where they are missing; return the names of those made.

    A month that has events in the default partition already is left there, with a warning.
    """
    if session.get_bind().dialect.name != "postgresql":
        return []
    now = datetime.fromtimestamp(now_us // 1_000_000, tz=UTC)
    months = [month_after(now.year, now.month, count) for count in range(ahead + 1)]
    if not [month for month in months if not _exists(session, _name(*month))]:
        return []
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": PARTITIONS_LOCK})
    return [_name(*month) for month in months if not _exists(session, _name(*month)) and _make(session, *month)]


def _make(session: Session, year: int, month: int) -> bool:
    name, start, end = _name(year, month), first_id(year, month), first_id(*month_after(year, month, 1))
    late = text("SELECT 1 FROM usage_event_default WHERE id >= :start AND id < :end LIMIT 1")
    if session.execute(late, {"start": start, "end": end}).first() is not None:
        _say_late(f"{year}-{month:02}")
        return False
    # Made apart and attached: CREATE ... PARTITION OF would make every flush wait. Attaching makes the indexes and the guards of rows.
    session.execute(text(f"CREATE TABLE {name} (LIKE usage_event INCLUDING DEFAULTS)"))
    session.execute(text(f"CREATE TRIGGER {name}_kept BEFORE TRUNCATE ON {name} FOR EACH STATEMENT EXECUTE FUNCTION weir_refuse_change()"))
    session.execute(text(f"ALTER TABLE usage_event ATTACH PARTITION {name} FOR VALUES FROM ('{start}') TO ('{end}')"))
    return True


@cache  # once a process
def _say_late(month: str) -> None:
    log.warning("usage events of %s came before their partition was made; they stay in the default one, which is slower and nothing else", month)


def _name(year: int, month: int) -> str:
    return f"usage_event_{year}_{month:02}"


def _exists(session: Session, name: str) -> bool:
    return session.execute(text("SELECT to_regclass(:name)"), {"name": name}).scalar_one() is not None
