"""A plan's terms as values: what an admin writes, and the part of it that decides about a request."""

import msgspec

from billing.errors import Invalid
from billing.money import NCR_MAX, exponent, parse_price

ON_EXHAUSTED = ("slow", "overage", "block")
_INT_MAX = 2**31 - 1
_RANGES = (
    ("allowance_ncr", 0, NCR_MAX // 1000),  # a thousand months of it still add up in 64 bits
    ("slow_daily_cap_ncr", 0, NCR_MAX // 1000),
    ("weight", 1, 1000),
    ("fast_concurrency", 1, 100_000),
    ("slow_concurrency", 1, 100_000),
    ("requests_per_minute", 1, _INT_MAX),
    ("tokens_per_minute", 1, NCR_MAX),
    ("monthly_fee_minor", 0, 10**15),
)


class PlanTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What an admin promises under a plan's name. Amounts in ncr, the fee in minor units, `credit_price` in major units per credit as text."""

    plan: str
    name: str = ""
    allowance_ncr: int = 0
    on_exhausted: str = "slow"
    slow_daily_cap_ncr: int | None = None
    weight: int = 1
    fast_concurrency: int | None = None
    slow_concurrency: int = 2
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    allowed_models: frozenset[str] | None = None
    monthly_fee_minor: int = 0
    currency: str = "USD"
    credit_price: str | None = None


class PlanVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One stored version of a plan; immutable."""

    version: int
    terms: PlanTerms
    created_us: int


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What the road needs to know of a tenant's plan to admit, queue and settle a request."""

    plan: str
    version: int
    allowance_ncr: int
    on_exhausted: str
    slow_daily_cap_ncr: int | None
    weight: int
    fast_concurrency: int | None
    slow_concurrency: int
    requests_per_minute: int | None
    tokens_per_minute: int | None
    allowed_models: frozenset[str] | None
    currency: str
    credit_price: str | None


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant on a version of a plan during [started_us, ended_us); months are counted from `anchor_us`."""

    id: str
    tenant_id: str
    plan: str
    version: int
    anchor_us: int
    started_us: int
    ended_us: int | None


def terms_of(version: PlanVersion) -> Terms:
    """Narrow a stored version to what the road needs."""
    terms = version.terms
    return Terms(
        plan=terms.plan,
        version=version.version,
        allowance_ncr=terms.allowance_ncr,
        on_exhausted=terms.on_exhausted,
        slow_daily_cap_ncr=terms.slow_daily_cap_ncr,
        weight=terms.weight,
        fast_concurrency=terms.fast_concurrency,
        slow_concurrency=terms.slow_concurrency,
        requests_per_minute=terms.requests_per_minute,
        tokens_per_minute=terms.tokens_per_minute,
        allowed_models=terms.allowed_models,
        currency=terms.currency,
        credit_price=terms.credit_price,
    )


def check_terms(terms: PlanTerms) -> None:
    """Raise `Invalid` for terms that cannot be kept, naming the field and what would be right. The plan's own name is checked elsewhere."""
    if terms.on_exhausted not in ON_EXHAUSTED:
        raise Invalid("on_exhausted", f"on_exhausted: `{terms.on_exhausted}` is not a policy; one of {', '.join(ON_EXHAUSTED)}")
    exponent(terms.currency)
    if terms.credit_price is not None:
        parse_price(terms.credit_price, "credit_price")
    elif terms.on_exhausted == "overage":
        raise Invalid("credit_price", "credit_price: a plan whose overage is invoiced needs the price of one credit, like 0.01")
    for field, least, most in _RANGES:
        value = getattr(terms, field)
        if value is not None and not least <= value <= most:
            raise Invalid(field, f"{field}: {value} is out of range; between {least} and {most}")
    if terms.allowed_models is not None and (not terms.allowed_models or not all(terms.allowed_models)):
        raise Invalid("allowed_models", "allowed_models: name at least one model, or leave it out to allow all")
