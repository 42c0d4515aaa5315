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
    fast_concurrency: int | None = Field(None, ge=1)
    slow_concurrency: int = Field(2, ge=1)
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
            rolls_over=bool(self.rollover_cap and parse_credits(self.rollover_cap)) and not parse_credits(self.credits),
        ):
            raise ValueError(f"{fault[0]} {fault[1]}")
        return self

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
            slow_concurrency=self.slow_concurrency,
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
