"""Queries over thresholds, webhook endpoints and the outbox of messages to them. Takes a session, never commits.

A message is claimed by moving `due_us` past the end of the try and counting the try; whoever comes later finds it not due. One whose process died meanwhile
is due again by itself, so each is sent at least once, always under the same id.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import RowMapping, Table, delete, func, literal, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from billing.alerts.table import ThresholdRow
from billing.alerts.thresholds import Threshold
from billing.alerts.webhook import FAILED, WAITING, Delivery, Webhook, deliveries_of

_THRESHOLD: Table = ThresholdRow.metadata.tables["threshold"]
_WEBHOOK: Table = ThresholdRow.metadata.tables["webhook"]
_DELIVERY: Table = ThresholdRow.metadata.tables["webhook_delivery"]
_ALL = [_DELIVERY.c[field] for field in Delivery.__struct_fields__]
_ROWS_MAX = 500  # of one statement: SQLite takes 32,766 values in one


class Claimed(NamedTuple):
    """A message that this process has to send now, where, and to whose interface."""

    delivery: Delivery
    url: str
    kind: str


class Outbox(NamedTuple):
    """How many messages wait, and when the next of them is due (None: none waits)."""

    waiting: int
    due_us: int | None


def note(session: Session, crossed: Sequence[Threshold]) -> list[Threshold]:
    """Write the thresholds that are new, and a message for every endpoint concerned; return the new ones. No statement where none were crossed."""
    new = [one for first in range(0, len(crossed), _ROWS_MAX) for one in _insert_new(session, crossed[first : first + _ROWS_MAX])]
    if new:
        told = _webhooks_for(session, {one.tenant_id for one in new})
        enqueue(session, [delivery for one in new for delivery in deliveries_of(one, told)])
    return new


def thresholds_of(session: Session, tenant_id: str, period_us: int) -> list[Threshold]:
    """Return what a tenant reached in the period that began at `period_us`, ascending."""
    where = (_THRESHOLD.c.tenant_id == tenant_id) & (_THRESHOLD.c.period_us == period_us)
    rows = session.connection().execute(select(_THRESHOLD).where(where).order_by(_THRESHOLD.c.percent))
    return [Threshold(**row._mapping) for row in rows]


def insert_webhook(session: Session, webhook: Webhook) -> None:
    """Insert an endpoint."""
    session.connection().execute(_WEBHOOK.insert().values(msgspec.structs.asdict(webhook)))


def get_webhook(session: Session, webhook_id: str) -> Webhook | None:
    """Return one endpoint, or None."""
    row = session.connection().execute(select(_WEBHOOK).where(_WEBHOOK.c.id == webhook_id)).first()
    return None if row is None else _webhook(row._mapping)


def all_webhooks(session: Session) -> list[Webhook]:
    """Return every endpoint, oldest first."""
    return [_webhook(row._mapping) for row in session.connection().execute(select(_WEBHOOK).order_by(_WEBHOOK.c.created_us, _WEBHOOK.c.id))]


def webhooks_page(session: Session, *, limit: int, after: Webhook | None = None, tenant_id: str | None = None) -> list[Webhook]:
    """Return at most `limit` endpoints after one of them, oldest first, of one tenant or of all."""
    order = (_WEBHOOK.c.created_us, _WEBHOOK.c.id)
    query = select(_WEBHOOK).order_by(*order).limit(limit)
    if tenant_id is not None:
        query = query.where(_WEBHOOK.c.tenant_id == tenant_id)
    if after is not None:
        query = query.where(tuple_(*order) > tuple_(literal(after.created_us), literal(after.id)))
    return [_webhook(row._mapping) for row in session.connection().execute(query)]


def delete_webhook(session: Session, webhook_id: str) -> None:
    """Remove an endpoint with everything that was or would be sent to it."""
    for table, column in ((_WEBHOOK, _WEBHOOK.c.id), (_DELIVERY, _DELIVERY.c.webhook_id)):
        session.connection().execute(delete(table).where(column == webhook_id))


def disable(session: Session, webhook_id: str, why: str, now_us: int) -> None:
    """Tell an endpoint nothing more: what waits for it has failed."""
    connection = session.connection()
    connection.execute(update(_WEBHOOK).where(_WEBHOOK.c.id == webhook_id, _WEBHOOK.c.disabled_us.is_(None)).values(disabled_us=now_us))
    waiting = (_DELIVERY.c.webhook_id == webhook_id) & (_DELIVERY.c.state == WAITING)
    connection.execute(update(_DELIVERY).where(waiting).values(state=FAILED, answer=why))


def enqueue(session: Session, deliveries: Sequence[Delivery]) -> None:
    """Put messages into the outbox; one that is there already stays as it is."""
    connection = session.connection()
    into = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(_DELIVERY).on_conflict_do_nothing(index_elements=["id"])
    if deliveries:
        connection.execute(into, [msgspec.structs.asdict(delivery) for delivery in deliveries])


def outbox(session: Session) -> Outbox:
    """Say what waits for endpoints that are still told of anything; one removed while a flush wrote to it leaves a message that nobody sends."""
    open_ = select(_WEBHOOK.c.id).where(_WEBHOOK.c.disabled_us.is_(None))
    waiting = select(func.count(), func.min(_DELIVERY.c.due_us)).where(_DELIVERY.c.state == WAITING, _DELIVERY.c.webhook_id.in_(open_))
    row = session.connection().execute(waiting).one()
    return Outbox(row[0], row[1])


def claim(session: Session, now_us: int, until_us: int, *, limit: int, each_max: int, busy: Iterable[str] = ()) -> list[Claimed]:
    """Take messages that are due, the longest due first; nobody else does before `until_us`. At most `limit`, of one endpoint `each_max`, of `busy` none."""
    connection = session.connection()
    due = (_DELIVERY.c.state == WAITING) & (_DELIVERY.c.due_us <= now_us)
    place = func.row_number().over(partition_by=_DELIVERY.c.webhook_id, order_by=(_DELIVERY.c.due_us, _DELIVERY.c.id)).label("place")
    open_ = select(_WEBHOOK.c.id).where(_WEBHOOK.c.disabled_us.is_(None), _WEBHOOK.c.id.not_in(list(busy)))
    ranked = select(_DELIVERY.c.id, place).where(due, _DELIVERY.c.webhook_id.in_(open_)).subquery()
    # Locked in a statement of its own: as a part of the update it could be run again for every row. `due` stands here too, since
    # PostgreSQL looks again at a row that changed while it was being locked, and only at what this level says of it.
    chosen = select(_DELIVERY.c.id).where(due, _DELIVERY.c.id.in_(select(ranked.c.id).where(ranked.c.place <= each_max)))
    ids = connection.execute(chosen.order_by(_DELIVERY.c.due_us, _DELIVERY.c.id).limit(limit).with_for_update(skip_locked=True)).scalars().all()
    if not ids:
        return []
    taken = update(_DELIVERY).where(_DELIVERY.c.id.in_(ids)).values(due_us=until_us, tries=_DELIVERY.c.tries + 1, tried_us=now_us)
    connection.execute(taken)
    rows = connection.execute(
        select(*_ALL, _WEBHOOK.c.url, _WEBHOOK.c.kind).join_from(_DELIVERY, _WEBHOOK, _DELIVERY.c.webhook_id == _WEBHOOK.c.id).where(_DELIVERY.c.id.in_(ids))
    )
    found = [Claimed(_delivery(row._mapping), row.url, row.kind) for row in rows]
    return sorted(found, key=lambda one: (one.delivery.created_us, one.delivery.id))


def finish(session: Session, delivery: Delivery) -> bool:
    """Write what became of a claimed try (its state, when it is due again, the answer); False when somebody has tried since, whose word counts then."""
    same = (_DELIVERY.c.id == delivery.id) & (_DELIVERY.c.tries == delivery.tries) & (_DELIVERY.c.state == WAITING)
    values = {"state": delivery.state, "due_us": delivery.due_us, "status": delivery.status, "answer": delivery.answer}
    result = session.connection().execute(update(_DELIVERY).where(same).values(values))
    return result.rowcount == 1


def deliveries(session: Session, webhook_id: str | None, limit: int) -> list[Delivery]:
    """Return the latest messages, to one endpoint or to all, the newest first."""
    query = select(*_ALL).order_by(_DELIVERY.c.created_us.desc(), _DELIVERY.c.id).limit(limit)
    return [_delivery(row._mapping) for row in session.connection().execute(query if webhook_id is None else query.where(_DELIVERY.c.webhook_id == webhook_id))]


def again(session: Session, delivery_id: str, now_us: int) -> Delivery | None:
    """Make a message that failed due once more, and return it; None where no message of that id has failed."""
    failed = (_DELIVERY.c.id == delivery_id) & (_DELIVERY.c.state == FAILED)
    row = session.connection().execute(update(_DELIVERY).where(failed).values(state=WAITING, due_us=now_us).returning(*_ALL)).first()
    return None if row is None else _delivery(row._mapping)


def prune(session: Session, before_us: int, limit: int) -> int:
    """Forget messages made before an instant, the oldest first, at most `limit`; return how many."""
    old = select(_DELIVERY.c.id).where(_DELIVERY.c.created_us < before_us).order_by(_DELIVERY.c.created_us, _DELIVERY.c.id).limit(limit)
    result = session.connection().execute(delete(_DELIVERY).where(_DELIVERY.c.id.in_(old)))
    return result.rowcount


def _insert_new(session: Session, crossed: Sequence[Threshold]) -> list[Threshold]:
    connection = session.connection()
    new = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(_THRESHOLD).values([msgspec.structs.asdict(one) for one in crossed])
    key = [_THRESHOLD.c.tenant_id, _THRESHOLD.c.period_us, _THRESHOLD.c.percent]
    inserted = {tuple(row) for row in connection.execute(new.on_conflict_do_nothing(index_elements=key).returning(*key))}
    return [one for one in crossed if (one.tenant_id, one.period_us, one.percent) in inserted]


def _webhooks_for(session: Session, tenant_ids: set[str]) -> list[Webhook]:
    mine = or_(_WEBHOOK.c.tenant_id.is_(None), _WEBHOOK.c.tenant_id.in_(sorted(tenant_ids)))
    query = select(_WEBHOOK).where(mine, _WEBHOOK.c.disabled_us.is_(None)).order_by(_WEBHOOK.c.id)
    return [_webhook(row._mapping) for row in session.connection().execute(query)]


def _webhook(values: RowMapping) -> Webhook:
    return Webhook(**{**values, "events": None if values["events"] is None else tuple(values["events"])})


def _delivery(values: RowMapping) -> Delivery:
    return Delivery(**{field: values[field] for field in Delivery.__struct_fields__})
