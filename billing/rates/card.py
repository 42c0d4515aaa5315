"""The rates of all models in memory, and what a request may cost at most; pure.

The bound takes the dearest prices that a request can still meet: every context tier that its longest possible prompt reaches, since
a tier above a cliff may be the cheaper one, and the base beside the service tier asked for, since the upstream may fall back to it.
"""

from collections.abc import Iterable
from typing import NamedTuple

from billing.meter import INPUT_BUCKETS
from billing.rates.timeline import Timeline
from billing.rating import LANES, Rate, prices_at

_TOKENS_ENDLESS = 2**62


class _Step(NamedTuple):
    """The worst prices for a request whose input is longer than `over` and at most `upto` tokens, in ncr."""

    over: int
    upto: int
    input_ncr: int
    output_ncr: int
    request_ncr: int


class Priced:
    """A rate with its worst prices worked out: `input_ncr` and `output_ncr` bound what one token of either can cost at the base."""

    __slots__ = ("_steps", "input_ncr", "output_ncr", "rate", "request_ncr", "service_tiers")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.input_ncr, self.output_ncr, self.request_ncr = _worst({} if rate.free else rate.prices)
        self.service_tiers = frozenset(variant.service_tier for variant in rate.variants if variant.service_tier is not None)
        self._steps = _steps(rate, self.service_tiers) if rate.variants else None

    def bound(self, input_tokens: int, output_tokens: int, *, lane: str | None = None, service_tier: str | None = None) -> int:
        """Return the most, in ncr, that a request within these lengths can be charged.

        `lane` None: in either. `service_tier`: the one asked for, or "default" where none was; None: whatever tier it may get.
        """
        if self._steps is None:
            return input_tokens * self.input_ncr + output_tokens * self.output_ncr + self.request_ncr
        if service_tier is not None and service_tier not in self.service_tiers:
            service_tier = "default"
        most = 0
        for over, upto, input_ncr, output_ncr, request_ncr in self._steps[lane, service_tier]:
            if input_tokens > over:
                most = max(most, min(input_tokens, upto) * input_ncr + output_tokens * output_ncr + request_ncr)
        return most

    def sold(self, service_tier: str | None) -> str | None:
        """Return the service tier if it has prices of its own here, else None: then it is not passed on, for it might cost more than the rate pays."""
        return service_tier if service_tier in self.service_tiers else None


class RateCard(Timeline[str, Priced]):
    """Every model's rates over time."""

    def __init__(self, rates: Iterable[Rate]) -> None:
        super().__init__((rate.model, (rate.effective_us, rate.id), None if rate.ended else Priced(rate)) for rate in rates)

    def at(self, model: str, now_us: int) -> Priced | None:
        """Return the rate that applies to a model at an instant; None when none does."""
        return self.find(model, now_us)


def _worst(prices: dict[str, int]) -> tuple[int, int, int]:
    """Return the most that a token in, a token out and the request itself cost."""
    dearest_in = max(prices.get(bucket, 0) for bucket in INPUT_BUCKETS)
    return dearest_in, max(prices.get(bucket, 0) for bucket in ("output", "audio_out", "reasoning")), prices.get("requests", 0)


def _steps(rate: Rate, tiers: frozenset[str]) -> dict[tuple[str | None, str | None], tuple[_Step, ...]]:
    """Work out the steps for each lane and service tier that can be asked for, and for any (None)."""
    overs = sorted({-1, *(variant.input_over for variant in rate.variants if variant.input_over is not None)})
    spans = list(zip(overs, [*overs[1:], _TOKENS_ENDLESS], strict=True))

    def of(lane: str, tier: str | None) -> set[_Step]:
        return {_Step(over, upto, *_worst(prices_at(rate, over + 1, lane, tier))) for over, upto in spans}

    asked: dict[str | None, tuple[str | None, ...]] = {"default": (None,), None: (None, *tiers)} | {tier: (None, tier) for tier in tiers}
    lanes: dict[str | None, tuple[str, ...]] = {lane: (lane,) for lane in LANES} | {None: LANES}
    return {
        (lane, tier): tuple(sorted(set().union(*(of(one, real) for one in real_lanes for real in real_tiers))))
        for tier, real_tiers in asked.items()
        for lane, real_lanes in lanes.items()
    }
