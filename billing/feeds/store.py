"""Queries over what destinations were told. Takes a session, never commits.

Which days have something new is seen from the running sum of each (`usage_sum`), so looking costs a row for each tenant and day, not one for each event.
"""

from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import Table, delete, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from billing.alerts.webhook import Webhook
from billing.credits.store import DAY
from billing.feeds.destination import STRIPE
from billing.feeds.table import FeedDayRow
from billing.feeds.use import Use

_DAY: Table = FeedDayRow.metadata.tables["feed_day"]
_TOLD: Table = FeedDayRow.metadata.tables["feed_told"]
_TENANT: Table = FeedDayRow.metadata.tables["feed_tenant"]
_CUSTOMER: Table = FeedDayRow.metadata.tables["stripe_customer"]
_SUM: Table = FeedDayRow.metadata.tables["usage_sum"]
_FIGURES = ("requests", "unreported", "units", "charge_ncr", "cover_ncr", "excess_ncr", "overage_ncr")


class Day(NamedTuple):
    """A tenant's day that has more events than a destination was told of; `customer` is who the tenant is in Stripe."""

    tenant_id: str
    day_us: int
    customer: str | None


def due_days(session: Session, webhook: Webhook, *, since_us: int, floor_us: int, limit: int) -> list[Day]:
    """Return days that began after `since_us` with news for a destination, not looked at since `floor_us`, oldest first. Stripe's: of tenants it knows."""
    told = _SUM.outerjoin(
        _DAY,
        (_DAY.c.webhook_id == webhook.id) & (_DAY.c.tenant_id == _SUM.c.tenant_id) & (_DAY.c.day_us == _SUM.c.start_us),
    ).join(_CUSTOMER, _CUSTOMER.c.tenant_id == _SUM.c.tenant_id, isouter=webhook.kind != STRIPE)
    news = or_(_DAY.c.events.is_(None), (_DAY.c.events != _SUM.c.events) & (_DAY.c.looked_us < floor_us))
    query = select(_SUM.c.tenant_id, _SUM.c.start_us, _CUSTOMER.c.customer).select_from(told)
    query = query.where(_SUM.c.span == DAY, _SUM.c.start_us > since_us, _SUM.c.start_us < floor_us, news)
    if webhook.tenant_id is not None:
        query = query.where(_SUM.c.tenant_id == webhook.tenant_id)
    return [Day(*row) for row in session.connection().execute(query.order_by(_SUM.c.start_us, _SUM.c.tenant_id).limit(limit))]


def told(session: Session, webhook_id: str, tenant_id: str, day_us: int) -> dict[tuple[int, str, str | None], Use]:
    """Return all that a destination was told of a day, by hour, model and project."""
    where = (_TOLD.c.webhook_id == webhook_id) & (_TOLD.c.tenant_id == tenant_id) & (_TOLD.c.day_us == day_us)
    return {
        (row.hour_us, row.model, row.project or None): Use(
            model=row.model, project=row.project or None, **{name: row._mapping[name] for name in _FIGURES},
        )
        for row in session.connection().execute(select(_TOLD).where(where))
    }  # fmt: skip


def tell(session: Session, webhook_id: str, day: Day, uses: Iterable[tuple[int, Use]]) -> None:
    """Write down what a destination has now been told of each hour of a day, in place of what stood there."""
    for hour_us, use in uses:
        key = {"webhook_id": webhook_id, "tenant_id": day.tenant_id, "day_us": day.day_us, "hour_us": hour_us, "model": use.model}
        _put(session, _TOLD, key | {"project": use.project or ""}, {name: getattr(use, name) for name in _FIGURES})


def note_day(session: Session, webhook_id: str, day: Day, *, events: int, looked_us: int) -> None:
    """Write down how many events of a day are settled with a destination, and up to when it was looked at."""
    key = {"webhook_id": webhook_id, "tenant_id": day.tenant_id, "day_us": day.day_us}
    _put(session, _DAY, key, {"events": events, "looked_us": looked_us})


def carry(session: Session, webhook_id: str, tenant_id: str) -> int:
    """Return what is carried to a tenant's next message (ncr)."""
    query = select(_TENANT.c.carry_ncr).where(_TENANT.c.webhook_id == webhook_id, _TENANT.c.tenant_id == tenant_id)
    return session.connection().execute(query).scalar_one_or_none() or 0


def set_carry(session: Session, webhook_id: str, tenant_id: str, carry_ncr: int) -> None:
    """Write what is carried to a tenant's next message (ncr)."""
    _put(session, _TENANT, {"webhook_id": webhook_id, "tenant_id": tenant_id}, {"carry_ncr": carry_ncr})


def forget(session: Session, webhook_id: str) -> None:
    """Remove all that is known of a destination that is no more."""
    for table in (_DAY, _TOLD, _TENANT):
        session.connection().execute(delete(table).where(table.c.webhook_id == webhook_id))


def customer(session: Session, tenant_id: str) -> str | None:
    """Return who a tenant is in Stripe, or None."""
    found: str | None = session.connection().execute(select(_CUSTOMER.c.customer).where(_CUSTOMER.c.tenant_id == tenant_id)).scalar_one_or_none()
    return found


def set_customer(session: Session, tenant_id: str, name: str | None) -> None:
    """Say who a tenant is in Stripe; None: nobody."""
    if name is None:
        session.connection().execute(delete(_CUSTOMER).where(_CUSTOMER.c.tenant_id == tenant_id))
    else:
        _put(session, _CUSTOMER, {"tenant_id": tenant_id}, {"customer": name})


def tenant_of_customer(session: Session, name: str) -> str | None:
    """Return which tenant is this customer in Stripe, or None."""
    found: str | None = session.connection().execute(select(_CUSTOMER.c.tenant_id).where(_CUSTOMER.c.customer == name)).scalar_one_or_none()
    return found


def _put(session: Session, table: Table, key: dict[str, object], values: dict[str, object]) -> None:
    connection = session.connection()
    new = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table).values(**key, **values)
    connection.execute(new.on_conflict_do_update(index_elements=list(key), set_=values))
