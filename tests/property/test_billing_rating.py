"""A charge is exact, grows with use, is the sum of its parts, and always fits the books."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import Invalid, RateMissing
from billing.meter import BUCKETS, Meter, check, count_max, input_total
from billing.money import NCR_MAX
from billing.rating import PARENTS, Rate, complete, price_max, rate

PLAIN = tuple(bucket for bucket in BUCKETS if bucket != "reasoning")


@st.composite
def meters(draw: st.DrawFn, part: int = 1) -> Meter:
    """Any usage that passes `check`, at most 1/part of what a bucket may hold."""
    counts = {bucket: draw(st.none() | st.integers(0, count_max(bucket) // part)) for bucket in PLAIN}
    reasoning = draw(st.none() | st.integers(0, counts["output"] or 0))
    return check(Meter(reasoning=reasoning, **counts))


@st.composite
def rates(draw: st.DrawFn, apart: bool | None = None) -> Rate:
    """A rate that prices every bucket, with `reasoning` apart or not."""
    prices = {bucket: draw(st.integers(0, price_max(bucket))) for bucket in PLAIN}
    if draw(st.booleans()) if apart is None else apart:
        prices["reasoning"] = draw(st.integers(0, price_max("reasoning")))
    return Rate(id=1, model="m", effective_us=0, free=False, prices=complete(prices))


@given(meters(), rates())
def test_a_charge_is_what_its_buckets_cost_and_fits_the_books(meter: Meter, card: Rate) -> None:
    expected = sum((getattr(meter, bucket) or 0) * card.prices[bucket] for bucket in PLAIN)
    if "reasoning" in card.prices:
        expected += (meter.reasoning or 0) * (card.prices["reasoning"] - card.prices["output"])
    assert rate(meter, card) == expected
    assert 0 <= expected <= NCR_MAX


@given(meters(part=2), rates(), st.sampled_from(PLAIN), st.integers(0, 1000))
def test_more_use_never_costs_less(meter: Meter, card: Rate, bucket: str, more: int) -> None:
    grown = msgspec.structs.replace(meter, **{bucket: (getattr(meter, bucket) or 0) + more})
    assert rate(grown, card) - rate(meter, card) == more * card.prices[bucket]


@given(meters(part=2), meters(part=2), rates())
def test_a_use_split_in_two_costs_the_same(one: Meter, other: Meter, card: Rate) -> None:
    whole = Meter(**{bucket: (getattr(one, bucket) or 0) + (getattr(other, bucket) or 0) for bucket in BUCKETS})
    assert rate(check(whole), card) == rate(one, card) + rate(other, card)


@given(meters())
def test_a_free_model_costs_nothing_whatever_is_used(meter: Meter) -> None:
    assert rate(meter, Rate(id=1, model="m", effective_us=0, free=True, prices={})) == 0


@given(meters())
def test_input_is_the_sum_of_what_went_in(meter: Meter) -> None:
    assert input_total(meter) == sum(
        getattr(meter, bucket) or 0 for bucket in ("input", "cache_read", "cache_write_5m", "cache_write_1h", "audio_in", "image_in")
    )


@given(meters(), st.sampled_from(BUCKETS))
def test_a_count_that_is_damaged_is_refused_by_name(meter: Meter, bucket: str) -> None:
    for damaged in (-1, count_max(bucket) + 1, True):
        with pytest.raises(Invalid) as refused:
            check(msgspec.structs.replace(meter, **{bucket: damaged}))
        assert refused.value.field in (bucket, "reasoning")


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_an_unpriced_bucket_takes_its_parents_price_when_the_rate_is_written(input_ncr: int, output_ncr: int) -> None:
    full = complete({"input": input_ncr, "output": output_ncr})
    assert {bucket: full[bucket] for bucket in PARENTS} == {bucket: full[parent] for bucket, parent in PARENTS.items()}
    assert full["requests"] == 0
    assert complete(full) == full


def test_a_used_bucket_without_a_price_is_missing_and_not_zero() -> None:
    card = Rate(id=1, model="m", effective_us=0, free=False, prices=complete({"input": 1}))
    with pytest.raises(RateMissing) as missing:
        rate(Meter(input=1, output=1), card)
    assert missing.value.bucket == "output"
    assert rate(Meter(input=1, output=0), card) == 1


def test_reasoning_costs_its_own_price_instead_of_outputs_where_it_has_one() -> None:
    prices = complete({"input": 0, "output": 10, "reasoning": 3})
    assert rate(Meter(output=7, reasoning=5), Rate(id=1, model="m", effective_us=0, free=False, prices=prices)) == 2 * 10 + 5 * 3


@pytest.mark.parametrize("prices", [{"inptu": 1}, {"input": -1}, {"input": True}, {"input": price_max("input") + 1}, {"images": price_max("images") + 1}])
def test_a_rate_that_cannot_be_charged_is_refused(prices: dict[str, int]) -> None:
    with pytest.raises(Invalid):
        complete(prices)
