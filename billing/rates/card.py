"""The rates of all models in memory, and what a request may cost at most; pure.

The rate of a model at an instant is the one with the greatest (effective_us, id) not after it, so exactly one applies at any
instant. A card is never changed: a new one takes its place.
"""

from bisect import bisect_right
from collections.abc import Iterable

from billing.meter import INPUT_BUCKETS
from billing.rating import Rate


class Priced:
    """A rate with its worst prices worked out: `input_ncr` and `output_ncr` bound what one token of either can cost."""

    __slots__ = ("input_ncr", "output_ncr", "rate", "request_ncr")

    def __init__(self, rate: Rate) -> None:
        prices = {} if rate.free else rate.prices
        self.rate = rate
        self.input_ncr = max((prices.get(bucket, 0) for bucket in INPUT_BUCKETS), default=0)
        self.output_ncr = max(prices.get(bucket, 0) for bucket in ("output", "audio_out", "reasoning"))
        self.request_ncr = prices.get("requests", 0)

    def bound(self, input_tokens: int, output_tokens: int) -> int:
        """Return the most, in ncr, that a request within these lengths can be charged."""
        return input_tokens * self.input_ncr + output_tokens * self.output_ncr + self.request_ncr


class RateCard:
    """Every model's rates over time."""

    def __init__(self, rates: Iterable[Rate]) -> None:
        self._starts: dict[str, list[int]] = {}
        self._rates: dict[str, list[Priced]] = {}
        for rate in sorted(rates, key=lambda rate: (rate.effective_us, rate.id)):
            self._starts.setdefault(rate.model, []).append(rate.effective_us)
            self._rates.setdefault(rate.model, []).append(Priced(rate))

    def at(self, model: str, now_us: int) -> Priced | None:
        """Return the rate that applies to a model at an instant; None when none does."""
        starts = self._starts.get(model)
        index = bisect_right(starts, now_us) if starts else 0
        return self._rates[model][index - 1] if index else None
