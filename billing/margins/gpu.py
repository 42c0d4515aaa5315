"""What GPUs of our own cost: a bill by the hour, split into what requests used and what stood idle; pure.

Idle is the time in which the backend had no request of anybody. The rest of a day's bill is split over the day's use by weighted tokens: reading a
prompt, reading it from the cache and writing cost a GPU differently. Every split is by largest remainder, so the parts are the bill.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec

from billing.errors import Invalid
from billing.margins.amounts import of_pico
from billing.meter import Meter
from billing.money import exponent
from billing.rates.version import check_name

HOUR_US = 3_600_000_000
GPUS_MAX = 100_000
HOUR_PICO_MAX = 10_000 * 10**12
# A token written takes a pass over the weights, shared by a batch; tokens of a prompt share one among themselves; cached ones are only looked up.
# Vendors' own prices say the same: output costs 3 to 5 times the input, cached input a tenth.
WEIGHTS = (10, 1, 40)
WEIGHT_MAX = 10_000
_WEIGHTS = re.compile(r"(\d{1,5}):(\d{1,5}):(\d{1,5})", re.ASCII)


class GpuCost(msgspec.Struct, frozen=True, kw_only=True):
    """GPUs behind a backend during [start_us, end_us) (None: until further notice), at `hour_pico` per GPU and hour. `weights`: input, cached, output."""

    id: int
    backend: str
    gpus: int
    hour_pico: int
    currency: str
    start_us: int
    end_us: int | None
    weights: tuple[int, int, int]
    created_us: int


def check_gpu(cost: GpuCost) -> None:
    """Raise `Invalid` for what cannot be billed, naming the field and what would be right."""
    check_name("backend", cost.backend)
    exponent(cost.currency)
    if not 1 <= cost.gpus <= GPUS_MAX:
        raise Invalid("gpus", f"gpus: {cost.gpus} is out of range; 1 to {GPUS_MAX}")
    if not 0 <= cost.hour_pico <= HOUR_PICO_MAX:
        raise Invalid("price", "price: out of range; 0 to 10000 for one GPU and hour")
    if cost.end_us is not None and cost.end_us <= cost.start_us:
        raise Invalid("until", "until: it ends before it begins; until must come after from")
    if not all(0 <= weight <= WEIGHT_MAX for weight in cost.weights) or not any(cost.weights):
        raise Invalid("weights", f"weights: each is 0 to {WEIGHT_MAX}, and not all are 0")


def parse_weights(text: str) -> tuple[int, int, int]:
    """Read weights written input:cached:output, like 10:1:40. Raises `Invalid`."""
    found = _WEIGHTS.fullmatch(text)
    if found is None:
        raise Invalid("weights", f"weights: `{text[:40]}` is not input:cached:output; write whole numbers, like 10:1:40")
    return int(found[1]), int(found[2]), int(found[3])


def bill(cost: GpuCost, start_us: int, end_us: int) -> int:
    """Return the amount for [start_us, end_us) within the time the GPUs were there. Bills of spans that follow each other sum to the bill of all of it."""
    return _since_start(cost, end_us) - _since_start(cost, start_us)


def windows(cost: GpuCost, days: Sequence[int], now_us: int) -> list[tuple[int, int, int]]:
    """Return (number of the day, start_us, end_us) of the time to pay for: `days` are the instants at which days begin, with the end of the last.

    Time that has not come yet costs nothing yet.
    """
    last_us = min(now_us, days[-1] if cost.end_us is None else cost.end_us)
    found = ((number, max(start_us, cost.start_us), min(end_us, last_us)) for number, (start_us, end_us) in enumerate(pairwise(days)))
    return [window for window in found if window[1] < window[2]]


def weigh(meter: Meter, weights: tuple[int, int, int]) -> int:
    """Return how much work a usage was."""
    new = (meter.input or 0) + (meter.cache_write_5m or 0) + (meter.cache_write_1h or 0) + (meter.audio_in or 0) + (meter.image_in or 0)
    return new * weights[0] + (meter.cache_read or 0) * weights[1] + ((meter.output or 0) + (meter.audio_out or 0)) * weights[2]


def busy_us(running: Iterable[tuple[int, int]], cuts: Sequence[int]) -> list[int]:
    """Return for how long anything ran in each of the spans between `cuts`. `running` are [start_us, end_us) in the order of their starts."""
    found = [0] * (len(cuts) - 1)
    seen_us, at = cuts[0], 0
    for first_us, after_us in running:
        start_us, end_us = max(first_us, seen_us), min(after_us, cuts[-1])
        if end_us <= start_us:
            continue
        seen_us = end_us
        while cuts[at + 1] <= start_us:
            at += 1
        index = at
        while start_us < end_us:
            upto_us = min(end_us, cuts[index + 1])
            found[index] += upto_us - start_us
            start_us, index = upto_us, index + 1
    return found


def _since_start(cost: GpuCost, at_us: int) -> int:
    return of_pico(cost.hour_pico * cost.gpus * max(0, at_us - cost.start_us) // HOUR_US)
