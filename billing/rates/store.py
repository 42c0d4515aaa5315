"""Queries over rates. Takes a session, never commits. Rates are only ever inserted."""

from sqlalchemy import func
from sqlmodel import Session, col, select

from billing.rates.table import RateRow
from billing.rating import Rate, complete


def insert_rate(session: Session, *, model: str, prices: dict[str, int], free: bool, effective_us: int, now_us: int) -> Rate:
    """Insert a rate, its prices completed (`rating.complete`). The caller holds the admin lock, on which the id leans. Raises `Invalid`."""
    last = session.exec(select(func.max(RateRow.id))).one() or 0
    row = RateRow(id=last + 1, model=model, effective_us=effective_us, free=free, prices=complete(prices), created_us=now_us)
    session.add(row)
    session.flush()
    return _rate(row)


def rate_at(session: Session, model: str, at_us: int) -> Rate | None:
    """Return the model's rate at an instant: the greatest (effective_us, id) that has begun, or None."""
    query = select(RateRow).where(RateRow.model == model, RateRow.effective_us <= at_us)
    row = session.exec(query.order_by(col(RateRow.effective_us).desc(), col(RateRow.id).desc()).limit(1)).first()
    return None if row is None else _rate(row)


def all_rates(session: Session, model: str | None = None) -> list[Rate]:
    """Return every rate ever set, of one model or of all, by model, effective_us and id; feed them to `RateCard`."""
    query = select(RateRow).order_by(RateRow.model, col(RateRow.effective_us), col(RateRow.id))
    return [_rate(row) for row in session.exec(query if model is None else query.where(RateRow.model == model))]


def _rate(row: RateRow) -> Rate:
    return Rate(id=row.id, model=row.model, effective_us=row.effective_us, free=row.free, prices=dict(row.prices))
