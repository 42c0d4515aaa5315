"""A plan's terms as values: what an admin writes, and the part of it that decides about a request."""

import msgspec

from billing.errors import Invalid
from billing.money import NCR_MAX, exponent, parse_price

ON_EXHAUSTED = ("slow", "overage", "block", "fallback")
ON_DATABASE_LOSS = ("slow", "closed")
_INT_MAX = 2**31 - 1
_RANGES = (
    ("allowance_ncr", 0, NCR_MAX // 1000),  # a thousand months of it still add up in 64 bits
    ("seat_allowance_ncr", 0, NCR_MAX // 1_000_000),  # and so do a thousand keys
    ("rollover_cap_ncr", 0, NCR_MAX // 1000),
    ("slow_daily_cap_ncr", 0, NCR_MAX // 1000),
    ("weight", 1, 1000),
    ("slow_weight", 1, 1000),
    ("glide_percent", 0, 100),
    ("fast_concurrency", 1, 100_000),
    ("slow_concurrency", 1, 100_000),
    ("slow_delay_ms", 0, 600_000),
    ("slow_tokens_per_second", 1, 100_000),
    ("slow_priority", 1, 1_000_000),
    ("spill_after_ms", 0, 600_000),
    ("requests_per_minute", 1, _INT_MAX),
    ("tokens_per_minute", 1, NCR_MAX),
    ("monthly_fee_minor", 0, 10**15),
)


class PlanTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What an admin promises under a plan's name. Amounts in ncr, the fee in minor units, `credit_price` in major units per credit as text.

    `allowance_ncr` is the tenant's a period, `seat_allowance_ncr` each active key's own; of what is left of the former at the period's end, at
    most `rollover_cap_ncr` stays for one more. `weight` is the share of a busy backend with credits, `slow_weight` without; over the last
    `glide_percent` of the credits the one falls to the other. `activate_on_first_use`: the months begin with the first request.

    What slow means beside the weight: at most `slow_concurrency` requests at once, more while nobody else wants the slots; a `slow_priority` inside
    engines that schedule by it (lower runs earlier; with credits it is 0); the vendor's flex tier where it sells one and `slow_flex`; each request
    held back for `slow_delay_ms` (then the plan is paced: slow also where all is idle, and nothing is borrowed); a stream's text at
    `slow_tokens_per_second`. With credits, a request that has waited `spill_after_ms` for its model's first backend may go to the next one.
    """

    plan: str
    name: str = ""
    allowance_ncr: int = 0
    seat_allowance_ncr: int = 0
    rollover_cap_ncr: int | None = None
    activate_on_first_use: bool = False
    on_exhausted: str = "slow"
    fallback_model: str | None = None
    slow_daily_cap_ncr: int | None = None
    weight: int = 1
    slow_weight: int = 1
    glide_percent: int = 10
    fast_concurrency: int | None = None
    slow_concurrency: int = 2
    slow_delay_ms: int = 0
    slow_tokens_per_second: int | None = None
    slow_priority: int = 10
    slow_flex: bool = True
    spill_after_ms: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    allowed_models: frozenset[str] | None = None
    on_database_loss: str = "slow"
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
    seat_allowance_ncr: int
    on_exhausted: str
    fallback_model: str | None
    slow_daily_cap_ncr: int | None
    weight: int
    slow_weight: int
    glide_percent: int
    fast_concurrency: int | None
    slow_concurrency: int
    slow_delay_ms: int
    slow_tokens_per_second: int | None
    slow_priority: int
    slow_flex: bool
    spill_after_ms: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    allowed_models: frozenset[str] | None
    on_database_loss: str
    currency: str
    credit_price: str | None


_SHARED = tuple(field for field in Terms.__struct_fields__ if field != "version")


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant on a version of a plan during [started_us, ended_us); months are counted from `anchor_us`, None until the first request begins them."""

    id: str
    tenant_id: str
    plan: str
    version: int
    anchor_us: int | None
    started_us: int
    ended_us: int | None


def terms_of(version: PlanVersion) -> Terms:
    """Narrow a stored version to what the road needs."""
    return Terms(version=version.version, **{field: getattr(version.terms, field) for field in _SHARED})


def check_terms(terms: PlanTerms) -> None:
    """Raise `Invalid` for terms that cannot be kept, naming the field and what would be right. The plan's own name is checked elsewhere."""
    for field, known in (("on_exhausted", ON_EXHAUSTED), ("on_database_loss", ON_DATABASE_LOSS)):
        if getattr(terms, field) not in known:
            raise Invalid(field, f"{field}: `{getattr(terms, field)}` is not a policy; one of {', '.join(known)}")
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
    if fault := incoherent(
        on_exhausted=terms.on_exhausted,
        fallback_model=terms.fallback_model,
        allowed_models=terms.allowed_models,
        weights=(terms.weight, terms.slow_weight),
        seats=(terms.fast_concurrency, terms.slow_concurrency),
        rolls_over=bool(terms.rollover_cap_ncr) and not terms.allowance_ncr,
    ):
        raise Invalid(fault[0], f"{fault[0]}: {fault[1]}")


def incoherent(
    *,
    on_exhausted: str,
    fallback_model: str | None,
    allowed_models: frozenset[str] | None,
    weights: tuple[int, int],
    seats: tuple[int | None, int],
    rolls_over: bool,
) -> tuple[str, str] | None:
    """Say which field does not go with the others, and why; None where they fit.

    `weights` and `seats` (requests at once): with credits, without. `rolls_over`: a cap is given and nothing to roll over.
    """
    if on_exhausted == "fallback" and not fallback_model:
        return "fallback_model", "is missing: on_exhausted fallback serves requests past the credits by another model, this one"
    if on_exhausted != "fallback" and fallback_model is not None:
        return "fallback_model", f"is used only with on_exhausted fallback, and this plan says {on_exhausted}"
    if fallback_model is not None and allowed_models is not None and fallback_model not in allowed_models:
        return "fallback_model", f"`{fallback_model}` is not among the plan's allowed_models"
    if weights[1] > weights[0]:
        return "slow_weight", f"{weights[1]} is more than weight {weights[0]}: a request without credits would outrank one with them"
    if seats[0] is not None and seats[1] > seats[0]:
        return "slow_concurrency", f"{seats[1]} is more than fast_concurrency {seats[0]}: a tenant without credits would get more slots than with them"
    if rolls_over:
        return "rollover_cap", "without credits there is nothing to roll over"
    return None
