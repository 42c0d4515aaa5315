"""Queries over the audit log. Takes a session, never commits; nothing here updates or deletes.

`record` stands in the transaction of the change: both are there, or neither. It holds the admin lock, as `note_change` does, so numbers have no
gaps and are in the order of the commits; on SQLite a write transaction is alone by itself.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec
from sqlalchemy import Row, Table, or_, select
from sqlmodel import Session

from billing.audit.chain import FIRST, Entry, Head, sealed, written
from billing.audit.table import AuditEntryRow
from billing.tenants.store import hold_admin_lock

_ENTRY: Table = AuditEntryRow.metadata.tables["audit_entry"]
_FIELDS = [_ENTRY.c[field] for field in Entry.__struct_fields__]
_HEAD = select(_ENTRY.c.seq, _ENTRY.c.hash).order_by(_ENTRY.c.seq.desc()).limit(1)
_AT_ONCE = 200  # entries read at once by a walk


class Deed(NamedTuple):
    """One change for the log, as `record` takes it."""

    action: str
    tenant_id: str | None
    subject: str
    before: object | None
    after: object | None


def record(session: Session, now_us: int, *, action: str, tenant_id: str | None, subject: str, before: object | None, after: object | None) -> None:
    """Append what a write changes, in its transaction: `action` as noun and verb ("grant.add"), `subject` the id of what it concerns.

    `before` and `after` are structs, mappings or lists, never with a secret; where both say the same nothing changed, and nothing is recorded.
    """
    record_all(session, now_us, [Deed(action, tenant_id, subject, before, after)])


def record_all(session: Session, now_us: int, deeds: Iterable[Deed]) -> None:
    """Append what a write changes in many things, as `record` does for one: three statements, however many there are."""
    told = [(deed, old, new) for deed in deeds if (old := written(deed.before)) != (new := written(deed.after))]
    if not told:
        return
    hold_admin_lock(session)
    last = head(session)
    rows = []
    for deed, old, new in told:
        entry = sealed(
            Entry(
                seq=last.seq + 1,
                at_us=now_us,
                actor=session.info["actor"],
                action=deed.action,
                tenant_id=deed.tenant_id,
                subject=deed.subject,
                before=old,
                after=new,
                prev_hash=last.hash,
            )
        )
        rows.append(msgspec.structs.asdict(entry))
        last = Head(entry.seq, entry.hash)
    session.connection().execute(_ENTRY.insert(), rows)


def head(session: Session) -> Head:
    """Return the last entry's number and hash; of the empty log 0 and what the first entry follows."""
    row = session.connection().execute(_HEAD).first()
    return Head(0, FIRST) if row is None else Head(row.seq, row.hash)


def get_entry(session: Session, seq: int) -> Entry | None:
    """Return one entry, or None."""
    row = session.connection().execute(select(*_FIELDS).where(_ENTRY.c.seq == seq)).first()
    return None if row is None else _entry(row)


def entries(
    session: Session,
    *,
    tenant_id: str | None = None,
    actor: str | None = None,
    action: str | None = None,
    since_us: int | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[Entry]:
    """Return entries, the newest first, at most `limit`. `action`: one ("grant.add") or all of a noun ("grant"); `before`: only those with a lower number."""
    query = select(*_FIELDS).order_by(_ENTRY.c.seq.desc()).limit(limit)
    if tenant_id is not None:
        query = query.where(_ENTRY.c.tenant_id == tenant_id)
    if actor is not None:
        query = query.where(_ENTRY.c.actor == actor)
    if action is not None:
        query = query.where(or_(_ENTRY.c.action == action, _ENTRY.c.action.startswith(f"{action}.", autoescape=True)))
    if since_us is not None:
        query = query.where(_ENTRY.c.at_us >= since_us)
    if before is not None:
        query = query.where(_ENTRY.c.seq < before)
    return [_entry(row) for row in session.connection().execute(query)]


def every_entry(session: Session) -> Iterator[Entry]:
    """Yield every entry in the order of its number, a few hundred in memory at once."""
    for row in session.execute(select(*_FIELDS).order_by(_ENTRY.c.seq).execution_options(yield_per=_AT_ONCE)):
        yield _entry(row)


def _entry(row: Row[tuple[object, ...]]) -> Entry:
    return Entry(**row._mapping)
