"""Rates and costs as people write them: prices in decimal text, checked field by field, turned into the books' integers.

The same forms stand behind `seed:` in weir.yaml, the files of `weir rate propose`, the admin API and the command line.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from billing.meter import BUCKETS, TOKENS_MAX
from billing.money import format_credits, format_pico, format_rate_per_million, parse_credits, parse_pico, parse_rate_per_million
from billing.rates.version import Book, Change
from billing.rating import BASE_TIERS, Variant, when
from gateway.config.forms import Credits, Currency, Form, PerMillion, PublicName, Text, checked_by

EACH = ("images", "seconds", "requests", "searches")  # priced by the piece; the other buckets by the million tokens
PER_MILLION = 1_000_000

MoneyPerMillion = Annotated[
    Text,
    AfterValidator(checked_by(lambda text: parse_pico(text, PER_MILLION))),
    Field(examples=["0.27"], description="major currency units per 1,000,000, decimal text"),
]
MoneyEach = Annotated[Text, AfterValidator(checked_by(parse_pico)), Field(examples=["0.04"], description="major currency units each, decimal text")]
_NO_PRICES = "a free model has no prices; give prices or `free`, not both"
_HALF = "names `input` and `output` (0 where it costs nothing)"


class _Conditions(Form):
    """Where other prices apply. All conditions must hold."""

    input_over: int | None = Field(None, ge=1, le=TOKENS_MAX, description="more tokens of input than this, cached ones too: the whole request")
    service_tier: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$", examples=["flex"], description="the service tier asked for and served")
    lane: Literal["fast", "slow"] | None = None

    @field_validator("service_tier")
    @classmethod
    def _is_no_base(cls, tier: str | None) -> str | None:
        if tier in BASE_TIERS:
            raise ValueError(f"`{tier}` is what a request gets when it asks for no tier: these are the model's own prices")
        return tier

    @model_validator(mode="after")
    def _says_when(self) -> "_Conditions":
        if self.input_over is None and self.service_tier is None and self.lane is None:
            raise ValueError("a variant says when it applies: input_over, service_tier or lane")
        return self


class _Credits(Form):
    input: PerMillion | None = None
    cache_read: PerMillion | None = None
    cache_write_5m: PerMillion | None = None
    cache_write_1h: PerMillion | None = None
    audio_in: PerMillion | None = None
    image_in: PerMillion | None = None
    output: PerMillion | None = None
    audio_out: PerMillion | None = None
    reasoning: PerMillion | None = None
    images: Credits | None = None
    seconds: Credits | None = None
    requests: Credits | None = None
    searches: Credits | None = None

    def prices(self) -> dict[str, int]:
        """Return ncr per unit for each bucket that has a price here."""
        return {bucket: parse_credits(text) if bucket in EACH else parse_rate_per_million(text) for bucket, text in _given(self).items()}


class _Money(Form):
    input: MoneyPerMillion | None = None
    cache_read: MoneyPerMillion | None = None
    cache_write_5m: MoneyPerMillion | None = None
    cache_write_1h: MoneyPerMillion | None = None
    audio_in: MoneyPerMillion | None = None
    image_in: MoneyPerMillion | None = None
    output: MoneyPerMillion | None = None
    audio_out: MoneyPerMillion | None = None
    reasoning: MoneyPerMillion | None = None
    images: MoneyEach | None = None
    seconds: MoneyEach | None = None
    requests: MoneyEach | None = None
    searches: MoneyEach | None = None

    def prices(self) -> dict[str, int]:
        """Return pico-units of the currency per unit for each bucket that has a price here."""
        return {bucket: parse_pico(text, 1 if bucket in EACH else PER_MILLION) for bucket, text in _given(self).items()}


class RateVariantForm(_Credits, _Conditions):
    """Other prices under a condition. A kind left out costs what it is a kind of here; reasoning, images, requests ... cost what they do otherwise."""

    @model_validator(mode="after")
    def _prices_both(self) -> "RateVariantForm":
        _whole(self.input, self.output, "a variant")
        return self

    def variant(self) -> Variant:
        """Return the books' own form."""
        return Variant(input_over=self.input_over, service_tier=self.service_tier, lane=self.lane, prices=self.prices())


