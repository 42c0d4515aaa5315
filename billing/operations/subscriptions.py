"""Which plan a tenant is on, and moving it to another. Each function is one transaction.

The anchor of a tenant's months stays through every change. More credits come at once, pro rata for the rest of the period, and what was
given stays; fewer come when the period ends, so nobody loses what the month has promised. Either may be asked for otherwise, or for the
day on which a later period begins: in the middle of one to come, what it has promised is not known yet.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime

import msgspec
from sqlmodel import Session

from billing.audit.store import record
from billing.credits import store as accounts
from billing.db import Database
from billing.errors import Conflict, Invalid
from billing.grants import store as grants
from billing.grants.allowance import ensure_allowance, period_of, plan_grant
from billing.grants.grant import Grant
from billing.grants.periods import Period, day_of, instant_us, midnight, period_at, period_on, period_start, prorate, wall_clock
from billing.money import NCR_PER_CREDIT, format_credits, format_money
from billing.operations.tenants import plan_for, require_open, require_tenant
from billing.plans import store as plans
from billing.plans.terms import PlanTerms, PlanVersion, Subscription
from billing.tenants import store
from billing.tenants.tenant import Tenant

NOW, PERIOD_END = "now", "period-end"
WHEN = (NOW, PERIOD_END)
AHEAD_YEARS_MAX = 10


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """The subscription a tenant is on, its period (None until its first request begins it), and the subscription that is to follow, if one is."""

    current: Subscription | None
    period: Period | None
    next: Subscription | None


def standings(session: Session, tenants: Sequence[Tenant], now_us: int) -> dict[str, Standing]:
    """Return which plan each of these tenants is on, and what is to come, by id. One query, however many they are."""
    found = plans.subscriptions_of(session, [tenant.id for tenant in tenants], now_us)
    return {tenant.id: _standing(found.get(tenant.id, []), tenant.timezone, now_us) for tenant in tenants}


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
        return standings(session, [require_tenant(session, tenant_id)], now_us)[tenant_id]


def page_standings(db: Database, tenants: Sequence[Tenant], now_us: int) -> dict[str, Standing]:
    """Return which plan each tenant of a page is on, and what is to come, by id."""
    with db.read() as session:
        return standings(session, tenants, now_us)


def _standing(found: Sequence[Subscription], timezone: str, now_us: int) -> Standing:
    current = next((one for one in found if one.started_us <= now_us), None)
    begun = current is not None and current.anchor_us is not None
    return Standing(
        current=current,
        period=period_of(current, timezone, now_us) if current is not None and begun else None,
        next=next((one for one in found if one.started_us > now_us), None),
    )


def change_plan(db: Database, tenant_id: str, plan: str, now_us: int, *, when: str | None = None) -> Change:
    """Move a tenant to the newest version of a plan, `now`, at the `period-end`, or when a later period begins; left out: now, unless it gives less.

    A later period is named by the day in the tenant's zone on which it begins, or by that instant, as ISO 8601 writes them.

    It takes the place of a change that is still to come; naming the version the tenant is on takes that back and changes nothing else. Raises
    `NotFound` (tenant, plan), `Invalid` (when, a plan in another currency) and `Conflict` (it is on that version already, or will be; closed, or will be).
    """
    with db.write() as session:
        store.note_change(session, tenant_id, now_us)
        tenant = require_open(session, tenant_id, now_us)
        accounts.lock(session, [tenant_id])  # no draw writes this period's allowance, or begins its months, meanwhile
        ensure_allowance(session, tenant_id, now_us, activate=False)  # what the old plan has promised for this period
        return move(session, tenant, plan, now_us, when=when)


def move(session: Session, tenant: Tenant, plan: str, now_us: int, *, when: str | None = None) -> Change:
    """Do what `change_plan` does in a session that is open, where the tenant's account is locked and its period's allowance is written."""
    change, version = _decide(session, tenant, plan, when, now_us)
    was = _held_now(session, tenant.id, now_us)
    if change.kept or change.replaces is not None:
        plans.unschedule(session, tenant.id, now_us)
    if change.kept:
        _record(session, "subscription.keep", tenant.id, was, now_us)
        return change
    anchor_us = None if change.before is None else change.before.anchor_us
    made = plans.subscribe(session, tenant.id, version, change.at_us, anchor_us=anchor_us)
    if change.credits_ncr or change.seat_ncr:
        grants.insert_grants(session, list(_extra(session, tenant, made, change, now_us)))
    _record(session, "subscription.change", tenant.id, was, now_us, given={"credits_ncr": change.credits_ncr, "seat_ncr": change.seat_ncr})
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
    if change.at_end and change.at_us != change.period_end_us:
        at = wall_clock(change.at_us, change.timezone)
        return f"tenant {change.tenant_id} moves{old} to {target} with the period that begins {at}{instead}; until then everything stays as it is"
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
    """Take back the change of plan, or the closing, that is to come, and return the subscription that goes on.

    Raises `NotFound`, and `Conflict` where none is to come.
    """
    with db.write() as session:
        store.note_change(session, tenant_id, now_us)
        tenant = require_open(session, tenant_id, now_us)
        if tenant.closes_us is None and plans.next_subscription(session, tenant_id, now_us) is None:
            raise Conflict(f"tenant `{tenant_id}` has no change of plan to come; there is nothing to take back")
        was = _held_now(session, tenant_id, now_us) | {"closes_us": tenant.closes_us}
        store.set_closing(session, tenant_id, None)
        plans.unschedule(session, tenant_id, now_us)
        _record(session, "subscription.keep", tenant_id, was, now_us)
        current = plans.subscription_at(session, tenant_id, now_us)
        assert current is not None, "what is to come follows what is in force"
        return current


def _held_now(session: Session, tenant_id: str, now_us: int) -> dict[str, object]:
    return {"current": plans.subscription_at(session, tenant_id, now_us), "next": plans.next_subscription(session, tenant_id, now_us)}


def _record(session: Session, action: str, tenant_id: str, was: Mapping[str, object], now_us: int, *, given: Mapping[str, int] | None = None) -> None:
    after = {**_held_now(session, tenant_id, now_us), **{name: ncr for name, ncr in (given or {}).items() if ncr}}
    record(session, now_us, action=action, tenant_id=tenant_id, subject=tenant_id, before=was, after=after)


def _decide(session: Session, tenant: Tenant, plan: str, when: str | None, now_us: int) -> tuple[Change, PlanVersion]:
    if tenant.closes_us is not None:
        at = wall_clock(tenant.closes_us, tenant.timezone)
        raise Conflict(f"tenant `{tenant.id}` is to be closed when its period ends, {at}; take that back first: weir tenant stay {tenant.id}")
    day = None if when in (None, *WHEN) else _day_or_instant(when or "")
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
        if when == PERIOD_END or day is not None:
            raise Invalid("when", f"when: tenant `{tenant.id}` is in no period that could end, its first request begins one; write {NOW}")
        return msgspec.structs.replace(change, waits=version.terms.activate_on_first_use), version
    period = period_of(before, tenant.timezone, now_us)
    if when == PERIOD_END or day is not None or (when is None and _gives_less(version.terms, terms)):
        at_us = period.end_us if day is None else _beginning(tenant, before.anchor_us, day, now_us)
        if coming is not None and (coming.plan, coming.version, coming.started_us) == (plan, version.version, at_us):
            raise Conflict(f"tenant `{tenant.id}` is to move to plan `{plan}` version {version.version} at that instant already")
        return msgspec.structs.replace(change, at_end=True, at_us=at_us, period_end_us=period.end_us), version
    more = _more(version.terms, _held(session, tenant.id, period, now_us), period, now_us)
    fees = (_fee(terms), _fee(version.terms))
    change = msgspec.structs.replace(change, fees=fees if fees[0] != fees[1] else None)
    return msgspec.structs.replace(change, period_end_us=period.end_us, credits_ncr=more[0], seat_ncr=more[1]), version


def _day_or_instant(text: str) -> date | datetime:
    try:
        found = date.fromisoformat(text) if len(text) == len("2027-01-01") else datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or (isinstance(found, datetime) and found.tzinfo is None):
        write = f"{', '.join(WHEN)}, or the day on which a later period begins, like 2027-01-10"
        raise Invalid("when", f"when: `{text[:80]}` is none of these; write {write}")
    return found


def _beginning(tenant: Tenant, anchor_us: int, day: date | datetime, now_us: int) -> int:
    """Return the instant at which the period to come begins that a day or an instant names. Raises `Invalid`, naming those there are."""
    now = period_at(anchor_us, tenant.timezone, now_us).index
    if not 0 <= day.year - day_of(now_us, tenant.timezone).year <= AHEAD_YEARS_MAX:
        raise Invalid("when", f"when: {day.isoformat()} is not within the {AHEAD_YEARS_MAX} years to come")
    named = day_of(instant_us(day), tenant.timezone) if isinstance(day, datetime) else day
    found = period_on(anchor_us, tenant.timezone, named)
    if found is None or found.index <= now or (isinstance(day, datetime) and found.start_us != instant_us(day)):
        near = max(now, period_at(anchor_us, tenant.timezone, midnight(named, tenant.timezone)).index)
        starts = [period_start(anchor_us, tenant.timezone, index) for index in sorted({now + 1, near, near + 1, near + 2}) if index > now]
        told = ", ".join(wall_clock(start_us, tenant.timezone).removesuffix(f" {tenant.timezone}") for start_us in starts[:3])
        raise Invalid(
            "when",
            f"when: at {day.isoformat()} no period of tenant `{tenant.id}` begins that is to come, and a plan changes only with one: "
            f"{told} ({tenant.timezone}; the day is enough), or {NOW}",
        )
    return found.start_us


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
