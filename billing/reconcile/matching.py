"""Puts a bill and the books together: every unit and every pico-unit of either side is in exactly one item by day, and in one of the period; pure."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Literal, NamedTuple

import msgspec

from billing.errors import Invalid
from billing.money import parse_price
from billing.reconcile.bill import TOTAL, Bill, Line, Measure
from billing.reconcile.books import Ours

PERIOD_US = -1  # in place of a day: the whole period
State = Literal["matched", "provider_only", "gateway_only", "mismatch"]
STATES: tuple[State, ...] = ("matched", "provider_only", "gateway_only", "mismatch")


class Tolerance(msgspec.Struct, frozen=True):
    """By how much of the bill's figure ours may differ and still match, in percent."""

    tokens: Decimal
    cost: Decimal


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One place with both figures: units or pico-units. `unreported` requests there had no usage from the upstream; `without_cost` units no cost."""

    day_us: int
    model: str
    bucket: str
    measure: Measure
    state: State
    provider: int
    gateway: int
    unreported: int
    without_cost: int

    @property
    def difference(self) -> int:
        """What the provider says over what we say."""
        return self.provider - self.gateway


class _Place(NamedTuple):
    day_us: int
    model: str
    bucket: str
    measure: Measure


def parse_tolerance(text: str, field: str) -> Decimal:
    """Read a tolerance in percent. Raises `Invalid`."""
    percent = parse_price(text, field)
    if percent > 100:
        raise Invalid(field, f"{field}: `{text}` is no tolerance; percent, from 0 to 100")
    return percent


def match(bill: Bill, aliases: Mapping[str, str], ours: Iterable[Ours], tolerance: Tolerance, *, unreported: Mapping[tuple[int, str], int]) -> list[Item]:
    """Return the items by day, then those of the whole period (`PERIOD_US`), in order. What the bill does not measure is left out.

    `unreported`: requests without reported usage by (day, our model).
    """
    lines = [msgspec.structs.replace(line, model=aliases.get(line.model, line.model)) for line in bill.lines]
    fold = _fold(lines)
    sides: defaultdict[_Place, list[int]] = defaultdict(lambda: [0, 0, 0])  # provider, gateway, without cost
    for line in lines:
        for place in _places(line, fold):
            sides[place][0] += line.amount
    for own in ours:
        if own.measure in bill.measures:
            for place in _places(own, fold):
                sides[place][1] += own.amount
                sides[place][2] += own.without_cost
    guessed: defaultdict[tuple[int, str], int] = defaultdict(int)
    for (day_us, model), count in unreported.items():
        for key in ((day_us, model), (day_us, ""), (PERIOD_US, model), (PERIOD_US, "")):
            guessed[key] += count
    items = [_item(place, figures, tolerance, guessed.get(place[:2], 0)) for place, figures in sides.items() if any(figures)]
    return sorted(items, key=lambda item: (item.day_us == PERIOD_US, item.day_us, item.model, item.bucket, item.measure))


def residue(items: Iterable[Item]) -> dict[int, int]:
    """Return what the provider charged over the books by day, in pico-units, where that is not 0."""
    days: defaultdict[int, int] = defaultdict(int)
    for item in items:
        if item.measure == "cost" and item.day_us != PERIOD_US:
            days[item.day_us] += item.difference
    return {day_us: pico for day_us, pico in days.items() if pico}


def _fold(lines: Iterable[Line]) -> Callable[[str, str, Measure], tuple[str, str]]:
    """Return where a model's bucket is compared: as finely as the bill tells it anywhere."""
    listed = list(lines)
    nameless = {(line.measure, line.bucket) for line in listed if not line.model}
    whole = {(line.measure, line.model) for line in listed if line.bucket == TOTAL}

    def fold(model: str, bucket: str, measure: Measure) -> tuple[str, str]:
        if (measure, "") in whole:
            return "", TOTAL
        if (measure, bucket) in nameless:
            return "", bucket
        return (model, TOTAL) if (measure, model) in whole else (model, bucket)

    return fold


def _places(one: Line | Ours, fold: Callable[[str, str, Measure], tuple[str, str]]) -> tuple[_Place, _Place]:
    model, bucket = fold(one.model, one.bucket, one.measure)
    return _Place(one.day_us, model, bucket, one.measure), _Place(PERIOD_US, model, bucket, one.measure)


def _item(place: _Place, figures: list[int], tolerance: Tolerance, unreported: int) -> Item:
    provider, gateway, without_cost = figures
    percent = tolerance.cost if place.measure == "cost" else tolerance.tokens
    if not gateway and not without_cost:
        state: State = "provider_only"
    elif not provider:
        state = "gateway_only"
    else:
        near = abs(provider - gateway) * 100 <= Fraction(percent) * abs(provider)
        state = "matched" if near and not without_cost else "mismatch"
    return Item(**place._asdict(), state=state, provider=provider, gateway=gateway, unreported=unreported, without_cost=without_cost)
