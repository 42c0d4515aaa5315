"""Puts a trial of `weir simulate` together: plans from the books or from files, rates, and tenants with their traffic, generated or recorded.

The books are only read. What decides about requests is in `gateway.simulate`, which knows neither files nor a database.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import NamedTuple

import msgspec
from pydantic import ValidationError
from sqlmodel import Session

from billing.db import Database
from billing.errors import Invalid
from billing.grants.periods import month_span, period_at, zone
from billing.money import parse_rate_per_million
from billing.operations import plans, rates, tenants
from billing.plans import store as plan_store
from billing.plans.terms import Subscription
from billing.rates.card import RateCard
from billing.rating import Rate, complete, rate
from billing.tenants.tenant import check_slug
from billing.usage import store as usage_store
from billing.usage.event import UsageEvent
from gateway.config.forms import PlanForm
from gateway.config.load import ConfigError
from gateway.config.source import read_file
from gateway.config.words import UNKNOWN, meant, plain, shows_value
from gateway.simulate.offer import Offer, portions, split_share
from gateway.simulate.recorded import Read, replayed
from gateway.simulate.tenant import Tenant
from gateway.simulate.traffic import DAY_US, HOUR_US, Arrival, Profile, Shape, arrivals, mean_meter, profile

START_US = 1_799_020_800_000_000  # 2027-01-04, a Monday: a trial of made-up traffic has no date of its own
PLAN_FILES = (".yaml", ".yml")
MONTH_US = 28 * DAY_US


class Trial(NamedTuple):
    """Who is tried on what: `offers` are named by the tenants' `plan`; `arrivals` come in order of time, all within [start_us, end_us)."""

    offers: list[Offer]
    tenants: list[Tenant]
    arrivals: Iterator[Arrival]
    start_us: int
    end_us: int


def names_file(plan: str) -> bool:
    """Tell whether `--plan` names a file rather than a stored plan."""
    return split_share(plan)[0].endswith(PLAN_FILES)


def read_offers(wanted: Sequence[str], database: Database | None) -> list[Offer]:
    """Read the plans under trial, each from the books (NAME) or from a file (FILE.yaml), with shares. Raises `Invalid`, `NotFound`, `ConfigError`."""
    offers: list[Offer] = []
    for text in wanted:
        name, share = split_share(text)
        if names_file(text):
            terms = _plan_form(Path(name)).terms(check_slug("plan", Path(name).stem))
        else:
            assert database is not None, "the books are open where a plan is theirs"
            terms = plans.get_plan(database, name).terms
        if terms.plan in {offer.name for offer in offers}:
            raise Invalid("plan", f"plan: `{terms.plan}` is named twice; give a plan that is tried beside it another name")
        offers.append(Offer(plan=terms, share=Decimal(1) if share is None else share))
    return offers


def _plan_form(path: Path) -> PlanForm:
    file = read_file(path, {})
    try:
        return PlanForm(**file.values)
    except ValidationError as error:
        lines = []
        for fault in error.errors():
            where, name = file.where(fault["loc"]) or str(path), ".".join(str(part) for part in fault["loc"])
            if fault["type"] == UNKNOWN:
                lines.append(f"{where}: unknown key `{name}`{meant(name, list(PlanForm.model_fields))}")
            else:
                given = f", not {fault['input']!r:.80}" if shows_value(fault) else ""
                lines.append(f"{where}: {f'`{name}`: ' if name else ''}{plain(fault)}{given}")
        raise ConfigError("\n".join(lines)) from None


