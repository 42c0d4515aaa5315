"""Integers that are money, and the one place that rounds.

Credits are counted in nano-credits (`ncr`, a signed 64-bit integer): a rate is a whole number of ncr per unit, so every
charge is exact. Money is an integer in the currency's minor unit. Text is the only other form either ever takes: no float
enters or leaves this module.
"""

from decimal import ROUND_HALF_UP, Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow

from billing.errors import Invalid

NCR_PER_CREDIT = 10**9
NCR_MAX = 2**63 - 1
DIGITS_MAX = 30

# Decimal rounds to 28 digits unless told otherwise. Here every product fits, and one that did not would raise instead of rounding.
_EXACT = Context(prec=200, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow])
_ROUNDING = Context(prec=200, rounding=ROUND_HALF_UP, traps=[InvalidOperation, DivisionByZero, Overflow])

_TWELVE = Decimal("1e-12")

# ISO 4217: how many decimals the minor unit of a currency has.
EXPONENTS = {"USD": 2, "EUR": 2, "GBP": 2, "CNY": 2, "JPY": 0, "KRW": 0, "CHF": 2, "CAD": 2, "AUD": 2, "SGD": 2, "HKD": 2, "INR": 2}


def parse_credits(text: str, field: str = "credits") -> int:
    """Read credits written in decimal ("12.5") as ncr. Raises `Invalid` past 9 decimals, out of range, or for text that is no number."""
    ncr = _EXACT.scaleb(_decimal(text, field), 9)
    if ncr != ncr.to_integral_value(context=_ROUNDING):
        raise Invalid(field, f"{field}: `{text}` has more than 9 decimals; the smallest amount is 0.000000001 credits")
    if abs(ncr) > NCR_MAX:
        raise Invalid(field, f"{field}: `{text}` is too large; at most {NCR_MAX // NCR_PER_CREDIT} credits")
    return int(ncr)


def format_credits(ncr: int) -> str:
    """Write ncr as credits in decimal, exactly and without trailing zeros: 12500000000 -> "12.5"."""
    if ncr < 0:
        return "-" + format_credits(-ncr)
    whole, part = divmod(ncr, NCR_PER_CREDIT)
    return f"{whole}.{str(part + NCR_PER_CREDIT)[1:]}".rstrip("0") if part else str(whole)


def parse_rate_per_million(text: str, field: str = "rate") -> int:
    """Read a price in credits per 1,000,000 units as ncr per unit. Raises `Invalid` when that is no whole number of ncr, or negative."""
    ncr = _EXACT.scaleb(_decimal(text, field), 3)
    if ncr != ncr.to_integral_value(context=_ROUNDING):
        raise Invalid(field, f"{field}: `{text}` credits per 1,000,000 is finer than 0.001; the smallest price is 1 nano-credit per unit")
    if not 0 <= ncr <= NCR_MAX // 10**9:
        raise Invalid(field, f"{field}: `{text}` is out of range; a price is between 0 and {(NCR_MAX // 10**9) // 1000} credits per 1,000,000")
    return int(ncr)


def format_rate_per_million(ncr_per_unit: int) -> str:
    """Write a price of ncr per unit as credits per 1,000,000 units."""
    return format_credits(ncr_per_unit * 1_000_000)


def exponent(currency: str) -> int:
    """Tell how many decimals a currency's minor unit has. Raises `Invalid` for a currency that is not listed."""
    try:
        return EXPONENTS[currency]
    except KeyError:
        raise Invalid("currency", f"currency: `{currency}` is not supported; one of {', '.join(sorted(EXPONENTS))}") from None


def parse_money(text: str, currency: str, field: str = "amount") -> int:
    """Read an amount in major units ("49.90") as minor units. Raises `Invalid` for more decimals than the currency has."""
    minor = _EXACT.scaleb(_decimal(text, field), exponent(currency))
    if minor != minor.to_integral_value(context=_ROUNDING):
        raise Invalid(field, f"{field}: `{text}` has more decimals than {currency} has ({exponent(currency)})")
    return int(minor)


def format_money(minor: int, currency: str) -> str:
    """Write minor units in major ones with the currency's own decimals: (4990, "USD") -> "49.90"."""
    return f"{_EXACT.scaleb(Decimal(minor), -exponent(currency)):f}"


def price_of(ncr: int, price_per_credit: Decimal) -> Decimal:
    """Value credits in money, exactly: a decimal in major units that nothing has rounded yet."""
    return _EXACT.scaleb(_EXACT.multiply(Decimal(ncr), price_per_credit), -9)


