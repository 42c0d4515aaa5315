"""Queries over replicas and leases. Takes a session, never commits.

Lock order: whoever sets credits aside holds the tenant's `credit_account` first (`credits.store.lock`); then nobody else does for that tenant.
Giving back needs no lock: whoever counts meanwhile counts too much as set aside, never too little.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec
from sqlalchemy import CursorResult, Result, Table, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from billing.bulk import ENGINES, Change, among, listed
from billing.leases.table import ReplicaRow

_REPLICA: Table = ReplicaRow.metadata.tables["replica"]
_LEASE: Table = ReplicaRow.metadata.tables["lease"]
# Built once: every flush runs them.
_AMONG = among(_LEASE.c.tenant_id)
_FIELDS = [_LEASE.c[field] for field in ("tenant_id", "purse", "replica_id", "amount_ncr", "valid_until_us")]
_OF = {engine: select(*_FIELDS).where(_AMONG[engine]) for engine in ENGINES}
_LOWER = Change(
    postgresql="UPDATE lease AS l SET amount_ncr = greatest(0, l.amount_ncr - v.amount) "
    "FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[]) AS v (tenant, name, replica, amount) "
    "WHERE l.tenant_id = v.tenant AND l.purse = v.name AND l.replica_id = v.replica",
    sqlite="UPDATE lease SET amount_ncr = max(0, amount_ncr - ?4) WHERE tenant_id = ?1 AND purse = ?2 AND replica_id = ?3",
)


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """A running process, as the books know it. A beat is a random number that only it can have told: two that believe to be one are told apart by it.

    `note` is what it lets the others know: text that means nothing here.
    """

    id: str
    beat: int
    host: str
    pid: int
    started_us: int
    note: str | None = None


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """What is set aside of a tenant's purse for one process (ncr), and until when it is worth that."""

    tenant_id: str
    purse: str
    replica_id: str
    amount_ncr: int
    valid_until_us: int


def register(session: Session, replica: Replica) -> None:
    """Write that a process runs."""
    session.connection().execute(_REPLICA.insert().values(msgspec.structs.asdict(replica)))


def beat(session: Session, replica_id: str, last: Iterable[int], new: int, note: str | None = None) -> bool:
    """Say that a process still runs: its beat becomes `new`, with a note beside it, if it is one of those it may have told last. False when it was taken
    for dead, or is another of the same id.
    """
    told = update(_REPLICA).where(_REPLICA.c.id == replica_id, _REPLICA.c.beat.in_(list(last))).values(beat=new, note=note)
    return _count(session.connection().execute(told)) == 1


def holds_beat(session: Session, replica_id: str, last: Iterable[int]) -> bool:
    """Tell whether a process is still in the books with one of the beats it may have told last, and keep it there until the transaction ends."""
    query = select(_REPLICA.c.beat).where(_REPLICA.c.id == replica_id).with_for_update(read=True)
    return session.connection().execute(query).scalar_one_or_none() in tuple(last)


def replicas(session: Session) -> list[Replica]:
    """Return every process in the books, by id."""
    return [Replica(**row._mapping) for row in session.connection().execute(select(_REPLICA).order_by(_REPLICA.c.id))]


def bury(session: Session, replica_id: str, last: int | None = None) -> bool:
    """Take a process out of the books with all its leases; with `last`, only while that is its beat. False when nothing was taken out."""
    gone = delete(_REPLICA).where(_REPLICA.c.id == replica_id)
    if last is not None:
        gone = gone.where(_REPLICA.c.beat == last)
    if _count(session.connection().execute(gone)) == 0:
        return False
    session.connection().execute(delete(_LEASE).where(_LEASE.c.replica_id == replica_id))
    return True


def leases_of(session: Session, tenant_ids: Iterable[str]) -> dict[str, list[Lease]]:
    """Return the leases of tenants, those past their end too, by tenant."""
    found: dict[str, list[Lease]] = defaultdict(list)
    connection = session.connection()
    for row in connection.execute(_OF[connection.dialect.name], {"ids": listed(connection, tenant_ids)}):
        found[row[0]].append(Lease(tenant_id=row[0], purse=row[1], replica_id=row[2], amount_ncr=row[3], valid_until_us=row[4]))
    return found


def held_by(session: Session, replica_id: str) -> list[Lease]:
    """Return the leases of a process that are worth anything."""
    query = select(_LEASE).where(_LEASE.c.replica_id == replica_id, _LEASE.c.amount_ncr > 0)
    return [Lease(**row._mapping) for row in session.connection().execute(query)]


def put(session: Session, leases: Iterable[Lease]) -> None:
    """Write leases that were computed under the tenant's lock, in place of what was there."""
    rows = [msgspec.structs.asdict(lease) for lease in leases]
    if not rows:
        return
    connection = session.connection()
    new = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(_LEASE)
    changed = {"amount_ncr": new.excluded.amount_ncr, "valid_until_us": new.excluded.valid_until_us}
    connection.execute(new.on_conflict_do_update(index_elements=["tenant_id", "purse", "replica_id"], set_=changed), rows)


def lower(session: Session, replica_id: str, amounts: Mapping[tuple[str, str], int]) -> None:
    """Take ncr off a process's leases, by (tenant, purse), down to 0: what they have not is taken from no one."""
    _LOWER.run(session.connection(), [(tenant, purse, replica_id, amount) for (tenant, purse), amount in sorted(amounts.items())])


def _count(result: Result[tuple[()]]) -> int:
    return result.rowcount if isinstance(result, CursorResult) else 0
