"""Queries over plans, versions and subscriptions. Takes a session, never commits."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, bindparam, func, insert, update
from sqlalchemy import select as columns
from sqlmodel import Session, col, select

from billing.plans.table import PlanRow, PlanVersionRow, SubscriptionRow
from billing.plans.terms import PlanTerms, PlanVersion, Subscription

_SUBSCRIPTION: Table = SubscriptionRow.metadata.tables["subscription"]
_ACTIVATE = update(_SUBSCRIPTION).where(_SUBSCRIPTION.c.id == bindparam("subscription"), _SUBSCRIPTION.c.anchor_us.is_(None)).values(anchor_us=bindparam("now"))
_SUBSCRIBED = (  # built once: every draw runs it
    columns(SubscriptionRow, PlanVersionRow)
    .join(PlanVersionRow, (col(PlanVersionRow.plan_id) == SubscriptionRow.plan_id) & (col(PlanVersionRow.version) == SubscriptionRow.version))
    .where(
        col(SubscriptionRow.tenant_id) == bindparam("tenant"),
        col(SubscriptionRow.started_us) <= bindparam("at"),
        col(SubscriptionRow.ended_us).is_(None) | (col(SubscriptionRow.ended_us) > bindparam("at")),
    )
    .execution_options(populate_existing=True)
)
_BATCH = 1000  # ids a statement
_ANCHOR = columns(_SUBSCRIPTION.c.anchor_us).where(_SUBSCRIPTION.c.id == bindparam("subscription"))


def add_version(session: Session, terms: PlanTerms, now_us: int) -> PlanVersion:
    """Store terms as the next version of their plan, which begins to exist with its first one."""
    if session.get(PlanRow, terms.plan) is None:
        session.add(PlanRow(id=terms.plan, created_us=now_us))
        session.flush()
    last = session.exec(select(func.max(PlanVersionRow.version)).where(PlanVersionRow.plan_id == terms.plan)).one()
    version = PlanVersion(version=(last or 0) + 1, terms=terms, created_us=now_us)
    session.add(_version_row(version))
    session.flush()
    return version


def latest_version(session: Session, plan: str) -> PlanVersion | None:
    """Return the newest version of a plan, or None for a plan nobody wrote."""
    row = session.exec(select(PlanVersionRow).where(PlanVersionRow.plan_id == plan).order_by(col(PlanVersionRow.version).desc()).limit(1)).first()
    return None if row is None else _version(row)


def get_version(session: Session, plan: str, version: int) -> PlanVersion | None:
    """Return one version of a plan."""
    row = session.get(PlanVersionRow, (plan, version))
    return None if row is None else _version(row)


def all_versions(session: Session) -> list[PlanVersion]:
    """Return every version of every plan, by plan and version."""
    return [_version(row) for row in session.exec(select(PlanVersionRow).order_by(PlanVersionRow.plan_id, col(PlanVersionRow.version)))]


def subscriber_counts(session: Session, now_us: int) -> dict[tuple[str, int], int]:
    """Count the tenants that are on each (plan, version) now."""
    query = (
        select(SubscriptionRow.plan_id, SubscriptionRow.version, func.count())
        .where(SubscriptionRow.started_us <= now_us, _not_ended(now_us))
        .group_by(SubscriptionRow.plan_id, col(SubscriptionRow.version))
    )
    return {(plan, version): count for plan, version, count in session.exec(query)}


def subscribe(session: Session, tenant_id: str, version: PlanVersion, start_us: int, *, anchor_us: int | None = None) -> Subscription:
    """Put a tenant on a plan's version from an instant on; what it has ends then, what was to come later never begins. The caller holds the admin lock.

    Its months are counted from `anchor_us`; without one from `start_us`, or from the first request where the plan says so.
    """
    for row in session.exec(select(SubscriptionRow).where(SubscriptionRow.tenant_id == tenant_id, _not_ended(start_us))):
        row.ended_us = max(row.started_us, start_us)
        session.add(row)
    number = session.exec(select(func.count()).select_from(SubscriptionRow).where(SubscriptionRow.tenant_id == tenant_id)).one() + 1
    if anchor_us is None and not version.terms.activate_on_first_use:
        anchor_us = start_us
    row = SubscriptionRow(
        id=f"{tenant_id}.{number}", tenant_id=tenant_id, plan_id=version.terms.plan, version=version.version, anchor_us=anchor_us, started_us=start_us
    )
    session.add(row)
    session.flush()
    return _subscription(row)


def subscribe_new(session: Session, versions: Mapping[str, PlanVersion], start_us: int) -> None:
    """Put tenants that never were on a plan on one, each on its version, from an instant on. The caller holds the admin lock."""
    rows = [
        {
            "id": f"{tenant_id}.1",
            "tenant_id": tenant_id,
            "plan_id": version.terms.plan,
            "version": version.version,
            "anchor_us": None if version.terms.activate_on_first_use else start_us,
            "started_us": start_us,
            "ended_us": None,
        }
        for tenant_id, version in versions.items()
    ]
    if rows:
        session.connection().execute(insert(_SUBSCRIPTION), rows)


def unschedule(session: Session, tenant_id: str, now_us: int) -> None:
    """Take back the subscription that is to begin after `now_us`; the one in force goes on without an end. The caller holds the admin lock."""
    for row in session.exec(select(SubscriptionRow).where(SubscriptionRow.tenant_id == tenant_id, _not_ended(now_us))):
        row.ended_us = row.started_us if row.started_us > now_us else None
        session.add(row)
    session.flush()


def end(session: Session, tenant_id: str, at_us: int) -> None:
    """Let a tenant be on no plan from an instant on; what was to come later never begins. The caller holds the admin lock."""
    for row in session.exec(select(SubscriptionRow).where(SubscriptionRow.tenant_id == tenant_id, _not_ended(at_us))):
        row.ended_us = max(row.started_us, at_us)
        session.add(row)
    session.flush()


def activate(session: Session, subscription_id: str, now_us: int) -> int:
    """Begin the months of a subscription that waits for its first request, and return their anchor: whoever comes second finds the first one's."""
    session.connection().execute(_ACTIVATE, {"subscription": subscription_id, "now": now_us})
    return int(session.connection().execute(_ANCHOR, {"subscription": subscription_id}).scalar_one())