def read_rates(wanted: Iterable[str], database: Database | None) -> list[Rate]:
    """Return every rate of the books, and those written as MODEL=INPUT/OUTPUT in place of the model's own. Raises `Invalid`."""
    tried = {}
    for text in wanted:
        match = re.fullmatch(r"([!-~]+)=([^/]+)/([^/]+)", text)
        if match is None:
            raise Invalid("rate", f"rate: `{text}` is none; write credits per 1,000,000 tokens like llama-70b=0.5/1.5")
        prices = {"input": parse_rate_per_million(match[2], "rate"), "output": parse_rate_per_million(match[3], "rate")}
        tried[match[1]] = Rate(id=0, effective_us=0, free=False, prices=complete(prices), model=match[1])
    stored = [] if database is None else rates.list_rates(database)
    return [*tried.values(), *(found for found in stored if found.model not in tried)]


def choose_model(model: str | None, found: Sequence[Rate], now_us: int) -> str:
    """Return the model that generated requests ask for: the one named, or the only one with a rate. Raises `Invalid`."""
    card = RateCard(found)
    rated = list(dict.fromkeys(one.model for one in found if card.at(one.model, now_us) is not None))
    if model is None:
        if len(rated) == 1:
            return rated[0]
        known = f"rated are {', '.join(rated)}" if rated else "none has a rate; give one with --rate MODEL=INPUT/OUTPUT"
        raise Invalid("model", f"model: which model do the requests ask for? {known}")
    if model not in rated:
        raise Invalid("model", f"model: `{model}` has no rate; set it with `weir rate set`, or try one with --rate {model}=INPUT/OUTPUT")
    return model


def check_offers(offers: Iterable[Offer], card: RateCard, model: str | None, at_us: int) -> None:
    """Raise `Invalid` for a plan that could not serve what is asked: a model it does not allow, or a fallback without a rate."""
    for offer in offers:
        allowed, fallback = offer.plan.allowed_models, offer.plan.fallback_model
        if model is not None and allowed is not None and model not in allowed:
            raise Invalid("model", f"model: plan `{offer.name}` does not allow `{model}`, only {', '.join(sorted(allowed))}")
        if fallback is not None and card.at(fallback, at_us) is None:
            raise Invalid("rate", f"rate: plan `{offer.name}` falls back to `{fallback}`, which has no rate; try one with --rate {fallback}=INPUT/OUTPUT")


def generated(offers: list[Offer], card: RateCard, shapes: Mapping[str, Shape], zones: Sequence[str], *, count: int, hours: int, seed: int) -> Trial:
    """Make tenants with traffic of their own, each at a random place of its month; `shapes` says by plan what the traffic is like."""
    for timezone in zones:
        zone(timezone)
    draw, end_us = Random(f"{seed}:tenants"), START_US + hours * HOUR_US
    made: list[Tenant] = []
    habits: list[Profile] = []
    for plan, part in enumerate(portions([offer.share for offer in offers], count)):
        for _ in range(part):
            timezone = zones[len(made) % len(zones)]
            own = profile(shapes[offers[plan].name], timezone, START_US, draw)
            age_us = draw.randrange(MONTH_US)
            habits.append(own)
            made.append(
                Tenant(
                    f"tenant-{len(made) + 1:06d}",
                    offers[plan],
                    plan=plan,
                    anchor_us=START_US - age_us,
                    timezone=timezone,
                    start_us=START_US,
                    used_ncr=_used_ncr(own, card, age_us),
                )
            )
    return Trial(offers, made, arrivals(habits, START_US, end_us, Random(f"{seed}:arrivals")), START_US, end_us)


def _used_ncr(habits: Profile, card: RateCard, age_us: int) -> int:
    """Return what a tenant has used of its month at its own pace."""
    priced = card.at(habits.model, START_US)
    assert priced is not None  # `choose_model` has looked
    return round(rate(mean_meter(habits), priced.rate) * habits.per_day * age_us / DAY_US)


def recorded_span(text: str, now_us: int) -> tuple[int, int]:
    """Return [start_us, end_us) of `2026-11` (a month in UTC), `7d` or `12h` (the last so many). Raises `Invalid`."""
    if match := re.fullmatch(r"([1-9]\d{0,4})([dh])", text):
        return now_us - int(match[1]) * (DAY_US if match[2] == "d" else HOUR_US), now_us
    try:
        return month_span(text, "UTC")
    except Invalid:
        raise Invalid("recorded", f"recorded: `{text}` is no span; write a month like 2026-11, or the last days or hours like 7d or 12h") from None


