"""From a closed period to its invoice. Pure: the same facts, terms and parties give the same document.

The fee is that of the subscription in force when the period began, for the whole period; a change of plan in its course changes the next one's. Use that
credits paid costs 0 and is listed, so that the tenant sees it; what is past the credits is invoiced at the credit's price in the plan that was in
force when each request began. What was booked late of an earlier period stands on lines of its own.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from decimal import Decimal

import msgspec

from billing.errors import Conflict
from billing.grants.periods import day_of
from billing.invoices import words
from billing.invoices.company import Company
from billing.invoices.document import INVOICE, Credits, Document, Line
from billing.invoices.taxes import taxes_of
from billing.money import format_exact, format_money, price_of, round_money
from billing.periods.facts import Facts, Use
from billing.plans.terms import PlanVersion
from billing.tenants.profile import Party, Profile
from billing.tenants.tenant import Tenant

NOBODY = Party(name="(weir company set)")


class Fee(msgspec.Struct, frozen=True, kw_only=True):
    """A plan's fee for the period, in the currency's minor unit."""

    plan: str
    version: int
    fee_minor: int


class Sale(msgspec.Struct, frozen=True, kw_only=True):
    """Credits that were sold within the period, and for how much."""

    grant_id: str
    amount_ncr: int
    price_minor: int
    at_us: int
    note: str = ""


class Basis(msgspec.Struct, frozen=True, kw_only=True):
    """All that an invoice is made of. `versions` are the plans' versions by subscription, in the order in which those began."""

    tenant: Tenant
    profile: Profile
    company: Company | None
    facts: Facts
    fees: tuple[Fee, ...]
    sales: tuple[Sale, ...]
    versions: Mapping[str, PlanVersion]


def invoice_id(tenant_id: str, facts: Facts, timezone: str) -> str:
    """Name a period's invoice: the tenant and the day the period began on."""
    return f"{tenant_id}:{day_of(facts.start_us, timezone).isoformat()}"


def draft(basis: Basis) -> Document:
    """Write the invoice of a period, without a number. Raises `Conflict` where requests are to be invoiced and no plan ever said what a credit costs."""
    tenant, profile, facts = basis.tenant, basis.profile, basis.facts
    days = _days(facts.start_us, facts.end_us, tenant.timezone)
    lines = tuple(_numbered(_lines(basis, days), profile))
    taxes = taxes_of(lines, profile, tenant.currency)
    net, tax = sum(line.amount_minor for line in lines), sum(one.tax_minor for one in taxes)
    company = basis.company
    statement = facts.statement
    return Document(
        kind=INVOICE,
        id=invoice_id(tenant.id, facts, tenant.timezone),
        number=None,
        series="" if company is None else company.series,
        tenant_id=tenant.id,
        currency=tenant.currency,
        language=profile.language,
        timezone=tenant.timezone,
        period_start_us=facts.start_us,
        period_end_us=facts.end_us,
        first_day=days[0],
        end_day=days[1],
        seller=NOBODY if company is None else company.party,
        buyer=profile.party,
        lines=lines,
        taxes=taxes,
        net_minor=net,
        tax_minor=tax,
        total_minor=net + tax,
        credits=Credits(**{name: getattr(statement, name) for name in Credits.__struct_fields__}),
        po_number=profile.po_number,
        cost_centre=profile.cost_centre,
        bank=() if company is None else company.bank,
        footer=None if company is None else company.footer,
    )


def _lines(basis: Basis, days: tuple[str, str]) -> Iterator[Line]:
    currency, zone, language = basis.tenant.currency, basis.tenant.timezone, basis.profile.language
    for fee in basis.fees:
        exact = Decimal(format_money(fee.fee_minor, currency))
        yield _line("fee", words.fee(language, fee.plan, fee.version), days, exact, currency, plan=fee.plan, plan_version=fee.version)
    for sale in sorted(basis.sales, key=lambda sale: (sale.at_us, sale.grant_id)):
        day = day_of(sale.at_us, zone)
        text = words.top_up(language, sale.amount_ncr, sale.note)
        yield _line("top_up", text, (day.isoformat(), (day + timedelta(days=1)).isoformat()), Decimal(format_money(sale.price_minor, currency)), currency)
    for use in _merged(basis.facts.uses):
        yield _line("usage", words.use(language, "usage", use.model, use.project), days, Decimal(0), currency, use=use)
    for use in basis.facts.uses:
        if use.overage_ncr:
            yield _overage(basis, use, days, "overage")
    for correction in basis.facts.corrections:
        span = _days(correction.start_us, correction.end_us, zone)
        for use in correction.uses:
            yield _overage(basis, use, span, "correction")


