"""The canonical usage vector: disjoint buckets, so that the same unit is never counted in two of them.

`None` means that nobody said; 0 means that somebody said none. The two differ everywhere: an unknown usage is never free by
accident. `reasoning` is a part of `output` and is priced only through it, unless a rate prices it apart.
"""

import msgspec

from billing.errors import Invalid

# No request is this large: above it a figure is taken for damage. With `rating.price_max` they keep every charge within 64 bits.
TOKENS_MAX = 10**8
COUNT_MAX = 10**6


class Meter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One request's usage. Units: tokens, except `images`, `seconds`, `requests` and `searches`, which count themselves."""

    input: int | None = None
    cache_read: int | None = None
    cache_write_5m: int | None = None
    cache_write_1h: int | None = None
    audio_in: int | None = None
    image_in: int | None = None
    output: int | None = None
    audio_out: int | None = None
    reasoning: int | None = None
    images: int | None = None
    seconds: int | None = None
    requests: int | None = None
    searches: int | None = None


BUCKETS: tuple[str, ...] = Meter.__struct_fields__
INPUT_BUCKETS = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "audio_in", "image_in")
COUNTING_BUCKETS = frozenset(("images", "seconds", "requests", "searches"))  # they count themselves, not tokens


def count_max(bucket: str) -> int:
    """Return the most that one request may count in a bucket."""
    return COUNT_MAX if bucket in COUNTING_BUCKETS else TOKENS_MAX


_MOST = {bucket: count_max(bucket) for bucket in BUCKETS}


def used(meter: Meter) -> list[tuple[str, int]]:
    """Give the buckets that count anything, in the order of `BUCKETS`. Written out: every request asks thrice, and a loop takes four times as long."""
    found: list[tuple[str, int]] = []
    if meter.input:
        found.append(("input", meter.input))
    if meter.cache_read:
        found.append(("cache_read", meter.cache_read))
    if meter.cache_write_5m:
        found.append(("cache_write_5m", meter.cache_write_5m))
    if meter.cache_write_1h:
        found.append(("cache_write_1h", meter.cache_write_1h))
    if meter.audio_in:
        found.append(("audio_in", meter.audio_in))
    if meter.image_in:
        found.append(("image_in", meter.image_in))
    if meter.output:
        found.append(("output", meter.output))
    if meter.audio_out:
        found.append(("audio_out", meter.audio_out))
    if meter.reasoning:
        found.append(("reasoning", meter.reasoning))
    if meter.images:
        found.append(("images", meter.images))
    if meter.seconds:
        found.append(("seconds", meter.seconds))
    if meter.requests:
        found.append(("requests", meter.requests))
    if meter.searches:
        found.append(("searches", meter.searches))
    return found


def check(meter: Meter) -> Meter:
    """Return the meter, or raise `Invalid` for a count that is negative, absurd or not an integer, naming the bucket."""
    for bucket, count in used(meter):
        if not (type(count) is int and 0 <= count <= _MOST[bucket]):
            raise Invalid(bucket, f"usage: {bucket} = {count!r} is not a count between 0 and {_MOST[bucket]}")
    if meter.reasoning is not None and meter.reasoning > (meter.output or 0):
        raise Invalid("reasoning", f"usage: reasoning = {meter.reasoning} is more than output = {meter.output}, of which it is a part")
    return meter


def input_total(meter: Meter) -> int:
    """Sum everything that went in (tokens); buckets nobody reported count nothing."""
    return (
        (meter.input or 0) + (meter.cache_read or 0) + (meter.cache_write_5m or 0) + (meter.cache_write_1h or 0) + (meter.audio_in or 0) + (meter.image_in or 0)
    )  # `INPUT_BUCKETS`, written out: this is summed for every request