def subscribed(session: Session, tenant_id: str, at_us: int) -> tuple[Subscription, PlanVersion] | None:
    """Return the subscription a tenant has at an instant with its plan's version, or None. One query."""
    found = session.execute(_SUBSCRIBED, {"tenant": tenant_id, "at": at_us}).first()
    return None if found is None else (_subscription(found[0]), _version(found[1]))


def subscription_at(session: Session, tenant_id: str, at_us: int) -> Subscription | None:
    """Return the subscription a tenant has at an instant, or None."""
    found = subscribed(session, tenant_id, at_us)
    return None if found is None else found[0]


def next_subscription(session: Session, tenant_id: str, now_us: int) -> Subscription | None:
    """Return the subscription that is to begin after `now_us`, or None."""
    query = select(SubscriptionRow).where(SubscriptionRow.tenant_id == tenant_id, SubscriptionRow.started_us > now_us, _not_ended(now_us), _not_empty())
    row = session.exec(query).first()
    return None if row is None else _subscription(row)


def subscriptions_of(session: Session, tenant_ids: Iterable[str], now_us: int) -> dict[str, list[Subscription]]:
    """Return, by tenant, the subscriptions in force at an instant or to come, oldest first. One query for a thousand; a tenant without any is left out."""
    ids = list(tenant_ids)
    query = select(SubscriptionRow).where(_not_ended(now_us), _not_empty()).order_by(col(SubscriptionRow.started_us), SubscriptionRow.id)
    found: dict[str, list[Subscription]] = defaultdict(list)
    for some in (ids[first : first + _BATCH] for first in range(0, len(ids), _BATCH)):
        for row in session.exec(query.where(col(SubscriptionRow.tenant_id).in_(some))):
            found[row.tenant_id].append(_subscription(row))
    return found


def on_plan(plan: str, at_us: int) -> Select[Any]:
    """Select the ids of the tenants that are on a plan at an instant, on whichever of its versions."""
    return columns(col(SubscriptionRow.tenant_id)).where(col(SubscriptionRow.plan_id) == plan, col(SubscriptionRow.started_us) <= at_us, _not_ended(at_us))


def subscriptions_within(session: Session, tenant_id: str, start_us: int, end_us: int) -> list[Subscription]:
    """Return the subscriptions that a tenant had at any time of [start_us, end_us), oldest first."""
    query = (
        select(SubscriptionRow)
        .where(SubscriptionRow.tenant_id == tenant_id, SubscriptionRow.started_us < end_us, _not_ended(start_us), _not_empty())
        .order_by(col(SubscriptionRow.started_us), SubscriptionRow.id)
    )
    return [_subscription(row) for row in session.exec(query)]


def ever_held(session: Session, tenant_ids: Iterable[str]) -> dict[str, list[Subscription]]:
    """Return every subscription that tenants ever had, oldest first, by tenant; those that never were in force too."""
    found: dict[str, list[Subscription]] = defaultdict(list)
    query = select(SubscriptionRow).where(col(SubscriptionRow.tenant_id).in_(sorted(set(tenant_ids))))
    for row in session.exec(query.order_by(col(SubscriptionRow.started_us), SubscriptionRow.id)):
        found[row.tenant_id].append(_subscription(row))
    return found


def _not_ended(at_us: int) -> ColumnElement[bool]:
    return (col(SubscriptionRow.ended_us).is_(None)) | (col(SubscriptionRow.ended_us) > at_us)


def _not_empty() -> ColumnElement[bool]:
    return (col(SubscriptionRow.ended_us).is_(None)) | (col(SubscriptionRow.ended_us) > SubscriptionRow.started_us)


def _subscription(row: SubscriptionRow) -> Subscription:
    return Subscription(
        id=row.id, tenant_id=row.tenant_id, plan=row.plan_id, version=row.version, anchor_us=row.anchor_us, started_us=row.started_us, ended_us=row.ended_us
    )


def _version(row: PlanVersionRow) -> PlanVersion:
    fields = {field: getattr(row, field) for field in PlanTerms.__struct_fields__ if field not in ("plan", "allowed_models")}
    models = None if row.allowed_models is None else frozenset(row.allowed_models)
    return PlanVersion(version=row.version, terms=PlanTerms(plan=row.plan_id, allowed_models=models, **fields), created_us=row.created_us)


def _version_row(version: PlanVersion) -> PlanVersionRow:
    terms = version.terms
    fields = {field: getattr(terms, field) for field in PlanTerms.__struct_fields__ if field not in ("plan", "allowed_models")}
    models = None if terms.allowed_models is None else sorted(terms.allowed_models)
    return PlanVersionRow(plan_id=terms.plan, version=version.version, allowed_models=models, created_us=version.created_us, **fields)
