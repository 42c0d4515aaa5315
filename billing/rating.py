"""(meter, prices) -> charge, exactly; the same function for the estimate and for the bill, for credits (ncr) and for money.

A rate names a price for every bucket it may meet. Buckets that an admin did not price take their parent's price when the rate
is written (`complete`), never while a request is rated: what was charged can always be read from the stored rate itself.
`Variant`s say other prices for long contexts, a service tier or a lane; one request has one vector of prices, whole.
"""

import re
from collections.abc import Callable, Iterable, Mapping

import msgspec

from billing.errors import BillingError, Invalid, RateMissing
from billing.meter import BUCKETS, TOKENS_MAX, Meter, count_max, input_total, used
from billing.money import NCR_MAX

# An unpriced bucket is priced like the one it is a kind of. `requests` costs nothing unless a price says otherwise.
PARENTS = {"cache_read": "input", "cache_write_5m": "input", "cache_write_1h": "input", "audio_in": "input", "image_in": "input", "audio_out": "output"}

LANES = ("fast", "slow")
BASE_TIERS = frozenset(("auto", "default", "standard"))  # how vendors call the tier that a request gets when it asks for none
VARIANTS_MAX = 32
_TIER = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


class Variant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Other prices where every condition holds: more than `input_over` tokens went in, that service tier, that lane. None: any."""

    input_over: int | None = None
    service_tier: str | None = None
    lane: str | None = None
    prices: dict[str, int]


class PriceList(msgspec.Struct, frozen=True, kw_only=True):
    """Prices from an instant on, in integers per unit by bucket. What is free has none, and is said to be; none and not free means: not to be had."""

    id: int
    effective_us: int
    free: bool
    prices: dict[str, int]
    variants: tuple[Variant, ...] = ()
    version_id: int | None = None

    @property
    def ended(self) -> bool:
        """Whether this says that from its instant on there is no price."""
        return not self.free and not self.prices

    def missing(self, bucket: str) -> BillingError:
        """Make the error that says that a bucket was used and has no price."""
        return Invalid(bucket, f"price list {self.id}: `{bucket}` has no price")


class Rate(PriceList, frozen=True, kw_only=True):
    """One model's prices in ncr per unit from an instant on."""

    model: str

    def missing(self, bucket: str) -> RateMissing:
        """Make the error that names the model and the bucket."""
        return RateMissing(self.model, bucket)


def price_max(bucket: str) -> int:
    """Return the highest price (ncr per unit) a bucket may have: so high that the largest usage in all buckets is still charged within 64 bits."""
    return NCR_MAX // (len(BUCKETS) * count_max(bucket))


def complete(prices: Mapping[str, int], most: Callable[[str], int] = price_max, unit: str = "nano-credits") -> dict[str, int]:
    """Fill in the buckets an admin left out, by `PARENTS`. Raises `Invalid` for an unknown bucket or a price that is no count of `unit` up to `most`."""
    for bucket, price in prices.items():
        if bucket not in BUCKETS:
            raise Invalid(bucket, f"rate: there is no usage bucket `{bucket}`; one of {', '.join(BUCKETS)}")
        if type(price) is not int or not 0 <= price <= most(bucket):
            raise Invalid(bucket, f"rate: the price of `{bucket}` is {price!r}; a price is a whole number of {unit} between 0 and {most(bucket)}")
    full = dict(prices)
    for bucket, parent in PARENTS.items():
        if bucket not in full and parent in full:
            full[bucket] = full[parent]
    full.setdefault("requests", 0)
    return full


