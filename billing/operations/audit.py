"""The audit log as an admin reads it: who changed what, and the proof that nobody touched the log since. All of it only reads."""

from billing.audit import store
from billing.audit.chain import Entry, Head, Verdict, read_head, walk
from billing.db import Database
from billing.errors import Invalid, NotFound

LIST_MAX = 1000


def list_entries(
    db: Database,
    *,
    tenant_id: str | None = None,
    actor: str | None = None,
    action: str | None = None,
    since_us: int | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[Entry]:
    """Return entries, the newest first. The log outlives what it speaks of, so a tenant that is not there is no error.

    `action`: one ("grant.add") or all of a noun ("grant"). The next page is `before` the last number of this one. Raises `Invalid` (limit).
    """
    if not 1 <= limit <= LIST_MAX:
        raise Invalid("limit", f"limit: {limit} is not between 1 and {LIST_MAX}")
    with db.read() as session:
        return store.entries(session, tenant_id=tenant_id, actor=actor, action=action, since_us=since_us, before=before, limit=limit)


def get_entry(db: Database, seq: int) -> Entry:
    """Return one entry. Raises `NotFound`."""
    with db.read() as session:
        entry = store.get_entry(session, seq)
    if entry is None:
        raise NotFound("audit entry", str(seq))
    return entry


def get_head(db: Database) -> Head:
    """Return the last entry's number and hash: noted elsewhere, it shows later whether the log was cut or written anew."""
    with db.read() as session:
        return store.head(session)


def verify(db: Database, noted: str | None = None) -> Verdict:
    """Walk the whole chain in one snapshot and say which entries are wrong. `noted`: a head from earlier, `SEQ:HASH`. Raises `Invalid` for what is none."""
    wanted = None if noted is None else read_head(noted)
    with db.read(long=True, snapshot=True) as session:
        return walk(store.every_entry(session), wanted)
