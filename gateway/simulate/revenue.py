"""What the plans under trial bring in, by the books' own arithmetic. Pure.

Fees are taken pro rata of each tenant's own months and rounded once a plan; overage is invoiced in lines, one for a tenant, day and model, each
rounded by itself, as on an invoice. Only `billing.money` rounds.
"""

from collections.abc import Iterable
from decimal import Decimal

import msgspec

from billing.grants.periods import period_at, prorate
from billing.money import exact_of_pico, exponent, price_of, round_money
from billing.plans.terms import PlanTerms
from gateway.simulate.tenant import Tenant

PICO_DIGITS = 12


class Revenue(msgspec.Struct, frozen=True, kw_only=True):
    """A plan's revenue in minor units of its currency."""

    fee_minor: int
    overage_minor: int
    currency: str


def revenue_of(plan: PlanTerms, tenants: Iterable[Tenant], start_us: int, end_us: int) -> Revenue:
    """Add up what a plan's tenants owe for [start_us, end_us)."""
    fee_pico = overage_minor = 0
    for tenant in tenants:
        fee_pico += _fee_pico(plan, tenant, start_us, end_us)
        overage_minor += overage_minor_of(plan, tenant)
    return Revenue(fee_minor=round_money(exact_of_pico(fee_pico), plan.currency), overage_minor=overage_minor, currency=plan.currency)


def overage_minor_of(plan: PlanTerms, tenant: Tenant) -> int:
    """Return what a tenant's overage comes to on its invoice, in minor units."""
    if plan.credit_price is None:
        return 0
    price = Decimal(plan.credit_price)
    return sum(round_money(price_of(ncr, price), plan.currency) for ncr in tenant.sums.overage_ncr.values())


def _fee_pico(plan: PlanTerms, tenant: Tenant, start_us: int, end_us: int) -> int:
    """Return the part of the monthly fee that falls into a span, in 10^-12 of the currency's major unit."""
    fee_pico = plan.monthly_fee_minor * 10 ** (PICO_DIGITS - exponent(plan.currency))
    total, at_us = 0, start_us
    while fee_pico and at_us < end_us:
        period = period_at(tenant.anchor_us, tenant.timezone, at_us)
        upto_us = min(end_us, period.end_us)
        total += prorate(fee_pico, period, at_us) - prorate(fee_pico, period, upto_us)
        at_us = upto_us
    return total
