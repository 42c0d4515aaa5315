"""Queries over grants and what is left of them. Takes a session, never commits.

Lock order: whoever takes from a grant locks the tenant's `credit_account` first, so balances need no lock of their own.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, Table, bindparam, insert, or_, update
from sqlalchemy import select as columns
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from billing.errors import Conflict
from billing.grants.grant import Grant, burn_key
from billing.grants.table import CreditGrantRow, GrantBalanceRow

_GRANT: Table = CreditGrantRow.metadata.tables["credit_grant"]
_BALANCE: Table = CreditGrantRow.metadata.tables["grant_balance"]
# Built once: every flush runs them, and building one costs more than running it.
_ELIGIBLE = (
    columns(_GRANT, _BALANCE.c.remaining_ncr)
    .join_from(_GRANT, _BALANCE)
    .where(
        _GRANT.c.tenant_id == bindparam("tenant"),
        _GRANT.c.effective_us <= bindparam("last"),
        or_(_GRANT.c.expires_us.is_(None), _GRANT.c.expires_us > bindparam("first")),
        _GRANT.c.voided_us.is_(None),
    )
)
_TAKE = (
    update(_BALANCE)
    .where(_BALANCE.c.grant_id == bindparam("grant"), _BALANCE.c.remaining_ncr >= bindparam("amount"))
    .values(remaining_ncr=_BALANCE.c.remaining_ncr - bindparam("amount"))
)


def insert_grant(session: Session, grant: Grant) -> bool:
    """Insert a grant with its balance; False when a grant of that id exists already, which is then left as it is."""
    values = {field: getattr(grant, field) for field in Grant.__struct_fields__ if field != "remaining_ncr"}
    values["models"] = None if grant.models is None else sorted(grant.models)
    new = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    statement = new(CreditGrantRow).values(values).on_conflict_do_nothing(index_elements=["id"]).returning(col(CreditGrantRow.id))
    if session.execute(statement).first() is None:
        return False
    session.execute(insert(GrantBalanceRow).values(grant_id=grant.id, remaining_ncr=grant.remaining_ncr))
    return True


def get_grant(session: Session, grant_id: str) -> Grant | None:
    """Return one grant, or None."""
    found = _grants(session, col(CreditGrantRow.id) == grant_id)
    return found[0] if found else None


def current_grants(session: Session, tenant_id: str, now_us: int) -> list[Grant]:
    """Return the tenant's grants in effect at `now_us` and not voided, in burn order; also those with nothing left."""
    return eligible_grants(session, tenant_id, now_us, now_us)


def eligible_grants(session: Session, tenant_id: str, first_us: int, last_us: int) -> list[Grant]:
    """Return the tenant's unvoided grants in effect at any instant of [first_us, last_us], in burn order."""
    found = session.connection().execute(_ELIGIBLE, {"tenant": tenant_id, "first": first_us, "last": last_us})
    return sorted((_grant(row._mapping) for row in found), key=burn_key)


def all_grants(session: Session, tenant_id: str | None = None) -> list[Grant]:
    """Return every grant ever given, of one tenant or of all."""
    return _grants(session) if tenant_id is None else _grants(session, col(CreditGrantRow.tenant_id) == tenant_id)


def next_start_us(session: Session, tenant_id: str, now_us: int) -> int | None:
    """Return the instant after `now_us` at which the next grant already written takes effect, or None."""
    query = select(CreditGrantRow.effective_us).where(
        CreditGrantRow.tenant_id == tenant_id, CreditGrantRow.effective_us > now_us, col(CreditGrantRow.voided_us).is_(None)
    )
    return session.exec(query.order_by(col(CreditGrantRow.effective_us)).limit(1)).first()


def take(session: Session, draws: Mapping[str, int]) -> None:
    """Take ncr from grants, by id. Raises `Conflict` when a grant holds less than is taken: then the caller computed on stale figures."""
    if not draws:
        return
    taken = session.connection().execute(_TAKE, [{"grant": grant_id, "amount": draws[grant_id]} for grant_id in sorted(draws)])
    if taken.rowcount != len(draws):
        raise Conflict(f"one of the grants {', '.join(sorted(draws))} does not hold the ncr that were to be taken from it: {dict(draws)}")


def void(session: Session, grant_id: str, now_us: int) -> bool:
    """Void a grant from now on; what is left stays written beside it as the amount voided. False when it was void already."""
    statement = update(CreditGrantRow).where(col(CreditGrantRow.id) == grant_id, col(CreditGrantRow.voided_us).is_(None)).values(voided_us=now_us)
    result = session.execute(statement)
    return isinstance(result, CursorResult) and result.rowcount == 1


def _grants(session: Session, *where: ColumnElement[bool]) -> list[Grant]:
    query = select(CreditGrantRow, GrantBalanceRow.remaining_ncr).join(GrantBalanceRow).where(*where).execution_options(populate_existing=True)
    found = [
        _grant({field: getattr(row, field) for field in Grant.__struct_fields__ if field != "remaining_ncr"} | {"remaining_ncr": remaining})
        for row, remaining in session.exec(query)
    ]
    return sorted(found, key=burn_key)


def _grant(values: Mapping[str, Any]) -> Grant:
    models = values["models"]
    return Grant(**{**values, "models": None if models is None else tuple(models)})
