"""Plans and tenants as people write them (rates: `prices.py`): amounts in decimal text, checked field by field, turned into the books' integers.

The same forms stand behind `seed:` in weir.yaml, the admin API and the command line, so that all three accept and refuse alike.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from billing.errors import Invalid
from billing.money import exponent, format_credits, format_money, parse_credits, parse_money, parse_price, parse_rate_per_million
from billing.plans.terms import PlanTerms, incoherent
from billing.tenants.tenant import check_slug

V = TypeVar("V")

SLUG = r"^[a-z0-9][a-z0-9-]{0,62}$"
MODEL = r"^[!-~]{1,256}$"
SLOW_SEATS = 2


def _text(value: object) -> object:
    """Let a whole number be written without quotes; one with a decimal point comes as text, or it has lost digits already."""
    if isinstance(value, float):
        raise ValueError('an amount is decimal text: write it in quotes, like "12.5"')
    return str(value) if type(value) is int else value


def checked_by(parse: Callable[[str], Any]) -> Callable[[str], str]:
    """Make a validator that keeps the text and says what `parse` finds wrong with it."""

    def check(text: str) -> str:
        try:
            parse(text)
        except Invalid as error:
            raise ValueError(str(error).partition(": ")[2] or str(error)) from None
        return text.strip()

    return check


def _not_negative(text: str) -> int:
    if (ncr := parse_credits(text)) < 0:
        raise Invalid("credits", f"credits: {text} must be 0 or more")
    return ncr


def _not_negative_money(text: str, currency: str) -> None:
    if parse_money(text, currency) < 0:
        raise Invalid("amount", f"amount: {text} must be 0 or more")


def _model_name(text: str) -> None:
    if re.fullmatch(MODEL, text) is None:
        raise Invalid("model", f"model: `{text[:80]}` is no model's name; 1 to 256 visible ASCII characters without spaces")


def _positive(text: str) -> int:
    if (ncr := parse_credits(text)) <= 0:
        raise Invalid("credits", f"credits: {text} must be more than 0")
    return ncr


Slug = Annotated[
    str,
    AfterValidator(checked_by(lambda text: check_slug("id", text))),
    Field(json_schema_extra={"pattern": SLUG}, description="lower-case letters, digits and dashes"),
]
PublicName = Annotated[str, AfterValidator(checked_by(_model_name)), Field(json_schema_extra={"pattern": MODEL}, description="a model's public name")]
Text = Annotated[str, BeforeValidator(_text)]
Credits = Annotated[Text, AfterValidator(checked_by(_not_negative)), Field(examples=["1000"], description="credits, decimal text")]
PositiveCredits = Annotated[Text, AfterValidator(checked_by(_positive)), Field(examples=["500"], description="credits, decimal text")]
PerMillion = Annotated[Text, AfterValidator(checked_by(parse_rate_per_million)), Field(examples=["0.5"], description="credits per 1,000,000, decimal text")]
Price = Annotated[Text, AfterValidator(checked_by(parse_price)), Field(examples=["0.01"], description="major currency units, decimal text")]


Currency = Annotated[str, AfterValidator(checked_by(exponent)), Field(examples=["EUR"], description="ISO 4217")]


class Form(BaseModel):
    """Frozen; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PlanForm(Form):
    """A plan's terms. `credits` are granted at the start of every month of the subscription, and end with it, but for what rolls over."""

    credits: Credits
    name: str = Field("", max_length=200)
    seat_credits: Credits = Field("0", description="beside `credits`, to each active key every month, usable by it alone and used first")
    rollover_cap: Credits | None = Field(None, description="of what is left of `credits`, at most so much stays for one more month")
    activate_on_first_use: bool = Field(False, description="a new tenant's months begin with its first request")
    on_exhausted: Literal["slow", "overage", "block", "fallback"] = Field(
        "slow", description="past the credits: served slowly, served and invoiced, refused, or served by `fallback_model`"
    )
    fallback_model: PublicName | None = Field(None, description="with on_exhausted fallback: the model that serves instead")
    slow_daily_cap: Credits | None = Field(None, description="at most so many credits' worth a day in the slow lane")
    weight: int = Field(1, ge=1, le=1000, description="share of a busy backend, against other tenants")
    slow_weight: int = Field(1, ge=1, le=1000, description="the same without credits; at most `weight`")
    glide_percent: int = Field(10, ge=0, le=100, description="over the last so many percent of the credits `weight` falls to `slow_weight`")
    fast_concurrency: int | None = Field(None, ge=1, description="requests at once in the fast lane; absent: any number")
    slow_concurrency: int | None = Field(
        None, ge=1, description="the same in the slow lane, and more while nobody else wants the slots; absent: 2, or `fast_concurrency` if that is less"
    )
    slow_delay_ms: int = Field(0, ge=0, le=600_000, description="paced: how long each request is held back in the slow lane, also where all is idle")
    slow_tokens_per_second: int | None = Field(
        None, ge=1, le=100_000, description="how fast the text of a stream comes in the slow lane; absent: as it is made"
    )
    slow_priority: int = Field(
        10, ge=1, le=1_000_000, description="in the slow lane, place in an engine that schedules by priority: lower is earlier, fast is 0"
    )
    slow_flex: bool = Field(True, description="the slow lane buys a vendor's cheap, slow tier where it sells one")
    spill_after_ms: int | None = Field(
        None, ge=0, le=600_000, description="a fast request that has waited so long may go to the model's next backend; absent: it waits, slow ones always do"
    )
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    allowed_models: list[PublicName] | None = Field(None, description="absent: every model")
    on_database_loss: Literal["slow", "closed"] = Field(
        "slow", description="while the books are away and what was set aside is used up: served slowly, or refused"
    )
    currency: Currency = "USD"
    monthly_fee: Text = Field("0", description="major currency units, decimal text")
    credit_price: Price | None = Field(None, description="a credit's price past the allowance, in major currency units")

    @field_validator("monthly_fee")
    @classmethod
    def _fits_the_currency(cls, fee: str, info: ValidationInfo) -> str:
        if "currency" in info.data:  # a wrong one is said already
            checked_by(lambda text: _not_negative_money(text, info.data["currency"]))(fee)
        return fee

    @model_validator(mode="after")
    def _adds_up(self) -> "PlanForm":
        if self.on_exhausted == "overage" and self.credit_price is None:
            raise ValueError("credit_price is missing: on_exhausted overage invoices every credit past the allowance, at this price")
        if fault := incoherent(
            on_exhausted=self.on_exhausted,
            fallback_model=self.fallback_model,
            allowed_models=None if self.allowed_models is None else frozenset(self.allowed_models),
            weights=(self.weight, self.slow_weight),
            seats=(self.fast_concurrency, self._slow_seats()),
            rolls_over=bool(self.rollover_cap and parse_credits(self.rollover_cap)) and not parse_credits(self.credits),
        ):
            raise ValueError(f"{fault[0]} {fault[1]}")
        return self

    def _slow_seats(self) -> int:
        return min(SLOW_SEATS, self.fast_concurrency or SLOW_SEATS) if self.slow_concurrency is None else self.slow_concurrency

    def terms(self, plan: str) -> PlanTerms:
        """Return the books' own form of these terms."""
        return PlanTerms(
            plan=plan,
            name=self.name or plan,
            allowance_ncr=parse_credits(self.credits),
            seat_allowance_ncr=parse_credits(self.seat_credits),
            rollover_cap_ncr=None if self.rollover_cap is None else parse_credits(self.rollover_cap),
            activate_on_first_use=self.activate_on_first_use,
            on_exhausted=self.on_exhausted,
            fallback_model=self.fallback_model,
            slow_daily_cap_ncr=None if self.slow_daily_cap is None else parse_credits(self.slow_daily_cap),
            weight=self.weight,
            slow_weight=self.slow_weight,
            glide_percent=self.glide_percent,
            fast_concurrency=self.fast_concurrency,
            slow_concurrency=self._slow_seats(),
            slow_delay_ms=self.slow_delay_ms,
            slow_tokens_per_second=self.slow_tokens_per_second,
            slow_priority=self.slow_priority,
            slow_flex=self.slow_flex,
            spill_after_ms=self.spill_after_ms,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            allowed_models=None if self.allowed_models is None else frozenset(self.allowed_models),
            on_database_loss=self.on_database_loss,
            monthly_fee_minor=parse_money(self.monthly_fee, self.currency),
            currency=self.currency,
            credit_price=self.credit_price,
        )