def recorded(database: Database, offers: list[Offer], card: RateCard, span: tuple[int, int], *, asked: int, seed: int) -> Trial:
    """Take the books' tenants with the requests that they made, on `offers` by shares, or on their own plans where there are none."""
    start_us, end_us = span
    with database.read(long=True) as session:
        subscribed = {tenant.id: _subscription(session, tenant.id, start_us, end_us) for tenant in tenants.list_tenants(database)}
        chosen, own = (_by_share(offers, sorted(subscribed), seed), offers) if offers else _own_plans(session, subscribed)
        zones = {tenant.id: tenant.timezone for tenant in tenants.list_tenants(database)}
        anchors = {tenant_id: _anchor_us(subscribed[tenant_id], start_us) for tenant_id in chosen}
        lives = [(name, name, period_at(anchors[name], zones[name], start_us).start_us, start_us) for name in chosen]
        used = usage_store.cover_within(session, lives)
    if not chosen:
        raise Invalid("recorded", "recorded: no tenant was on a plan then; name plans to try with --plan")
    made = [
        Tenant(name, own[plan], plan=plan, anchor_us=anchors[name], timezone=zones[name], start_us=start_us, used_ncr=used[name])
        for name, plan in chosen.items()
    ]
    found = replayed(_reader(database), {tenant.name: index for index, tenant in enumerate(made)}, start_us, end_us, asked=asked)
    return Trial(own, made, _rated(found, card), start_us, end_us)


def _subscription(session: Session, tenant_id: str, start_us: int, end_us: int) -> Subscription | None:
    return next(iter(plan_store.subscriptions_within(session, tenant_id, start_us, end_us)), None)


def _anchor_us(subscription: Subscription | None, start_us: int) -> int:
    return start_us if subscription is None or subscription.anchor_us is None else subscription.anchor_us


def _by_share(offers: Sequence[Offer], names: list[str], seed: int) -> dict[str, int]:
    Random(f"{seed}:plans").shuffle(names)
    counts = portions([offer.share for offer in offers], len(names))
    return dict(zip(names, [plan for plan, count in enumerate(counts) for _ in range(count)], strict=True))


def _own_plans(session: Session, subscribed: Mapping[str, Subscription | None]) -> tuple[dict[str, int], list[Offer]]:
    """Return which plan each tenant had, and these plans, a version of one for itself."""
    wanted = sorted({(found.plan, found.version) for found in subscribed.values() if found is not None})
    several = {plan for plan, version in wanted if (plan, version) != next(one for one in wanted if one[0] == plan)}
    offers = []
    for plan, version in wanted:
        stored = plan_store.get_version(session, plan, version)
        assert stored is not None, "a subscription names a version that exists: a foreign key"
        offers.append(Offer(plan=msgspec.structs.replace(stored.terms, plan=f"{plan} v{version}" if plan in several else plan)))
    places = {one: index for index, one in enumerate(wanted)}
    return {name: places[found.plan, found.version] for name, found in subscribed.items() if found is not None}, offers


def _reader(database: Database) -> Read:
    """Return what reads a span's events, each in a read of its own, so that none is open while the trial computes."""

    def read(start_us: int, end_us: int) -> list[UsageEvent]:
        with database.read(long=True) as session:
            return [event for event, _covered_ncr in usage_store.events_between(session, start_us, end_us)]

    return read


def _rated(found: Iterable[Arrival], card: RateCard) -> Iterator[Arrival]:
    for arrival in found:
        if card.at(arrival.model, arrival.at_us) is None:
            raise Invalid("rate", f"rate: the recorded model `{arrival.model}` has no rate; try one with --rate {arrival.model}=INPUT/OUTPUT")
        yield arrival
