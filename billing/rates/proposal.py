"""Rates proposed from public prices, for an admin to accept or change; nothing here writes, and rating never reads it.

The prices are those packaged with genai-prices, in USD per 1,000,000 tokens; nothing is downloaded. What a public price list says and a
rate cannot say (tiers by context length, prices per page or character) is named, not hidden.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec

from billing.errors import Invalid
from billing.money import ncr_of_price, parse_price

PER_MILLION, PER_THOUSAND = 1_000_000, 1_000
# genai-prices' key -> (our bucket, units its price is for)
KEYS = {
    "input_mtok": ("input", PER_MILLION),
    "output_mtok": ("output", PER_MILLION),
    "cache_read_mtok": ("cache_read", PER_MILLION),
    "cache_write_mtok": ("cache_write_5m", PER_MILLION),
    "cache_write_1h_mtok": ("cache_write_1h", PER_MILLION),
    "input_audio_mtok": ("audio_in", PER_MILLION),
    "output_audio_mtok": ("audio_out", PER_MILLION),
    "input_image_mtok": ("image_in", PER_MILLION),
    "output_reasoning_mtok": ("reasoning", PER_MILLION),
    "web_searches_kcount": ("searches", PER_THOUSAND),
    "requests_kcount": ("requests", PER_THOUSAND),
}


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """What a model could cost. `prices` in ncr per unit, fit for `set_rate`; empty when the model is not in the price list.

    `usd` is the public price as it is listed, by its own key; `notes` say what to know before accepting.
    """

    model: str
    source: str | None
    prices: dict[str, int]
    usd: dict[str, str]
    notes: tuple[str, ...]


def propose(models: Iterable[str], *, credits_per_usd: str, now_us: int) -> list[Proposal]:
    """Propose a rate for each model at the public prices of `now_us`, one USD being worth `credits_per_usd` credits. Raises `Invalid`."""
    worth = parse_price(credits_per_usd, "credits_per_usd")
    if worth == 0:
        raise Invalid("credits_per_usd", "credits_per_usd: at 0 everything would be free; write how many credits one USD buys, like 1000")
    return [_propose(model, worth, datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=now_us)) for model in models]


def _propose(model: str, worth: Decimal, at: datetime) -> Proposal:
    from genai_prices.data_snapshot import get_snapshot  # half a second and tens of MB: only when a proposal is asked for
    from genai_prices.types import TieredPrices

    try:
        provider, found = get_snapshot().find_provider_model(model, None, None, None)
    except LookupError:
        return Proposal(model=model, source=None, prices={}, usd={}, notes=("not in the public price list; set its rate by hand",))
    listed = {key: price for key, price in vars(found.get_prices(at)).items() if price is not None}
    prices: dict[str, int] = {}
    usd: dict[str, str] = {}
    notes: list[str] = []
    for key, price in sorted(listed.items()):
        base = price.base if isinstance(price, TieredPrices) else price
        usd[key] = f"{base:f}"
        if key not in KEYS:
            notes.append(f"{key}: a rate has no bucket for this price; left out")
            continue
        bucket, units = KEYS[key]
        prices[bucket], exact = ncr_of_price(base, worth, units)
        if isinstance(price, TieredPrices):
            notes.append(f"{key}: dearer or cheaper for long contexts; the base price is proposed")
        if not exact:
            notes.append(f"{key}: rounded to a whole nano-credit per unit")
    for bucket in ("input", "output"):
        if bucket not in prices:
            prices[bucket] = 0
            notes.append(f"{bucket}: not listed; 0 is proposed")
    return Proposal(model=model, source=f"{provider.id}/{found.id}", prices=prices, usd=usd, notes=tuple(notes))
