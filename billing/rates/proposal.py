"""Rates and costs proposed from public prices, for an admin to accept or change; nothing here writes, and rating never reads it.

The prices are those packaged with genai-prices, in USD per 1,000,000 tokens; nothing is downloaded. Prices by context length and by
service tier become variants. What a public price list says and we cannot (by the hour, batch, per page) is named, not hidden.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from billing.errors import Invalid
from billing.money import ncr_of_price, parse_price, pico_of_price
from billing.rating import BASE_TIERS, Variant

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, TieredPrices

    Listed = dict[str, Decimal | TieredPrices]

Convert = Callable[[Decimal, int], tuple[int, bool]]  # a price for so many units -> our integer per unit, and whether it is exact
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


class Route(NamedTuple):
    """Where we buy: a backend, the model's name there, and the base URL, by which the price list knows the seller; None: by the model alone."""

    backend: str
    model: str
    url: str | None = None


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """What a model could cost. `prices` in the unit asked for (ncr, or pico-units of USD) per unit, fit for a `Change`, and so its `variants`.

    Empty when the price list has not the model, or no price for its input or its output: what is not listed is not proposed as 0.
    `usd` is the public price as it is listed, by its own key; `notes` say what to know before accepting.
    """

    model: str
    backend: str = ""
    source: str | None
    prices: dict[str, int]
    variants: tuple[Variant, ...] = ()
    usd: dict[str, str]
    notes: tuple[str, ...]


def propose(models: Iterable[str], *, credits_per_usd: str, now_us: int) -> list[Proposal]:
    """Propose a rate for each model at the public prices of the day of `now_us` (UTC), one USD being worth `credits_per_usd` credits.

    Where the price depends on the hour, the dearest of the day is proposed for each bucket, whenever this is asked. Raises `Invalid`.
    """
    worth = parse_price(credits_per_usd, "credits_per_usd")
    if worth == 0:
        raise Invalid("credits_per_usd", "credits_per_usd: at 0 everything would be free; write how many credits one USD buys, like 1000")
    return [_propose(Route("", model), lambda price, units: ncr_of_price(price, worth, units), "nano-credit", now_us) for model in models]


def propose_costs(routes: Iterable[Route], *, now_us: int) -> list[Proposal]:
    """Propose a cost in USD for each route, in pico-units, at the public prices of the day of `now_us` (UTC)."""
    return [_propose(route, pico_of_price, "pico-dollar", now_us) for route in routes]


def _propose(route: Route, convert: Convert, unit: str, now_us: int) -> Proposal:
    from genai_prices.data_snapshot import get_snapshot  # half a second and tens of MB: only when a proposal is asked for

    try:
        provider, found = get_snapshot().find_provider_model(route.model, None, None, route.url)
    except LookupError:
        note = "not in the public price list; set it by hand"
        return Proposal(model=route.model, backend=route.backend, source=None, prices={}, usd={}, notes=(note,))
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=now_us)
    listed, notes = _of_the_day(found, at)
    prices, variants, wrong = _in_units(listed, None, convert, unit)
    tiers, left_out = _service_tiers(found, at)
    for tier, others in tiers.items():
        own, longer, _ = _in_units({**listed, **others}, tier, convert, unit)
        variants += [Variant(service_tier=tier, prices=own), *longer]
    notes += [*wrong, *left_out]
    missing = [bucket for bucket in ("input", "output") if bucket not in prices]
    notes += [f"{bucket}: not listed, so nothing is proposed; set it by hand, 0 where it costs nothing" for bucket in missing]
    return Proposal(
        model=route.model,
        backend=route.backend,
        source=f"{provider.id}/{found.id}",
        prices={} if missing else prices,
        variants=() if missing else tuple(variants),
        usd={key: f"{_base(price):f}" for key, price in sorted(listed.items())},
        notes=tuple(notes),
    )


def _in_units(listed: "Listed", tier: str | None, convert: Convert, unit: str) -> tuple[dict[str, int], list[Variant], list[str]]:
    """Return listed prices by our buckets: the base, a variant for each length at which one changes, and notes."""
    from genai_prices.types import TieredPrices

    overs = sorted({step.start for price in listed.values() if isinstance(price, TieredPrices) for step in price.tiers})
    notes: list[str] = []
    vectors: dict[int, dict[str, int]] = {}
    for over in (0, *(over for over in overs if over > 0)):
        vectors[over] = {}
        for key, price in sorted(listed.items()):
            if key not in KEYS:
                notes.append(f"{key}: there is no bucket for this price; left out")
                continue
            bucket, units = KEYS[key]
            vectors[over][bucket], exact = convert(_from(price, over), units)
            if not exact:
                notes.append(f"{key}: rounded to a whole {unit} per unit")
    base = vectors.pop(0)
    return base, [Variant(input_over=over, service_tier=tier, prices=prices) for over, prices in vectors.items()], list(dict.fromkeys(notes))


def _service_tiers(found: "ModelInfo", at: datetime) -> "tuple[dict[str, Listed], list[str]]":
    """Return the prices that differ in a service tier, by its name, and notes on those that a variant cannot say."""
    tiers: dict[str, Listed] = {}
    notes = []
    for variant in getattr(found, "price_variants", None) or ():
        tier = variant.when.get("service_tier")
        if variant.constraint is not None and not variant.constraint.active(at):
            continue
        if tier is None or len(variant.when) > 1:
            notes.append(f"{', '.join(f'{key} {value}' for key, value in sorted(variant.when.items()))}: has prices of its own; left out")
        elif tier not in BASE_TIERS:
            own = {key: price for key, price in vars(variant.prices).items() if price is not None}
            tiers[tier] = {**own, **tiers.get(tier, {})}
    return tiers, notes


def _base(price: "Decimal | TieredPrices") -> Decimal:
    return price if isinstance(price, Decimal) else price.base


def _from(price: "Decimal | TieredPrices", over: int) -> Decimal:
    """Return what a token costs in a request with more than `over` tokens of input."""
    if isinstance(price, Decimal):
        return price
    reached = [step.price for step in price.tiers if 0 < step.start <= over]
    return reached[-1] if reached else price.base


def _of_the_day(found: "ModelInfo", at: datetime) -> "tuple[Listed, list[str]]":
    """Return the dearest price listed for each key on a day, and a note if the hour matters."""
    from genai_prices.types import TimeOfDateConstraint

    def listed(moment: datetime) -> "Listed":
        return {key: price for key, price in vars(found.get_prices(moment)).items() if price is not None}

    conditions = [one.constraint for one in found.prices] if isinstance(found.prices, list) else []
    hours = [hour for one in conditions if isinstance(one, TimeOfDateConstraint) for hour in (one.start_time, one.end_time)]
    if not hours:
        return listed(at), []
    utc = (hour if hour.tzinfo is not None else hour.replace(tzinfo=UTC) for hour in hours)
    begins = sorted({datetime.combine(at.date(), hour).astimezone(UTC).time() for hour in utc})  # each span ends where the next begins
    spans = [listed(datetime.combine(at.date(), begin, UTC)) for begin in begins]
    dearest = {key: max((span[key] for span in spans if key in span), key=_base) for key in sorted(set().union(*spans))}
    cheaper = [any(_base(price) < _base(dearest[key]) for key, price in span.items()) for span in spans]
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
