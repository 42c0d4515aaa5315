"""Requests as tenants send them, made up: each tenant at its own pace, more by day than by night, lengths with long tails. Pure.

What comes depends on the seed alone and never on what became of the requests before, so that two plans are tried on the same traffic. The
tenants' next requests stand in a heap: memory follows their number, not that of the requests.
"""

import heapq
from collections.abc import Iterator, Sequence
from math import cos, exp, log, pi
from random import Random
from typing import NamedTuple

import msgspec

from billing.grants.periods import day_span
from billing.meter import Meter

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US

RATE_SIGMA = 1.2  # of the logarithm of tenants' rates: the mean is twice the median, one tenant in a hundred sends 16 times as much
WAVE = 0.6  # at the height of a tenant's day its rate is so much above the mean, twelve hours later so much below
PEAK_HOUR = 14
TENANT_SIGMA = 0.5  # of tenants' own median lengths
LENGTH_SIGMA = 0.8  # of one tenant's lengths
TOKENS_MAX = 100_000
ASKED = (256, 512, 1024, 2048, 4096)  # the `max_tokens` that clients send; a tenant's always send the same
ASKED_LEAST = 2  # times the median of its outputs


class Arrival(NamedTuple):
    """One request. `tenant` is an index; `output_max` what the client asks for at most. `meter`: what it used, where that is more than input and output."""

    at_us: int
    tenant: int
    model: str
    input: int
    output: int
    output_max: int
    meter: Meter | None = None


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What generated traffic is like: medians over tenants, in requests a day and in tokens."""

    model: str
    per_day: int = 100
    input: int = 400
    output: int = 150


class Profile(NamedTuple):
    """One tenant's habits: its mean rate, its median lengths as logarithms, and when its day began (microseconds)."""

    model: str
    per_day: float
    log_input: float
    log_output: float
    output_max: int
    midnight_us: int


def profile(shape: Shape, timezone: str, start_us: int, rng: Random) -> Profile:
    """Draw one tenant's habits."""
    log_output = log(shape.output) + rng.gauss(0, TENANT_SIGMA)
    fitting = [asked for asked in ASKED if asked >= ASKED_LEAST * exp(log_output)] or [ASKED[-1]]
    return Profile(
        model=shape.model,
        per_day=exp(log(shape.per_day) + rng.gauss(0, RATE_SIGMA)),
        log_input=log(shape.input) + rng.gauss(0, TENANT_SIGMA),
        log_output=log_output,
        output_max=rng.choice(fitting),
        midnight_us=day_span(start_us, timezone)[0],
    )


def mean_meter(habits: Profile) -> Meter:
    """Return what a tenant's mean request uses."""
    spread = exp(LENGTH_SIGMA**2 / 2)  # mean over median of a lognormal
    return Meter(
        input=max(1, round(exp(habits.log_input) * spread)),
        output=max(1, min(habits.output_max, round(exp(habits.log_output) * spread))),
        requests=1,
    )


def arrivals(profiles: Sequence[Profile], start_us: int, end_us: int, rng: Random) -> Iterator[Arrival]:
    """Yield every tenant's requests in [start_us, end_us), in order of time."""
    due = [(_next_us(habits, start_us, rng), index) for index, habits in enumerate(profiles)]
    heapq.heapify(due)
    while due and due[0][0] < end_us:
        at_us, index = due[0]
        habits = profiles[index]
        input_tokens = min(TOKENS_MAX, max(1, round(exp(habits.log_input + rng.gauss(0, LENGTH_SIGMA)))))
        output_tokens = min(habits.output_max, max(1, round(exp(habits.log_output + rng.gauss(0, LENGTH_SIGMA)))))
        yield Arrival(at_us, index, habits.model, input_tokens, output_tokens, habits.output_max)
        heapq.heapreplace(due, (_next_us(habits, at_us, rng), index))


def _next_us(habits: Profile, after_us: int, rng: Random) -> int:
    """Draw when the next request comes: a Poisson process whose rate follows the day, by thinning (Lewis and Shedler, 1979)."""
    per_us = habits.per_day * (1 + WAVE) / DAY_US
    at_us = after_us
    while True:
        at_us += 1 + round(rng.expovariate(per_us))
        hour = (at_us - habits.midnight_us) / HOUR_US
        if rng.random() * (1 + WAVE) <= 1 + WAVE * cos((hour - PEAK_HOUR) * pi / 12):
            return at_us
