"""Queries over rates, costs and versions. Takes a session, never commits. Rates and costs are only ever inserted.

Ids are counted as max + 1: whoever inserts holds the admin lock (`tenants.store.note_change`).
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import msgspec
from sqlalchemy import func, update
from sqlmodel import Session, col, select

from billing.rates.cost import Cost
from billing.rates.table import CostRow, RateRow, VersionRow
from billing.rates.version import Book, Change, Version
from billing.rating import Rate, Variant


def insert_rates(session: Session, changes: Iterable[Change], *, effective_us: int, version_id: int, now_us: int) -> list[Rate]:
    """Insert the rates of a version (`version.checked`), in their order."""
    last = session.exec(select(func.max(RateRow.id))).one() or 0
    rows = [
        RateRow(id=id, model=change.model, effective_us=effective_us, version_id=version_id, created_us=now_us, **_prices(change))
        for id, change in enumerate(changes, last + 1)
    ]
    session.add_all(rows)
    session.flush()
    return [_rate(row) for row in rows]


def insert_costs(session: Session, changes: Iterable[Change], *, effective_us: int, version_id: int, now_us: int) -> list[Cost]:
    """Insert the costs of a version (`version.checked`), in their order."""
    last = session.exec(select(func.max(CostRow.id))).one() or 0
    rows = [
        CostRow(
            id=id,
            backend=change.backend,
            model=change.model,
            currency=change.currency,
            effective_us=effective_us,
            version_id=version_id,
            created_us=now_us,
            **_prices(change),
        )
        for id, change in enumerate(changes, last + 1)
    ]
    session.add_all(rows)
    session.flush()
    return [_cost(row) for row in rows]


def rate_at(session: Session, model: str, at_us: int) -> Rate | None:
    """Return the model's rate at an instant: the greatest (effective_us, id) that has begun; None without one, and where that one ends it."""
    query = select(RateRow).where(RateRow.model == model, RateRow.effective_us <= at_us)
    row = session.exec(query.order_by(col(RateRow.effective_us).desc(), col(RateRow.id).desc()).limit(1)).first()
    found = None if row is None else _rate(row)
    return None if found is None or found.ended else found


def all_rates(session: Session, model: str | None = None) -> list[Rate]:
    """Return every rate ever set, of one model or of all, by model, effective_us and id; feed them to `RateCard`."""
    query = select(RateRow).order_by(RateRow.model, col(RateRow.effective_us), col(RateRow.id))
    return [_rate(row) for row in session.exec(query if model is None else query.where(RateRow.model == model))]


def all_costs(session: Session, backend: str | None = None, model: str | None = None) -> list[Cost]:
    """Return every cost ever set, of one backend or model or of all, by backend, model, effective_us and id; feed them to `CostBook`."""
    query = select(CostRow).order_by(CostRow.backend, CostRow.model, col(CostRow.effective_us), col(CostRow.id))
    query = query if backend is None else query.where(CostRow.backend == backend)
    return [_cost(row) for row in session.exec(query if model is None else query.where(CostRow.model == model))]


def insert_version(session: Session, *, book: Book, note: str, changes: Sequence[Change], effective_us: int | None, now_us: int) -> Version:
    """Insert a version as a proposal."""
    last = session.exec(select(func.max(VersionRow.id))).one() or 0
    written = msgspec.to_builtins(changes)
    row = VersionRow(id=last + 1, book=book, note=note, changes=written, effective_us=effective_us, created_us=now_us)
    session.add(row)
    session.flush()
    return _version(row)


def get_version(session: Session, version_id: int) -> Version | None:
    """Return one version, or None."""
    row = session.get(VersionRow, version_id)
    return None if row is None else _version(row)


def all_versions(session: Session, book: Book | None = None) -> list[Version]:
    """Return every version of one book or of both, oldest first."""
    query = select(VersionRow).order_by(col(VersionRow.id))
    return [_version(row) for row in session.exec(query if book is None else query.where(VersionRow.book == book))]


def mark_published(session: Session, version_id: int, *, effective_us: int, now_us: int) -> bool:
    """Publish a proposal; False when it is none any more."""
    return _mark(session, version_id, effective_us=effective_us, published_us=now_us)


def mark_withdrawn(session: Session, version_id: int, now_us: int) -> bool:
    """Withdraw a proposal; False when it is none any more."""
    return _mark(session, version_id, withdrawn_us=now_us)


def _mark(session: Session, version_id: int, **values: int) -> bool:
    open_ = (col(VersionRow.id) == version_id, col(VersionRow.published_us).is_(None), col(VersionRow.withdrawn_us).is_(None))
    marked = session.execute(update(VersionRow).where(*open_).values(**values).returning(col(VersionRow.id))).first() is not None
    session.expire_all()
    return marked


def _prices(change: Change) -> dict[str, Any]:
    return {"free": change.free, "prices": change.prices, "variants": msgspec.to_builtins(change.variants) or None}


def _variants(row: RateRow | CostRow) -> tuple[Variant, ...]:
    return msgspec.convert(row.variants, tuple[Variant, ...]) if row.variants else ()


def _rate(row: RateRow) -> Rate:
    return Rate(
        id=row.id, model=row.model, effective_us=row.effective_us, free=row.free, prices=dict(row.prices), variants=_variants(row), version_id=row.version_id
    )


def _cost(row: CostRow) -> Cost:
    return Cost(
        id=row.id, backend=row.backend, model=row.model, currency=row.currency, effective_us=row.effective_us, free=row.free, prices=dict(row.prices),
        variants=_variants(row), version_id=row.version_id,
    )  # fmt: skip


def _version(row: VersionRow) -> Version:
    changes = msgspec.convert(row.changes, tuple[Change, ...])
    return Version(
        id=row.id, book=cast(Book, row.book), note=row.note, changes=changes, effective_us=row.effective_us, created_us=row.created_us,
        published_us=row.published_us, withdrawn_us=row.withdrawn_us,
    )  # fmt: skip