def value_of(minor: int, ncr: int, currency: str) -> Decimal:
    """Spread minor units over credits: what one credit is worth in major units, to 12 decimals, halves up; 0 where there are no credits."""
    if not ncr:
        return Decimal(0)
    major = _EXACT.scaleb(Decimal(minor), 9 - exponent(currency))
    return _ROUNDING.divide(major, Decimal(ncr)).quantize(_TWELVE, context=_ROUNDING)


def round_money(exact: Decimal, currency: str) -> int:
    """Round an exact amount in major units to minor units, halves away from zero. Lines are rounded first, then summed (EN 16931)."""
    return int(_EXACT.scaleb(exact, exponent(currency)).quantize(Decimal(1), context=_ROUNDING))


def parse_money_exact(text: str, field: str = "amount") -> Decimal:
    """Read an amount in major units of whatever sign and fineness, kept exact. Raises `Invalid` for text that is no number."""
    return _decimal(text, field)


def parse_price(text: str, field: str = "price") -> Decimal:
    """Read a unit price in major units, kept exact. Raises `Invalid` when negative or past 12 decimals."""
    value = _decimal(text, field)
    if value < 0 or value != value.quantize(_TWELVE, context=_ROUNDING):
        raise Invalid(field, f"{field}: `{text}` is not a price; at least 0, at most 12 decimals")
    return value


def parse_pico(text: str, units: int = 1, field: str = "price") -> int:
    """Read a price of `units` units in major units of a currency as pico-units (10^-12) for one. Raises `Invalid` when that is no whole number, or negative."""
    pico = _EXACT.scaleb(_decimal(text, field), 12)
    if pico < 0 or pico != pico.to_integral_value(context=_ROUNDING) or int(pico) % units:
        finest = format_exact(_EXACT.multiply(_TWELVE, Decimal(units)))
        raise Invalid(field, f"{field}: `{text}` is no price{f' per {units:,}' if units > 1 else ''}; at least 0, no finer than {finest}")
    return int(pico) // units


def format_pico(pico: int, units: int = 1) -> str:
    """Write a price of pico-units for one as major units for `units`, exactly."""
    return format_exact(exact_of_pico(pico * units))


def exact_of_pico(pico: int) -> Decimal:
    """Return pico-units of a currency's major unit as an exact amount in major units; `round_money` makes minor units of it."""
    return _EXACT.scaleb(Decimal(pico), -12)


def pico_of_price(price: Decimal, units: int) -> tuple[int, bool]:
    """Convert a price for `units` units into pico-units for one, with whether that is exact; if not, it was rounded, halves up. For proposals only."""
    pico = _EXACT.scaleb(price, 12)
    whole = int(_ROUNDING.divide(pico, Decimal(units)).quantize(Decimal(1), context=_ROUNDING))
    return whole, whole * units == pico


def ncr_of_price(price: Decimal, credits_per_unit: Decimal, units: int) -> tuple[int, bool]:
    """Convert a price in money for `units` units into ncr per unit, where one unit of money is worth so many credits.

    Returns it with whether it is exact; if not, it was rounded to the nearest nano-credit, halves up. Meant for proposals, never for a bill.
    """
    ncr = _EXACT.scaleb(_EXACT.multiply(price, credits_per_unit), 9)
    whole = int(_ROUNDING.divide(ncr, Decimal(units)).quantize(Decimal(1), context=_ROUNDING))
    return whole, whole * units == ncr


def times_percent(amount: Decimal, percent: Decimal) -> Decimal:
    """Return so many percent of an amount, unrounded."""
    return _EXACT.scaleb(_EXACT.multiply(amount, percent), -2)


def add_exact(one: Decimal, other: Decimal) -> Decimal:
    """Add two amounts without rounding either."""
    return _EXACT.add(one, other)


def format_exact(amount: Decimal) -> str:
    """Write an unrounded amount in decimal, with every digit it has and none it has not: Decimal("1E+1") -> "10", "0.500" -> "0.5"."""
    text = f"{amount:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def _decimal(text: str, field: str) -> Decimal:
    try:
        value = Decimal(text.strip())
    except InvalidOperation:
        raise Invalid(field, f"{field}: `{text:.40}` is not a number; write it like 12.5") from None
    if not value.is_finite():
        raise Invalid(field, f"{field}: `{text}` is not an amount; write it like 12.5")
    if len(value.as_tuple().digits) > DIGITS_MAX or abs(value.adjusted()) > DIGITS_MAX:
        raise Invalid(field, f"{field}: `{text:.40}` has too many digits; an amount has at most {DIGITS_MAX}")
    return value
