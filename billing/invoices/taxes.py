"""Tax by category and rate, as EN 16931 has it (BR-CO-17): lines of a group are summed, that sum is taxed, and the tax is rounded once. Pure."""

from collections.abc import Iterable
from decimal import Decimal

from billing.invoices.document import Line, Tax
from billing.money import format_money, round_money, times_percent
from billing.tenants.profile import Profile


def taxes_of(lines: Iterable[Line], profile: Profile, currency: str) -> tuple[Tax, ...]:
    """Return the tax of an invoice's lines, a group for each category and rate. A tenant has one of each, so there is one group, also without any line."""
    groups: dict[tuple[str, str], int] = {(profile.tax_category, profile.tax_percent): 0}
    for line in lines:
        group = line.tax_category, line.tax_percent
        groups[group] = groups.get(group, 0) + line.amount_minor
    return tuple(
        Tax(
            category=category,
            percent=percent,
            taxable_minor=net,
            tax_minor=tax_of(net, percent, currency),
            note=profile.tax_note if Decimal(percent) == 0 else None,
        )
        for (category, percent), net in sorted(groups.items())
    )


def tax_of(net_minor: int, percent: str, currency: str) -> int:
    """Return the tax on an amount (minor units) at a rate in percent, rounded to the minor unit, halves away from zero."""
    return round_money(times_percent(Decimal(format_money(net_minor, currency)), Decimal(percent)), currency)
