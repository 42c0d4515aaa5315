"""Queries over grants and what is left of them. Takes a session, never commits.

Lock order: whoever takes from a grant locks the tenant's `credit_account` first, so balances need no lock of their own.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, Table, bindparam, case, func, insert, literal, or_, tuple_, update
from sqlalchemy import select as columns
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from billing.bulk import ENGINES, Change, among, listed
from billing.errors import Conflict
from billing.grants.grant import Grant, burn_key
from billing.grants.table import CreditGrantRow, GrantBalanceRow

_GRANT: Table = CreditGrantRow.metadata.tables["credit_grant"]
_BALANCE: Table = CreditGrantRow.metadata.tables["grant_balance"]
# Built once: every flush runs them, and building one costs more than running it.
_BATCH = 500  # grants a statement: SQLite takes 32,766 values in one
_LEFT = ("remaining_ncr", "expired_ncr", "voided_ncr")
_FIELDS = [_GRANT.c[field] for field in Grant.__struct_fields__ if field not in _LEFT] + [_BALANCE.c[field] for field in _LEFT]
_OF = among(_GRANT.c.tenant_id)
_ELIGIBLE = {
    engine: columns(*_FIELDS)
    .join_from(_GRANT, _BALANCE)
    .where(
        _OF[engine],
        _GRANT.c.effective_us <= bindparam("last"),
        or_(_GRANT.c.expires_us.is_(None), _GRANT.c.expires_us > bindparam("first")),
        _GRANT.c.voided_us.is_(None),
    )
    for engine in ENGINES
}
_BURN_ORDER: tuple[ColumnElement[Any], ...] = (
    case((_GRANT.c.key_id.is_not(None), 0), (_GRANT.c.project.is_not(None), 1), else_=2),
    _GRANT.c.priority,
    case((_GRANT.c.expires_us.is_(None), 1), else_=0),
    func.coalesce(_GRANT.c.expires_us, 0),
    case((_GRANT.c.kind != "promotion", 1), else_=0),
    _GRANT.c.effective_us,
    _GRANT.c.id,
)
_ENDING = columns(*_FIELDS).join_from(_GRANT, _BALANCE).where(_GRANT.c.tenant_id == bindparam("tenant"), _GRANT.c.expires_us == bindparam("end"))
_TAKE = Change(
    postgresql="UPDATE grant_balance AS b SET remaining_ncr = b.remaining_ncr - v.amount FROM unnest(%s::text[], %s::bigint[]) AS v (id, amount) "
    "WHERE b.grant_id = v.id AND b.remaining_ncr >= v.amount",
    sqlite="UPDATE grant_balance SET remaining_ncr = remaining_ncr - ?2 WHERE grant_id = ?1 AND remaining_ncr >= ?2",
)
_OVER = (
    columns(_GRANT.c.id, _GRANT.c.tenant_id)
    .where(_GRANT.c.closed_us.is_(None), _GRANT.c.expires_us <= bindparam("by"))
    .order_by(_GRANT.c.expires_us, _GRANT.c.id)
    .limit(bindparam("limit"))
)
_EXPIRE = (
    update(_BALANCE)
    .where(_BALANCE.c.grant_id.in_(bindparam("ids", expanding=True)))
    .values(expired_ncr=_BALANCE.c.expired_ncr + _BALANCE.c.remaining_ncr, remaining_ncr=0)
)
_VOID = update(_BALANCE).where(_BALANCE.c.grant_id == bindparam("grant")).values(voided_ncr=_BALANCE.c.voided_ncr + _BALANCE.c.remaining_ncr, remaining_ncr=0)
_CLOSE = update(_GRANT).where(_GRANT.c.id.in_(bindparam("ids", expanding=True)), _GRANT.c.closed_us.is_(None)).values(closed_us=bindparam("now"))


def insert_grant(session: Session, grant: Grant) -> bool:
    """Insert a grant with its balance; False when a grant of that id exists already, which is then left as it is."""
    values = {field: getattr(grant, field) for field in Grant.__struct_fields__ if field not in _LEFT}
    values["models"] = None if grant.models is None else sorted(set(grant.models))
    new = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    statement = new(CreditGrantRow).values(values).on_conflict_do_nothing(index_elements=["id"]).returning(col(CreditGrantRow.id))
    if session.execute(statement).first() is None:
        return False
    session.execute(insert(GrantBalanceRow).values(grant_id=grant.id, **{field: getattr(grant, field) for field in _LEFT}))
    return True


def insert_grants(session: Session, grants: Sequence[Grant]) -> set[str]:
    """Insert grants with their balances, a few hundred a statement; return the ids of those that are new. Those that exist are left as they are."""
    inserted: set[str] = set()
    for batch in (grants[first : first + _BATCH] for first in range(0, len(grants), _BATCH)):
        rows = [
            {field: getattr(grant, field) for field in Grant.__struct_fields__ if field not in (*_LEFT, "models")}
            | {"models": None if grant.models is None else sorted(set(grant.models))}
            for grant in batch
        ]
        new = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
        statement = new(CreditGrantRow).values(rows).on_conflict_do_nothing(index_elements=["id"]).returning(col(CreditGrantRow.id))
        here = set(session.execute(statement).scalars())
        balances = [{"grant_id": grant.id} | {field: getattr(grant, field) for field in _LEFT} for grant in batch if grant.id in here]
        if balances:
            session.connection().execute(insert(_BALANCE), balances)
        inserted |= here
    return inserted


def ending_at(session: Session, tenant_id: str, expires_us: int) -> list[Grant]:
    """Return the tenant's grants that end at an instant, void ones too, in burn order: what a period came with, by the period's end."""
    found = session.connection().execute(_ENDING, {"tenant": tenant_id, "end": expires_us})
    return sorted((_grant(row._asdict()) for row in found), key=burn_key)


def get_grant(session: Session, grant_id: str) -> Grant | None:
    """Return one grant, or None."""
    found = _grants(session, _GRANT.c.id == grant_id)
    return found[0] if found else None


def get_grants(session: Session, grant_ids: Iterable[str]) -> list[Grant]:
    """Return those of these grants that exist, in burn order."""
    return _grants(session, _GRANT.c.id.in_(sorted(grant_ids)))


def current_grants(session: Session, tenant_id: str, now_us: int) -> list[Grant]:
    """Return the tenant's grants in effect at `now_us` and not voided, in burn order; also those with nothing left."""
    return eligible_grants(session, [tenant_id], now_us, now_us).get(tenant_id, [])


