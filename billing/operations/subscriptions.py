"""Which plan a tenant is on, and moving it to another. Each function is one transaction.

The anchor of a tenant's months stays through every change. More credits come at once, pro rata for the rest of the period, and what was
given stays; fewer come when the period ends, so nobody loses what the month has promised. Either may be asked for otherwise.
"""

from collections.abc import Iterable, Mapping

import msgspec
from sqlmodel import Session

from billing.audit.store import record
from billing.credits import store as accounts
from billing.db import Database
from billing.errors import Conflict, Invalid
from billing.grants import store as grants
from billing.grants.allowance import ensure_allowance, period_of, plan_grant
from billing.grants.grant import Grant
from billing.grants.periods import Period, prorate, wall_clock
from billing.money import NCR_PER_CREDIT, format_credits, format_money
from billing.operations.tenants import plan_for, require_tenant
from billing.plans import store as plans
from billing.plans.terms import PlanTerms, PlanVersion, Subscription
from billing.tenants import store
from billing.tenants.tenant import Tenant

NOW, PERIOD_END = "now", "period-end"
WHEN = (NOW, PERIOD_END)


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """The subscription a tenant is on, its period (None until its first request begins it), and the subscription that is to follow, if one is."""

    current: Subscription | None
    period: Period | None
    next: Subscription | None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A change of plan: from which version to which, at which instant, and what it gives at once (ncr) until the period's end.

    `fees`: the old and the new monthly fee with their currency, where they differ and the period that runs has the old one.
    `kept`: the tenant stays on the version it is on, and a change that was to come is taken back.
    """

    tenant_id: str
    timezone: str
    before: Subscription | None
    plan: str
    version: int
    at_us: int
    at_end: bool = False
    kept: bool = False
    waits: bool = False
    period_end_us: int | None = None
    credits_ncr: int = 0
    seat_ncr: int = 0
    replaces: Subscription | None = None
    fees: tuple[str, str] | None = None


def standing(db: Database, tenant_id: str, now_us: int) -> Standing:
    """Return which plan a tenant is on, and what is to come. Raises `NotFound`."""
    with db.read() as session:
        tenant = require_tenant(session, tenant_id)
        current = plans.subscription_at(session, tenant_id, now_us)
        begun = current is not None and current.anchor_us is not None
        return Standing(
            current=current,
            period=period_of(current, tenant.timezone, now_us) if current is not None and begun else None,
            next=plans.next_subscription(session, tenant_id, now_us),
        )


def preview_plan(db: Database, tenant_id: str, plan: str, now_us: int, *, when: str | None = None) -> Change:
    """Return what `change_plan` would do now, doing nothing. Raises what it raises."""
    with db.read() as session:
        return _decide(session, require_tenant(session, tenant_id), plan, when, now_us)[0]


def change_plan(db: Database, tenant_id: str, plan: str, now_us: int, *, when: str | None = None) -> Change:
    """Move a tenant to the newest version of a plan, `now` or at the `period-end`; left out: now, unless the plan gives fewer credits.

    It takes the place of a change that is still to come; naming the version the tenant is on takes that back and changes nothing else. Raises
    `NotFound` (tenant, plan), `Invalid` (when, a plan in another currency) and `Conflict` (it is on that version already, or will be).
    """
    with db.write() as session:
        store.note_change(session, tenant_id, now_us)
        tenant = require_tenant(session, tenant_id)
        accounts.lock(session, [tenant_id])  # no draw writes this period's allowance, or begins its months, meanwhile
        ensure_allowance(session, tenant_id, now_us, activate=False)  # what the old plan has promised for this period
        change, version = _decide(session, tenant, plan, when, now_us)
        was = _held_now(session, tenant_id, now_us)
        if change.kept:
            plans.unschedule(session, tenant_id, now_us)
            _record(session, "subscription.keep", tenant_id, was, now_us)
            return change
        anchor_us = None if change.before is None else change.before.anchor_us
        made = plans.subscribe(session, tenant_id, version, change.at_us, anchor_us=anchor_us)
        if change.credits_ncr or change.seat_ncr:
            grants.insert_grants(session, list(_extra(session, tenant, made, change, now_us)))
        _record(session, "subscription.change", tenant_id, was, now_us, given={"credits_ncr": change.credits_ncr, "seat_ncr": change.seat_ncr})
        return change


def in_words(change: Change) -> str:
    """Say in a sentence or two what a change of plan does, before it or after."""
    target = f"plan {change.plan} version {change.version}"
    end = None if change.period_end_us is None else wall_clock(change.period_end_us, change.timezone)
    if change.kept:
        told = "" if change.replaces is None else f"; the change to plan {change.replaces.plan} version {change.replaces.version} is taken back"
        return f"tenant {change.tenant_id} stays on {target}{told}"
    old = "" if change.before is None else f" from plan {change.before.plan} version {change.before.version}"
    instead = "" if change.replaces is None else f", and not to plan {change.replaces.plan} as was planned"
    if change.at_end:
        return f"tenant {change.tenant_id} moves{old} to {target} when its period ends, {end}{instead}; until then everything stays as it is"
    given = [f"{_readable(ncr)} credits more{whose}" for ncr, whose in ((change.credits_ncr, ""), (change.seat_ncr, " for each key")) if ncr]
    if change.waits:
        what = "its months begin with its first request"
    elif end is None:
        what = "its months begin now"
    else:
        what = f"{' and '.join(given) or 'no more credits'} until its period ends, {end}; what it was given before stays, and so do its months"
        what += "" if change.fees is None else f"; the monthly fee changes from {change.fees[0]} to {change.fees[1]} with its next period"
    return f"tenant {change.tenant_id} moves{old} to {target} now{instead}: {what}"


def _readable(ncr: int) -> str:
    """Write credits for reading: two decimals, rounded down, where there are a hundredth of a credit and more."""
    least = NCR_PER_CREDIT // 100
    return format_credits(ncr) if ncr < least or ncr % least == 0 else f"about {format_credits(ncr - ncr % least)}"


def _fee(terms: PlanTerms) -> str:
    return f"{format_money(terms.monthly_fee_minor, terms.currency)} {terms.currency}" if terms.monthly_fee_minor else "none"


def cancel_change(db: Database, tenant_id: str, now_us: int) -> Subscription:
    """Take back the change of plan that is to come, and return the subscription that goes on. Raises `NotFound`, and `Conflict` where none is to come."""
    with db.write() as session:
        store.note_change(session, tenant_id, now_us)
        require_tenant(session, tenant_id)
        if plans.next_subscription(session, tenant_id, now_us) is None:
            raise Conflict(f"tenant `{tenant_id}` has no change of plan to come; there is nothing to take back")
        was = _held_now(session, tenant_id, now_us)
        plans.unschedule(session, tenant_id, now_us)
        _record(session, "subscription.keep", tenant_id, was, now_us)
        current = plans.subscription_at(session, tenant_id, now_us)
        assert current is not None, "what is to come follows what is in force"
        return current


def _held_now(session: Session, tenant_id: str, now_us: int) -> dict[str, Subscription | None]:
    return {"current": plans.subscription_at(session, tenant_id, now_us), "next": plans.next_subscription(session, tenant_id, now_us)}


def _record(session: Session, action: str, tenant_id: str, was: Mapping[str, object], now_us: int, *, given: Mapping[str, int] | None = None) -> None:
    after = {**_held_now(session, tenant_id, now_us), **{name: ncr for name, ncr in (given or {}).items() if ncr}}
    record(session, now_us, action=action, tenant_id=tenant_id, subject=tenant_id, before=was, after=after)


def _decide(session: Session, tenant: Tenant, plan: str, when: str | None, now_us: int) -> tuple[Change, PlanVersion]:
    if when is not None and when not in WHEN:
        raise Invalid("when", f"when: `{when}` is neither; write {' or '.join(WHEN)}, or leave it out")
    version = plan_for(session, plan, tenant)
    found = plans.subscribed(session, tenant.id, now_us)
    coming = plans.next_subscription(session, tenant.id, now_us)
    before, terms = (None, None) if found is None else (found[0], found[1].terms)
    change = Change(
        tenant_id=tenant.id, timezone=tenant.timezone, before=before, plan=plan, version=version.version, at_us=now_us, replaces=coming,
    )  # fmt: skip
    if before is not None and (before.plan, before.version) == (plan, version.version):
        if coming is None:
            raise Conflict(f"tenant `{tenant.id}` is on plan `{plan}` version {version.version} already, which is its newest")
        return msgspec.structs.replace(change, kept=True), version
    if before is None or terms is None or before.anchor_us is None:
        if when == PERIOD_END:
            raise Invalid("when", f"when: tenant `{tenant.id}` is in no period that could end, its first request begins one; write {NOW}")
        return msgspec.structs.replace(change, waits=version.terms.activate_on_first_use), version
    period = period_of(before, tenant.timezone, now_us)
    if when == PERIOD_END or (when is None and _gives_less(version.terms, terms)):
        if coming is not None and (coming.plan, coming.version, coming.started_us) == (plan, version.version, period.end_us):
            raise Conflict(f"tenant `{tenant.id}` is to move to plan `{plan}` version {version.version} at that instant already")
        return msgspec.structs.replace(change, at_end=True, at_us=period.end_us, period_end_us=period.end_us), version
    more = _more(version.terms, _held(session, tenant.id, period, now_us), period, now_us)
    fees = (_fee(terms), _fee(version.terms))
    change = msgspec.structs.replace(change, fees=fees if fees[0] != fees[1] else None)
    return msgspec.structs.replace(change, period_end_us=period.end_us, credits_ncr=more[0], seat_ncr=more[1]), version


def _gives_less(new: PlanTerms, old: PlanTerms) -> bool:
    return new.allowance_ncr < old.allowance_ncr or new.seat_allowance_ncr < old.seat_allowance_ncr


def _held(session: Session, tenant_id: str, period: Period, now_us: int) -> list[PlanTerms]:
    """Return the terms the tenant has been on in this period: what one of them gave is not given a second time."""
    held = plans.subscriptions_within(session, tenant_id, period.start_us, now_us + 1)
    versions = (plans.get_version(session, one.plan, one.version) for one in held)
    return [version.terms for version in versions if version is not None]


def _more(new: PlanTerms, held: list[PlanTerms], period: Period, now_us: int) -> tuple[int, int]:
    """Return what a plan gives at once beyond what the period's plans gave (ncr): to the tenant, and to each key."""
    most = max((terms.allowance_ncr for terms in held), default=0)
    most_seat = max((terms.seat_allowance_ncr for terms in held), default=0)
    return prorate(max(0, new.allowance_ncr - most), period, now_us), prorate(max(0, new.seat_allowance_ncr - most_seat), period, now_us)


def _extra(session: Session, tenant: Tenant, made: Subscription, change: Change, now_us: int) -> Iterable[Grant]:
    period = period_of(made, tenant.timezone, now_us)
    note = f"change to plan {made.plan} version {made.version}, pro rata"
    if change.credits_ncr:
        yield plan_grant(made, period, change.credits_ncr, now_us, note=note)
    if change.seat_ncr:
        for key_id, _created_us in store.active_keys(session, tenant.id, now_us):
            yield plan_grant(made, period, change.seat_ncr, now_us, key_id=key_id, note=note)