class CostVariantForm(_Money, _Conditions):
    """Other prices under a condition, in the cost book's currency; a kind left out as in a rate's variant."""

    @model_validator(mode="after")
    def _prices_both(self) -> "CostVariantForm":
        _whole(self.input, self.output, "a variant")
        return self

    def variant(self) -> Variant:
        """Return the books' own form."""
        return Variant(input_over=self.input_over, service_tier=self.service_tier, lane=self.lane, prices=self.prices())


class RateForm(_Credits):
    """What a model costs: credits per 1,000,000 tokens of a kind, and credits each for what is counted by the piece.

    A kind left out costs what it is a kind of: cached, written and audio input cost `input`, audio output costs `output`.
    """

    free: bool = Field(False, description="the model costs nothing, on purpose")
    variants: list[RateVariantForm] = Field([], max_length=32, description="other prices for long contexts, a service tier, a lane")

    @model_validator(mode="after")
    def _prices_something(self) -> "RateForm":
        if self.free and (self.prices() or self.variants):
            raise ValueError(_NO_PRICES)
        if not self.free:
            _whole(self.input, self.output, "a rate", ", or says that the model is `free`")
        return self

    def change(self, model: str) -> Change:
        """Return the change that gives a model this rate."""
        return Change(model=model, free=self.free, prices=self.prices(), variants=tuple(one.variant() for one in self.variants))


class CostForm(_Money):
    """What a backend charges us for a model, in money: per 1,000,000 tokens of a kind, and each for what is counted by the piece."""

    currency: Currency
    free: bool = Field(False, description="it charges nothing by use, on purpose")
    variants: list[CostVariantForm] = Field([], max_length=32, description="other prices for long contexts, a service tier, a lane")

    @model_validator(mode="after")
    def _prices_something(self) -> "CostForm":
        if self.free and (self.prices() or self.variants):
            raise ValueError(_NO_PRICES)
        if not self.free:
            _whole(self.input, self.output, "a cost", ", or says that it is `free`")
        return self

    def change(self, backend: str, model: str) -> Change:
        """Return the change that gives a backend's model this cost."""
        variants = tuple(one.variant() for one in self.variants)
        return Change(backend=backend, model=model, currency=self.currency, free=self.free, prices=self.prices(), variants=variants)


class ProposalForm(Form):
    """Prices that are to apply together: `rates` by model, or `costs` by backend and the model's name there. None instead of prices: no price any more."""

    rates: dict[PublicName, RateForm | None] = Field({}, description="by model")
    costs: dict[str, dict[str, CostForm | None]] = Field({}, description="by backend, and the model's name there")

    def changes(self) -> list[Change]:
        """Return the books' own form of them."""
        rates = [Change(model=model, ended=True) if form is None else form.change(model) for model, form in self.rates.items()]
        costs = [
            Change(backend=backend, model=model, ended=True) if form is None else form.change(backend, model)
            for backend, models in self.costs.items()
            for model, form in models.items()
        ]
        return rates + costs


def rate_figures(prices: Mapping[str, int]) -> dict[str, str]:
    """Write prices (ncr per unit) back as `RateForm` has them."""
    return {bucket: price_text("rates", bucket, ncr) for bucket, ncr in prices.items()}


def cost_figures(prices: Mapping[str, int]) -> dict[str, str]:
    """Write prices (pico-units per unit) back as `CostForm` has them."""
    return {bucket: price_text("costs", bucket, pico) for bucket, pico in prices.items()}


def price_text(book: Book, bucket: str, price: int) -> str:
    """Write one price of a book as people write it: per 1,000,000 tokens, or each."""
    if book == "rates":
        return format_credits(price) if bucket in EACH else format_rate_per_million(price)
    return format_pico(price, 1 if bucket in EACH else PER_MILLION)


def variant_figures(book: Book, variants: tuple[Variant, ...]) -> list[dict[str, Any]]:
    """Write variants back as the forms have them, and in words under `when`."""
    return [
        {
            "when": when(variant),
            "input_over": variant.input_over,
            "service_tier": variant.service_tier,
            "lane": variant.lane,
            "prices": {bucket: price_text(book, bucket, price) for bucket, price in variant.prices.items()},
        }
        for variant in variants
    ]


def _given(form: Form) -> dict[str, str]:
    return {bucket: text for bucket in BUCKETS if (text := getattr(form, bucket)) is not None}


def _whole(input: str | None, output: str | None, what: str, otherwise: str = "") -> None:
    if input is None or output is None:
        raise ValueError(f"{what} {_HALF}{otherwise}")
