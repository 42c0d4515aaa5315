"""What tenants' periods that run now are going to use and cost. It only reads."""

from collections.abc import Iterator, Mapping
from datetime import date, timedelta

import msgspec
from sqlmodel import Session

from billing.credits import store as accounts
from billing.credits.store import PERIOD
from billing.db import Database
from billing.grants.allowance import current_period
from billing.grants.periods import Period, day_of, midnight
from billing.margins import store
from billing.margins.amounts import in_major, of_credits, of_minor
from billing.margins.forecast import HISTORY_DAYS, Coming, Known, Outlook, exhausted_on, look_ahead
from billing.money import round_money
from billing.operations.tenants import require_tenant
from billing.operations.usage import read_balance
from billing.plans import store as plans
from billing.plans.terms import PlanTerms
from billing.tenants import store as tenants
from billing.tenants.tenant import Tenant

__all__ = ["Expected", "Forecast", "forecasts"]
_DAY = timedelta(days=1)
_HISTORY_US = (HISTORY_DAYS + 2) * 86_400_000_000


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """A whole period, when what is to come of it is as much as this: its use, the part past the credits (ncr), and the invoice in minor units, net.

    `past_ncr` is invoiced on a plan whose overage is, served slowly on one that slows, refused on one that blocks.
    """

    used_ncr: int
    past_ncr: int
    total_minor: int


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's period [first_day, end_day). `expected`, `low` and `high` are None where no day is over yet that says anything.

    `left_ncr`: credits that are left, less debt; `exhausted_day`: when they are expected to be used up, None: not in this period.
    """

    tenant_id: str
    plan: str
    on_exhausted: str
    first_day: str
    end_day: str
    currency: str
    used_ncr: int
    past_ncr: int
    left_ncr: int
    fee_minor: int
    expected: Expected | None
    low: Expected | None
    high: Expected | None
    exhausted_day: str | None
    method: str


def forecasts(db: Database, *, tenant_id: str | None = None, now_us: int) -> list[Forecast]:
    """Forecast the period that runs now, of one tenant or of all, by tenant; who is in none is left out. Raises `NotFound`."""
    with db.read(long=True, snapshot=True) as session:
        wanted = tenants.all_tenants(session) if tenant_id is None else [require_tenant(session, tenant_id)]
        sums = store.day_sums(session, [tenant.id for tenant in wanted], now_us - _HISTORY_US)
        found = (_forecast(session, tenant, sums.get(tenant.id, {}), now_us) for tenant in wanted)
        return [one for one in found if one is not None]


def _forecast(session: Session, tenant: Tenant, days: Mapping[int, int], now_us: int) -> Forecast | None:
    running = current_period(session, tenant.id, now_us)
    subscribed = plans.subscribed(session, tenant.id, now_us)
    if running is None or subscribed is None:
        return None
    period, terms = running[1], subscribed[1].terms
    outlook = look_ahead(list(_known(tenant, days, now_us)), list(_coming(tenant, period, now_us)))
    used = accounts.sum_of(session, tenant.id, PERIOD, period.start_us)
    past_ncr = used.charge_ncr - used.cover_ncr
    left_ncr = read_balance(session, tenant.id, now_us).remaining_ncr
    began = plans.subscribed(session, tenant.id, period.start_us)  # whose fee this period has
    fee_minor = 0 if began is None else began[1].terms.monthly_fee_minor
    first_day, end_day, today = (day_of(at_us, tenant.timezone).isoformat() for at_us in (period.start_us, period.end_us, now_us))

    def whole(more_ncr: int) -> Expected:
        past = max(0, more_ncr - max(0, left_ncr))
        return Expected(
            used_ncr=used.charge_ncr + more_ncr, past_ncr=past_ncr + past, total_minor=_total(terms, tenant.currency, fee_minor, used.overage_ncr, past)
        )  # fmt: skip

    return Forecast(
        tenant_id=tenant.id,
        plan=terms.plan,
        on_exhausted=terms.on_exhausted,
        first_day=first_day,
        end_day=end_day,
        currency=tenant.currency,  # a plan that asks for no money may be written in another
        used_ncr=used.charge_ncr,
        past_ncr=past_ncr,
        left_ncr=left_ncr,
        fee_minor=fee_minor,
        expected=None if outlook is None else whole(outlook.ncr),
        low=None if outlook is None else whole(outlook.low_ncr),
        high=None if outlook is None else whole(outlook.high_ncr),
        exhausted_day=today if left_ncr <= 0 else None if outlook is None else exhausted_on(outlook, left_ncr, today),
        method=_method(outlook),
    )


def _total(terms: PlanTerms, currency: str, fee_minor: int, overage_ncr: int, past_ncr: int) -> int:
    invoiced = overage_ncr + (past_ncr if terms.on_exhausted == "overage" else 0)
    return round_money(in_major(of_minor(fee_minor, currency) + of_credits(invoiced, terms.credit_price)), currency)


def _method(outlook: Outlook | None) -> str:
    return "no day is over yet" if outlook is None else outlook.method


def _known(tenant: Tenant, days: Mapping[int, int], now_us: int) -> Iterator[Known]:
    """Give the last days that are over, also those without use; the one on which the tenant came is none, for it was not whole."""
    today = day_of(now_us, tenant.timezone)
    first = max(today - HISTORY_DAYS * _DAY, day_of(tenant.created_us, tenant.timezone) + _DAY)
    for index in range((today - first).days):
        day = first + index * _DAY
        yield Known(day.weekday(), days.get(midnight(day, tenant.timezone), 0))


def _coming(tenant: Tenant, period: Period, now_us: int) -> Iterator[Coming]:
    """Give what is left of today, and the days until the period ends, the last of which may be only begun."""
    day: date = day_of(now_us, tenant.timezone)
    while (start_us := midnight(day, tenant.timezone)) < period.end_us:
        end_us = midnight(day + _DAY, tenant.timezone)
        yield Coming(day.isoformat(), day.weekday(), min(end_us, period.end_us) - max(start_us, now_us), end_us - start_us)
        day += _DAY
