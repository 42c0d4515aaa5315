"""Queries over the tenants' credit accounts. Takes a session, never commits."""

from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from billing.credits.table import CreditAccountRow


class Totals(msgspec.Struct, kw_only=True):
    """A tenant's running totals (ncr): what grants paid, what is owed, what was given away, what will be invoiced."""

    tenant_id: str
    debt_ncr: int = 0
    consumed_ncr: int = 0
    excess_ncr: int = 0
    overage_ncr: int = 0


def lock(session: Session, tenant_ids: Iterable[str]) -> dict[str, Totals]:
    """Lock tenants' accounts until the transaction ends, in the order of their ids, and return them; a missing one is opened first.

    Whoever takes from grants holds this lock. A tenant that does not exist is an IntegrityError of the database.
    """
    wanted = sorted(set(tenant_ids))
    found = _locked(session, wanted)
    missing = [{"tenant_id": tenant_id, "debt_ncr": 0, "consumed_ncr": 0, "excess_ncr": 0, "overage_ncr": 0} for tenant_id in wanted if tenant_id not in found]
    if missing:
        new = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
        session.execute(new(CreditAccountRow).values(missing).on_conflict_do_nothing(index_elements=["tenant_id"]))
        found = _locked(session, wanted)
    return found


def put(session: Session, totals: Sequence[Totals]) -> None:
    """Write totals that were computed under `lock`."""
    for total in totals:
        values = {field: getattr(total, field) for field in Totals.__struct_fields__ if field != "tenant_id"}
        session.execute(update(CreditAccountRow).where(col(CreditAccountRow.tenant_id) == total.tenant_id).values(values))


def get(session: Session, tenant_id: str) -> Totals:
    """Return a tenant's totals; all 0 before anything was booked. Locks nothing."""
    row = session.exec(select(CreditAccountRow).where(CreditAccountRow.tenant_id == tenant_id)).first()
    return Totals(tenant_id=tenant_id) if row is None else _totals(row)


def every(session: Session) -> dict[str, Totals]:
    """Return all tenants' totals by tenant."""
    return {row.tenant_id: _totals(row) for row in session.exec(select(CreditAccountRow).order_by(CreditAccountRow.tenant_id))}


def _locked(session: Session, tenant_ids: Sequence[str]) -> dict[str, Totals]:
    query = select(CreditAccountRow).where(col(CreditAccountRow.tenant_id).in_(tenant_ids)).order_by(CreditAccountRow.tenant_id).with_for_update()
    return {row.tenant_id: _totals(row) for row in session.exec(query.execution_options(populate_existing=True))}


def _totals(row: CreditAccountRow) -> Totals:
    return Totals(**{field: getattr(row, field) for field in Totals.__struct_fields__})
