"""Rates proposed from public prices, for an admin to accept or change; nothing here writes, and rating never reads it.

The prices are those packaged with genai-prices, in USD per 1,000,000 tokens; nothing is downloaded. What a public price list says and a
rate cannot say (tiers by context length, prices by the hour of the day, per page or character) is named, not hidden.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from billing.errors import Invalid
from billing.money import ncr_of_price, parse_price

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, TieredPrices

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
    """What a model could cost. `prices` in ncr per unit, fit for `set_rate`.

    Empty when the price list has not the model, or no price for its input or its output: what is not listed is not proposed as 0.
    `usd` is the public price as it is listed, by its own key; `notes` say what to know before accepting.
    """

    model: str
    source: str | None
    prices: dict[str, int]
    usd: dict[str, str]
    notes: tuple[str, ...]


def propose(models: Iterable[str], *, credits_per_usd: str, now_us: int) -> list[Proposal]:
    """Propose a rate for each model at the public prices of the day of `now_us` (UTC), one USD being worth `credits_per_usd` credits.

    Where the price depends on the hour, the dearest of the day is proposed for each bucket, whenever this is asked. Raises `Invalid`.
    """
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
    listed, notes = _of_the_day(found, at)
    prices: dict[str, int] = {}
    usd: dict[str, str] = {}
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
    missing = [bucket for bucket in ("input", "output") if bucket not in prices]
    notes += [f"{bucket}: not listed, so nothing is proposed; set the rate by hand, 0 where it costs nothing" for bucket in missing]
    return Proposal(model=model, source=f"{provider.id}/{found.id}", prices={} if missing else prices, usd=usd, notes=tuple(notes))


def _of_the_day(found: "ModelInfo", at: datetime) -> "tuple[dict[str, Decimal | TieredPrices], list[str]]":
    """Return the dearest price listed for each key on a day, and a note if the hour matters."""
    from genai_prices.types import TieredPrices, TimeOfDateConstraint

    def base(price: Decimal | TieredPrices) -> Decimal:
        return price.base if isinstance(price, TieredPrices) else price

    def listed(moment: datetime) -> dict[str, Decimal | TieredPrices]:
        return {key: price for key, price in vars(found.get_prices(moment)).items() if price is not None}

    conditions = [one.constraint for one in found.prices] if isinstance(found.prices, list) else []
    hours = [hour for one in conditions if isinstance(one, TimeOfDateConstraint) for hour in (one.start_time, one.end_time)]
    if not hours:
        return listed(at), []
    utc = (hour if hour.tzinfo is not None else hour.replace(tzinfo=UTC) for hour in hours)
    begins = sorted({datetime.combine(at.date(), hour).astimezone(UTC).time() for hour in utc})  # each span ends where the next begins
    spans = [listed(datetime.combine(at.date(), begin, UTC)) for begin in begins]
    dearest = {key: max((span[key] for span in spans if key in span), key=base) for key in sorted(set().union(*spans))}
    cheaper = [any(base(price) < base(dearest[key]) for key, price in span.items()) for span in spans]
    return dearest, [f"cheaper {_when(begins, cheaper)} UTC; the dearer price is proposed"] if any(cheaper) else []


def _when(begins: list[time], cheaper: list[bool]) -> str:
    """Say at which hours of the day spans that are marked lie, neighbours made one."""
    count = len(begins)
    said = []
    for number, begin in enumerate(begins):
        if cheaper[number] and not cheaper[number - 1]:
            end = next(begins[(number + more) % count] for more in range(1, count) if not cheaper[(number + more) % count])
            said.append(f"from {begin:%H:%M} to {end:%H:%M}")
    return " and ".join(said) or "for one thing or another at every hour,"