def complete_variants(
    variants: Iterable[Variant], base: Mapping[str, int], most: Callable[[str], int] = price_max, unit: str = "nano-credits"
) -> tuple[Variant, ...]:
    """Fill in what each variant left out: kinds by `PARENTS` from the variant's own prices, the rest (reasoning, images, requests ...) from the base.

    Raises `Invalid` for a variant without a condition or without `input` and `output`, an unknown lane, a tier that is no tier's name, and
    thresholds of one tier and lane that do not increase.
    """
    full, last = [], dict[tuple[str | None, str | None], int]()
    for variant in variants:
        _check_conditions(variant)
        place = (variant.service_tier, variant.lane)
        if place in last and (variant.input_over or 0) <= last[place]:
            raise Invalid("variants", f"variants: {when(variant)} does not come after `input over {last[place]}`; thresholds must increase, each once")
        last[place] = variant.input_over or 0
        for bucket in ("input", "output"):
            if bucket not in variant.prices:
                raise Invalid("variants", f"variants: {when(variant)} names no price of `{bucket}`; write both, 0 where it costs nothing")
        priced = complete(variant.prices, most, unit)
        if "requests" not in variant.prices:
            del priced["requests"]
        full.append(msgspec.structs.replace(variant, prices={**{bucket: price for bucket, price in base.items() if bucket not in PARENTS}, **priced}))
    if len(full) > VARIANTS_MAX:
        raise Invalid("variants", f"variants: {len(full)} are too many; at most {VARIANTS_MAX}")
    return tuple(full)


def when(variant: Variant) -> str:
    """Write a variant's conditions: "priority, input over 200000"."""
    said = [
        variant.service_tier or "",
        f"{variant.lane} lane" if variant.lane else "",
        "" if variant.input_over is None else f"input over {variant.input_over}",
    ]
    return ", ".join(word for word in said if word)


def prices_at(card: PriceList, tokens_in: int, lane: str | None, service_tier: str | None) -> dict[str, int]:
    """Return the prices that apply to a request of this length (all of its input, cached or not), lane and service tier.

    Of the variants whose conditions all hold the one wins that names a service tier, among those the one that names a lane, among those the
    one with the highest threshold. None holds: the base.
    """
    found, rank = card.prices, (False, False, -1)
    for variant in card.variants:
        over = variant.input_over
        if (
            (over is None or tokens_in > over)
            and (variant.service_tier is None or variant.service_tier == service_tier)
            and (variant.lane is None or variant.lane == lane)
        ):
            own = (variant.service_tier is not None, variant.lane is not None, over or 0)
            if own > rank:
                found, rank = variant.prices, own
    return found


def tier_charged(asked: str | None, said: str | None) -> str | None:
    """Return the service tier to rate by, None for the base: the one asked for, unless the upstream says that it served another.

    A tier that nobody asked for (a setting of the account upstream) is rated as the base, so that no charge exceeds what was held for it.
    """
    return asked if said is None or said == asked else None


def rate(meter: Meter, card: PriceList, *, lane: str | None = "fast", service_tier: str | None = None) -> int:
    """Charge a usage, in the card's unit (a `Rate`: ncr). Raises what `card.missing` makes for a bucket that was used and has no price.

    Where a price for `reasoning` exists, those tokens cost it instead of the price of `output`.
    """
    if card.free:
        return 0
    prices = prices_at(card, input_total(meter), lane, service_tier) if card.variants else card.prices
    reasoning = meter.reasoning
    apart = reasoning if reasoning and "reasoning" in prices else 0
    total = 0
    for bucket, count in used(meter):
        if reasoning:
            if bucket == "output":
                count -= apart
            elif bucket == "reasoning" and not apart:
                continue
        price = prices.get(bucket)
        if price is None:
            raise card.missing(bucket)
        total += count * price
    return total


def _check_conditions(variant: Variant) -> None:
    over, tier = variant.input_over, variant.service_tier
    if over is None and tier is None and variant.lane is None:
        raise Invalid("variants", "variants: one has no condition; write input_over, service_tier or lane, else it is the rate itself")
    if over is not None and not (type(over) is int and 1 <= over <= TOKENS_MAX):
        raise Invalid("variants", f"variants: input_over is {over!r}; a number of tokens between 1 and {TOKENS_MAX}")
    if tier is not None and (tier in BASE_TIERS or _TIER.fullmatch(tier) is None):
        raise Invalid("variants", f"variants: `{tier[:40]}` is no service tier with prices of its own; write one like flex or priority")
    if variant.lane is not None and variant.lane not in LANES:
        raise Invalid("variants", f"variants: there is no lane `{variant.lane[:40]}`; one of {', '.join(LANES)}")