def plan_figures(terms: PlanTerms) -> dict[str, Any]:
    """Write terms back as `PlanForm` has them."""
    return {
        "credits": format_credits(terms.allowance_ncr),
        "name": terms.name,
        "seat_credits": format_credits(terms.seat_allowance_ncr),
        "rollover_cap": None if terms.rollover_cap_ncr is None else format_credits(terms.rollover_cap_ncr),
        "activate_on_first_use": terms.activate_on_first_use,
        "on_exhausted": terms.on_exhausted,
        "fallback_model": terms.fallback_model,
        "slow_daily_cap": None if terms.slow_daily_cap_ncr is None else format_credits(terms.slow_daily_cap_ncr),
        "weight": terms.weight,
        "slow_weight": terms.slow_weight,
        "glide_percent": terms.glide_percent,
        "fast_concurrency": terms.fast_concurrency,
        "slow_concurrency": terms.slow_concurrency,
        "slow_delay_ms": terms.slow_delay_ms,
        "slow_tokens_per_second": terms.slow_tokens_per_second,
        "slow_priority": terms.slow_priority,
        "slow_flex": terms.slow_flex,
        "spill_after_ms": terms.spill_after_ms,
        "requests_per_minute": terms.requests_per_minute,
        "tokens_per_minute": terms.tokens_per_minute,
        "allowed_models": None if terms.allowed_models is None else sorted(terms.allowed_models),
        "on_database_loss": terms.on_database_loss,
        "monthly_fee": format_money(terms.monthly_fee_minor, terms.currency),
        "currency": terms.currency,
        "credit_price": terms.credit_price,
    }


class TenantForm(Form):
    """A tenant to be: its plan, and how it is invoiced."""

    plan: Slug
    name: str = Field("", max_length=200)
    currency: Currency = "USD"
    timezone: str = Field("UTC", description="whose calendar its days and months follow, like Europe/Berlin")