def eligible_grants(session: Session, tenant_ids: Iterable[str], first_us: int, last_us: int) -> dict[str, list[Grant]]:
    """Return, by tenant, the unvoided grants in effect at any instant of [first_us, last_us], in burn order; a tenant without any is left out."""
    found: dict[str, list[Grant]] = defaultdict(list)
    connection = session.connection()
    for row in connection.execute(_ELIGIBLE[connection.dialect.name], {"ids": listed(connection, tenant_ids), "first": first_us, "last": last_us}):
        found[row.tenant_id].append(_grant(row._asdict()))
    return {tenant_id: sorted(grants, key=burn_key) for tenant_id, grants in found.items()}


def all_grants(session: Session, tenant_id: str | None = None) -> list[Grant]:
    """Return every grant ever given, of one tenant or of all."""
    return _grants(session) if tenant_id is None else _grants(session, _GRANT.c.tenant_id == tenant_id)


def grants_page(session: Session, tenant_id: str | None = None, *, limit: int, after: Grant | None = None) -> list[Grant]:
    """Return at most `limit` grants after one: of a tenant in burn order (`burn_key`, here for the database), or of all by id."""
    query = columns(*_FIELDS).join_from(_GRANT, _BALANCE)
    order: tuple[ColumnElement[Any], ...] = (_GRANT.c.id,)
    last: tuple[Any, ...] = () if after is None else (after.id,)
    if tenant_id is not None:
        query = query.where(_GRANT.c.tenant_id == tenant_id)
        order, last = _BURN_ORDER, () if after is None else tuple(int(part) if isinstance(part, bool) else part for part in burn_key(after))
    if after is not None:
        query = query.where(tuple_(*order) > tuple_(*(literal(part) for part in last)))
    return [_grant(row._asdict()) for row in session.connection().execute(query.order_by(*order).limit(limit))]


def grants_of(session: Session, tenant_ids: Iterable[str]) -> dict[str, list[Grant]]:
    """Return every grant ever given to these tenants, by tenant, in burn order."""
    found: dict[str, list[Grant]] = defaultdict(list)
    for grant in _grants(session, _GRANT.c.tenant_id.in_(sorted(tenant_ids))):
        found[grant.tenant_id].append(grant)
    return found


def over_by(session: Session, by_us: int, limit: int) -> list[tuple[str, str]]:
    """Return (id, tenant) of grants that expired by an instant and are not closed yet, the first to expire first, at most `limit`. Costs what it finds."""
    return [(row.id, row.tenant_id) for row in session.connection().execute(_OVER, {"by": by_us, "limit": limit})]


def next_start_us(session: Session, tenant_id: str, now_us: int) -> int | None:
    """Return the instant after `now_us` at which the next grant already written takes effect, or None."""
    query = select(CreditGrantRow.effective_us).where(
        CreditGrantRow.tenant_id == tenant_id, CreditGrantRow.effective_us > now_us, col(CreditGrantRow.voided_us).is_(None)
    )
    return session.exec(query.order_by(col(CreditGrantRow.effective_us)).limit(1)).first()


def take(session: Session, draws: Mapping[str, int]) -> None:
    """Take ncr from grants, by id. Raises `Conflict` when a grant holds less than is taken: then the caller computed on stale figures."""
    if _TAKE.run(session.connection(), sorted(draws.items())) != len(draws):
        raise Conflict(f"one of the grants {', '.join(sorted(draws))} does not hold the ncr that were to be taken from it: {dict(draws)}")


def void(session: Session, grant_id: str, now_us: int) -> bool:
    """Void a grant from now on: what is left becomes what was voided. False when it was void already. The caller holds the tenant's account."""
    statement = update(CreditGrantRow).where(col(CreditGrantRow.id) == grant_id, col(CreditGrantRow.voided_us).is_(None)).values(voided_us=now_us)
    result = session.execute(statement)
    if not isinstance(result, CursorResult) or result.rowcount != 1:
        return False
    session.connection().execute(_VOID, {"grant": grant_id})
    session.connection().execute(_CLOSE, {"ids": [grant_id], "now": now_us})
    return True


def expire(session: Session, grant_ids: Iterable[str], now_us: int) -> None:
    """Close grants that are over: what is left becomes what expired. The caller holds their tenants' accounts, and posts it."""
    ids = sorted(grant_ids)
    session.connection().execute(_EXPIRE, {"ids": ids})
    session.connection().execute(_CLOSE, {"ids": ids, "now": now_us})


def _grants(session: Session, *where: ColumnElement[bool]) -> list[Grant]:
    query = columns(*_FIELDS).join_from(_GRANT, _BALANCE).where(*where)
    return sorted((_grant(row._asdict()) for row in session.connection().execute(query)), key=burn_key)


def _grant(values: Mapping[str, Any]) -> Grant:
    models = values["models"]
    return Grant(**{**values, "models": None if models is None else tuple(models)})
