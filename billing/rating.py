"""(meter, rate) -> charge in ncr, exactly; the same function for the estimate and for the bill.

A rate names a price for every bucket it may meet. Buckets that an admin did not price take their parent's price when the rate
is written (`complete`), never while a request is rated: what was charged can always be read from the stored rate itself.
"""

from collections.abc import Mapping

import msgspec

from billing.errors import Invalid, RateMissing
from billing.meter import BUCKETS, Meter, count_max
from billing.money import NCR_MAX

# An unpriced bucket is priced like the one it is a kind of. `requests` costs nothing unless a price says otherwise.
PARENTS = {"cache_read": "input", "cache_write_5m": "input", "cache_write_1h": "input", "audio_in": "input", "image_in": "input", "audio_out": "output"}


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """One model's prices from an instant on. `prices` maps a bucket to ncr per unit; a free model's prices are all 0, and said to be."""

    id: int
    model: str
    effective_us: int
    free: bool
    prices: dict[str, int]


def price_max(bucket: str) -> int:
    """Return the highest price (ncr per unit) a bucket may have: so high that the largest usage in all buckets is still charged within 64 bits."""
    return NCR_MAX // (len(BUCKETS) * count_max(bucket))


def complete(prices: Mapping[str, int]) -> dict[str, int]:
    """Fill in the buckets an admin left out, by `PARENTS`. Raises `Invalid` for an unknown bucket or a price that is no count of ncr."""
    for bucket, ncr in prices.items():
        if bucket not in BUCKETS:
            raise Invalid(bucket, f"rate: there is no usage bucket `{bucket}`; one of {', '.join(BUCKETS)}")
        if type(ncr) is not int or not 0 <= ncr <= price_max(bucket):
            raise Invalid(bucket, f"rate: the price of `{bucket}` is {ncr!r}; a price is a whole number of nano-credits between 0 and {price_max(bucket)}")
    full = dict(prices)
    for bucket, parent in PARENTS.items():
        if bucket not in full and parent in full:
            full[bucket] = full[parent]
    full.setdefault("requests", 0)
    return full


def rate(meter: Meter, card: Rate) -> int:
    """Charge a usage, in ncr. Raises `RateMissing` for a bucket that was used and has no price.

    Where a price for `reasoning` exists, those tokens cost it instead of the price of `output`.
    """
    if card.free:
        return 0
    prices = card.prices
    apart = meter.reasoning if meter.reasoning and "reasoning" in prices else 0
    total = 0
    for bucket in BUCKETS:
        count = getattr(meter, bucket)
        if not count or (bucket == "reasoning" and not apart):
            continue
        if bucket == "output":
            count -= apart
        price = prices.get(bucket)
        if price is None:
            raise RateMissing(card.model, bucket)
        total += count * price
    return total
