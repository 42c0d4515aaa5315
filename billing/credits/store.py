"""Queries over the tenants' credit accounts. Takes a session, never commits.

The statements are built once: every batch runs them, and building one costs more than running it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Row, Table, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from billing.credits.table import CreditAccountRow


class Totals(msgspec.Struct, kw_only=True):
    """A tenant's running totals (ncr): what grants paid, what is owed, what was given away, what will be invoiced."""

    tenant_id: str
    debt_ncr: int = 0
    consumed_ncr: int = 0
    excess_ncr: int = 0
    overage_ncr: int = 0


_TABLE: Table = CreditAccountRow.metadata.tables["credit_account"]
_ID = _TABLE.c.tenant_id
_LOCK = select(_TABLE).where(_ID.in_(bindparam("ids", expanding=True))).order_by(_ID).with_for_update()
_GET = select(_TABLE).where(_TABLE.c.tenant_id == bindparam("id"))
_EVERY = select(_TABLE).order_by(_ID)
_PUT = update(_TABLE).where(_TABLE.c.tenant_id == bindparam("id")).values({field: bindparam(field) for field in Totals.__struct_fields__[1:]})
_OPEN = {
    "postgresql": postgresql.insert(_TABLE).on_conflict_do_nothing(index_elements=["tenant_id"]),
    "sqlite": sqlite.insert(_TABLE).on_conflict_do_nothing(index_elements=["tenant_id"]),
}


def lock(session: Session, tenant_ids: Iterable[str]) -> dict[str, Totals]:
    """Lock tenants' accounts until the transaction ends, in the order of their ids, and return them; a missing one is opened first.

    Whoever takes from grants holds this lock. A tenant that does not exist is an IntegrityError of the database.
    """
    wanted = sorted(set(tenant_ids))
    connection = session.connection()
    found = {row.tenant_id: _totals(row) for row in connection.execute(_LOCK, {"ids": wanted})}
    missing = [msgspec.structs.asdict(Totals(tenant_id=tenant_id)) for tenant_id in wanted if tenant_id not in found]
    if missing:
        connection.execute(_OPEN[connection.dialect.name], missing)
        found = {row.tenant_id: _totals(row) for row in connection.execute(_LOCK, {"ids": wanted})}
    return found


def put(session: Session, totals: Sequence[Totals]) -> None:
    """Write totals that were computed under `lock`."""
    if totals:
        session.connection().execute(_PUT, [{"id": total.tenant_id, **_amounts(total)} for total in totals])


def get(session: Session, tenant_id: str) -> Totals:
    """Return a tenant's totals; all 0 before anything was booked. Locks nothing."""
    row = session.connection().execute(_GET, {"id": tenant_id}).first()
    return Totals(tenant_id=tenant_id) if row is None else _totals(row)


def every(session: Session) -> dict[str, Totals]:
    """Return all tenants' totals by tenant."""
    return {row.tenant_id: _totals(row) for row in session.connection().execute(_EVERY)}


def _amounts(total: Totals) -> dict[str, int]:
    return {field: getattr(total, field) for field in Totals.__struct_fields__[1:]}


def _totals(row: Row[Any]) -> Totals:
    return Totals(**row._mapping)