def _overage(basis: Basis, use: Use, days: tuple[str, str], kind: str) -> Line:
    version = _priced(basis, use)
    price = None if version is None else version.terms.credit_price
    if use.overage_ncr and price is None:
        raise Conflict(
            f"tenant `{basis.tenant.id}`: {use.requests} requests for `{use.model}` are to be invoiced, and no plan was in force that says what a credit costs"
        )
    exact = price_of(use.overage_ncr, Decimal(price)) if price is not None and use.overage_ncr else Decimal(0)
    plan = {} if version is None else {"plan": version.terms.plan, "plan_version": version.version}
    text = words.use(basis.profile.language, kind, use.model, use.project)
    return _line(kind, text, days, exact, basis.tenant.currency, use=use, unit_price=price if use.overage_ncr else None, **plan)


def _priced(basis: Basis, use: Use) -> PlanVersion | None:
    """Return the plan that says what a credit past the others costs: that in force when the requests began, or the last before it that has a price.

    In the moments after a change a gateway that has not heard of it serves by the old terms, and what it promised then is what is owed.
    """
    own = None if use.subscription is None else basis.versions[use.subscription]
    if own is None or not use.overage_ncr or own.terms.credit_price is not None:
        return own
    names = list(basis.versions)
    before = reversed(names[: names.index(use.subscription or "")])
    return next((basis.versions[name] for name in before if basis.versions[name].terms.credit_price is not None), own)


def _line(kind: str, text: str, days: tuple[str, str], exact: Decimal, currency: str, *, use: Use | None = None, **more: object) -> Line:
    figures: dict[str, object] = {}
    if use is not None:
        figures = {"model": use.model, "project": use.project, "requests": use.requests, "rate_ids": use.rate_ids, "charge_ncr": use.charge_ncr}
        figures |= {"covered_ncr": use.covered_ncr, "debt_ncr": use.cover_ncr - use.covered_ncr}
        figures |= {"excess_ncr": use.excess_ncr, "overage_ncr": use.overage_ncr}
        if kind == "overage":  # the requests and their credits stand on the line of their use
            figures |= {"charge_ncr": use.overage_ncr, "covered_ncr": 0, "debt_ncr": 0, "excess_ncr": 0, "requests": 0}
    values = {"seq": 0, "kind": kind, "description": text, "first_day": days[0], "end_day": days[1], "tax_category": "", "tax_percent": ""}
    values |= {"amount_minor": round_money(exact, currency), "exact": format_exact(exact)}
    return msgspec.convert(values | figures | more, Line)


def _numbered(lines: Iterable[Line], profile: Profile) -> Iterator[Line]:
    for seq, line in enumerate(lines, 1):
        yield msgspec.structs.replace(line, seq=seq, tax_category=profile.tax_category, tax_percent=profile.tax_percent)


def _merged(uses: Iterable[Use]) -> list[Use]:
    """Add uses up over the subscriptions that were in force: what credits paid is one line for each model and project."""
    found: dict[tuple[str, str | None], Use] = {}
    for use in uses:
        before = found.get((use.model, use.project))
        if before is None:
            found[use.model, use.project] = use
            continue
        figures = {name: getattr(use, name) + getattr(before, name) for name in Use.__struct_fields__ if name.endswith("_ncr") or name == "requests"}
        rate_ids = tuple(sorted({*use.rate_ids, *before.rate_ids}))
        found[use.model, use.project] = msgspec.structs.replace(before, rate_ids=rate_ids, unreported=use.unreported + before.unreported, **figures)
    return [found[key] for key in sorted(found, key=lambda key: (key[0], key[1] or ""))]


def _days(start_us: int, end_us: int, timezone: str) -> tuple[str, str]:
    return day_of(start_us, timezone).isoformat(), day_of(end_us, timezone).isoformat()
