"""Money that nothing has rounded, as integers that can be added and split; pure.

The unit is 10^-21 of a currency's major unit: an ncr (10^-9) at a price of a credit (12 decimals at most) is a whole number of it, and so are
pico-units and minor units. So sums and splits are exact, and what is written is what was computed.
"""

from collections.abc import Sequence
from decimal import Decimal

from billing.money import exponent, parse_pico, price_of

_DECIMALS = 21
_PICO = 10**12
_UNIT = Decimal("1e-24")


def of_minor(minor: int, currency: str) -> int:
    """Return minor units of a currency as an amount."""
    return int(minor * 10 ** (_DECIMALS - exponent(currency)))


def of_pico(pico: int) -> int:
    """Return pico-units (costs) as an amount."""
    return pico * 10**9


def of_credits(ncr: int, price: str | None) -> int:
    """Return what credits (ncr) cost at a plan's price of one, in decimal text; without a price nothing is invoiced for them."""
    return 0 if price is None else ncr * parse_pico(price)


def in_major(amount: int, rate_pico: int = _PICO) -> Decimal:
    """Return an amount in major units, exactly; at a rate of exchange (`money.parse_pico`) in those of the other currency."""
    return price_of(amount * rate_pico, _UNIT)


def split(total: int, weights: Sequence[int]) -> list[int]:
    """Split a total in proportion to weights, by largest remainder: the parts are whole, and sum to the total. Of equal remainders the first wins.

    Raises `ValueError` for a weight or total below 0, and where nothing weighs anything though there is something to split.
    """
    whole = sum(weights)
    if total < 0 or min(weights, default=0) < 0 or (total and not whole):
        raise ValueError(f"{total} cannot be split by the weights {list(weights)[:10]}")
    if not total:
        return [0] * len(weights)
    parts = [total * weight // whole for weight in weights]
    missing = total - sum(parts)
    if missing:
        by_remainder = sorted(range(len(weights)), key=lambda index: (-(total * weights[index] % whole), index))
        for index in by_remainder[:missing]:
            parts[index] += 1
    return parts
