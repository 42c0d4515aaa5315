"""A rate with variants: one vector of prices for a request, a bound that no charge exceeds (16), one rate at any instant (17)."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import Invalid
from billing.meter import BUCKETS, INPUT_BUCKETS, Meter, check, input_total
from billing.rates.card import Priced, RateCard
from billing.rates.cost import Cost, CostBook, cost
from billing.rates.version import percent
from billing.rating import LANES, Rate, Variant, complete, complete_variants, prices_at, rate, tier_charged, when

TIERS = ("flex", "priority")
ASKED = (None, *TIERS, "unknown")
SAID = (None, "default", *TIERS, "unknown")
prices = st.fixed_dictionaries(
    {"input": st.integers(0, 5000), "output": st.integers(0, 5000)},
    optional={bucket: st.integers(0, 9000) for bucket in ("cache_read", "cache_write_1h", "audio_in", "audio_out", "reasoning", "requests")},
)


@st.composite
def variants(draw: st.DrawFn) -> list[Variant]:
    """Variants with increasing thresholds for any of the service tiers and lanes."""
    found: list[Variant] = []
    for tier in (None, *TIERS):
        for lane in (None, *LANES):
            overs: list[int | None] = [*sorted(draw(st.sets(st.integers(1, 2000), max_size=2)))]
            if (tier or lane) and draw(st.booleans()):
                overs.insert(0, None)
            found += [Variant(input_over=over, service_tier=tier, lane=lane, prices=draw(prices)) for over in overs if draw(st.booleans())]
    return found


@st.composite
def cards(draw: st.DrawFn) -> Rate:
    """A rate with any variants."""
    base = complete(draw(prices))
    return Rate(id=1, model="m", effective_us=0, free=False, prices=base, variants=complete_variants(draw(variants()), base))


@st.composite
def meters(draw: st.DrawFn, input_max: int = 3000, output_max: int = 3000) -> Meter:
    """A usage whose whole input and output stay within limits."""
    left, counts = input_max, dict[str, int]()
    for bucket in INPUT_BUCKETS:
        counts[bucket] = draw(st.integers(0, left))
        left -= counts[bucket]
    audio_out = draw(st.integers(0, output_max))
    output = draw(st.integers(0, output_max - audio_out))
    return check(Meter(**counts, output=output, audio_out=audio_out, reasoning=draw(st.integers(0, output)), requests=1))


def reference(card: Rate, tokens_in: int, lane: str, tier: str | None) -> dict[str, int]:
    """What prices apply, told the other way round: filter, then sort."""
    fits = [one for one in card.variants if tokens_in > (one.input_over or -1) and one.service_tier in (None, tier) and one.lane in (None, lane)]
    fits.sort(key=lambda one: (one.service_tier is None, one.lane is None, -(one.input_over or 0)))
    return fits[0].prices if fits else card.prices


@given(cards(), meters(), st.sampled_from(LANES), st.sampled_from(ASKED))
def test_a_whole_request_is_rated_by_the_one_vector_that_wins(card: Rate, meter: Meter, lane: str, tier: str | None) -> None:
    vector = reference(card, input_total(meter), lane, tier)
    assert prices_at(card, input_total(meter), lane, tier) == vector
    assert rate(meter, card, lane=lane, service_tier=tier) == rate(meter, msgspec.structs.replace(card, prices=vector, variants=()))


@given(cards(), st.data(), st.sampled_from(LANES), st.sampled_from(ASKED), st.sampled_from(SAID))
def test_16_no_charge_exceeds_the_bound_whatever_the_upstream_says(card: Rate, data: st.DataObject, lane: str, asked: str | None, said: str | None) -> None:
    input_max, output_max = data.draw(st.integers(0, 3000)), data.draw(st.integers(0, 3000))
    meter = data.draw(meters(input_max, output_max))
    priced = Priced(card)
    asked = priced.sold(asked)
    charge = rate(meter, card, lane=lane, service_tier=tier_charged(asked, said))
    bound = priced.bound(input_max, output_max, lane=lane, service_tier=asked or "default")
    assert charge <= bound
    assert bound <= priced.bound(input_max, output_max, service_tier=asked or "default") <= priced.bound(input_max, output_max)


@given(cards(), st.integers(0, 3000), st.integers(0, 3000), st.sampled_from(LANES), st.sampled_from(("default", *TIERS)))
def test_the_bound_is_reached_by_some_request_within_it(card: Rate, input_max: int, output_max: int, lane: str, asked: str) -> None:
    ends = {0, input_max, *(min(input_max, one.input_over) for one in card.variants if one.input_over is not None)}
    most = max(
        rate(
            Meter(**{into: tokens, out: output_max, "reasoning": output_max if thought and out == "output" else None}, requests=1),
            card,
            lane=lane,
            service_tier=tier,
        )
        for tokens in ends
        for into in INPUT_BUCKETS
        for out in ("output", "audio_out")
        for thought in (False, True)
        for tier in {None, asked} - {"default"}
    )
    assert Priced(card).bound(input_max, output_max, lane=lane, service_tier=asked) == most


def test_a_tier_that_is_cheaper_above_its_cliff_does_not_lower_the_bound_below_it() -> None:
    base = complete({"input": 10, "output": 0})
    card = Rate(
        id=1, model="m", effective_us=0, free=False, prices=base, variants=complete_variants([Variant(input_over=100, prices={"input": 1, "output": 0})], base)
    )
    assert Priced(card).bound(150, 0) == 100 * 10  # a prompt of 100 tokens is dearer than one of 150
    assert [rate(Meter(input=tokens), card) for tokens in (100, 101)] == [1000, 101]


def test_cached_input_counts_towards_the_cliff() -> None:
    base = complete({"input": 10, "output": 0, "cache_read": 1})
    over = Variant(input_over=100, prices={"input": 20, "output": 0, "cache_read": 2})
    card = Rate(id=1, model="m", effective_us=0, free=False, prices=base, variants=complete_variants([over], base))
    assert rate(Meter(input=10, cache_read=90), card) == 10 * 10 + 90
    assert rate(Meter(input=10, cache_read=91), card) == 10 * 20 + 91 * 2


def test_a_variant_takes_kinds_from_its_own_prices_and_the_rest_from_the_base() -> None:
    base = complete({"input": 10, "output": 20, "cache_read": 1, "images": 7, "requests": 5, "reasoning": 9})
    (flex,) = complete_variants([Variant(service_tier="flex", prices={"input": 4, "output": 8})], base)
    assert (flex.prices["cache_read"], flex.prices["audio_out"]) == (4, 8)
    assert (flex.prices["images"], flex.prices["requests"], flex.prices["reasoning"]) == (7, 5, 9)
    assert "seconds" not in flex.prices


@pytest.mark.parametrize(
    ("asked", "said", "charged"),
    [(None, None, None), (None, "priority", None), ("flex", None, "flex"), ("flex", "flex", "flex"), ("priority", "default", None), ("flex", "priority", None)],
)
def test_the_tier_asked_for_is_charged_unless_another_was_served(asked: str | None, said: str | None, charged: str | None) -> None:
    assert tier_charged(asked, said) == charged


BOTH = {"input": 1, "output": 1}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ([Variant(prices=BOTH)], "has no condition"),
        ([Variant(input_over=0, prices=BOTH)], "input_over is 0"),
        ([Variant(input_over=10, prices=BOTH), Variant(input_over=10, prices=BOTH)], "thresholds must increase"),
        ([Variant(input_over=20, prices=BOTH), Variant(input_over=10, prices=BOTH)], "thresholds must increase"),
        ([Variant(service_tier="default", prices=BOTH)], "`default` is no service tier"),
        ([Variant(service_tier="Flex!", prices=BOTH)], "is no service tier"),
        ([Variant(lane="middle", prices=BOTH)], "no lane `middle`"),
        ([Variant(service_tier="flex", prices={"input": 1})], "flex names no price of `output`"),
        ([Variant(service_tier="flex", prices={**BOTH, "inptu": 1})], "no usage bucket `inptu`"),
        ([Variant(service_tier="flex", prices={**BOTH, "input": -1})], "price of `input`"),
        ([Variant(service_tier=f"t{number}", prices=BOTH) for number in range(33)], "at most 32"),
    ],
)
def test_a_variant_that_cannot_be_rated_by_is_refused(wrong: list[Variant], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        complete_variants(wrong, complete(BOTH))


def test_thresholds_of_different_tiers_and_lanes_are_their_own() -> None:
    rows = [Variant(input_over=20, prices=BOTH), Variant(input_over=10, service_tier="flex", prices=BOTH), Variant(input_over=5, lane="slow", prices=BOTH)]
    assert [when(one) for one in complete_variants(rows, complete(BOTH))] == ["input over 20", "flex, input over 10", "slow lane, input over 5"]


entries = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 6), st.sampled_from(("priced", "free", "ended"))), max_size=12)


@given(entries, st.randoms(use_true_random=False))
def test_17_exactly_one_rate_applies_at_any_instant_also_where_several_begin_together(rows: list[tuple[str, int, str]], random: "object") -> None:
    rates = [
        Rate(id=number, model=model, effective_us=start, free=kind == "free", prices=complete(BOTH) if kind == "priced" else {})
        for number, (model, start, kind) in enumerate(rows)
    ]
    shuffled = list(rates)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis's random
    card = RateCard(shuffled)
    for model in "abc":
        for now_us in range(-1, 8):
            begun = [one for one in rates if one.model == model and one.effective_us <= now_us]
            latest = max((one.effective_us for one in begun), default=None)
            last = next((one for one in reversed(begun) if one.effective_us == latest), None)
            found = card.at(model, now_us)
            assert (None if found is None else found.rate) == (None if last is None or last.ended else last)


@given(entries)
def test_17_exactly_one_cost_applies_at_any_instant(rows: list[tuple[str, int, str]]) -> None:
    costs = [
        Cost(id=number, backend=backend, model="m", currency="USD", effective_us=start, free=kind == "free", prices=complete(BOTH) if kind == "priced" else {})
        for number, (backend, start, kind) in enumerate(rows)
    ]
    book = CostBook(reversed(costs))
    for backend in "abc":
        for now_us in range(-1, 8):
            last = max(
                (one for one in costs if one.backend == backend and one.effective_us <= now_us), key=lambda one: (one.effective_us, one.id), default=None
            )
            assert book.at(backend, "m", now_us) == (None if last is None or last.ended else last)


@given(meters(), cards(), st.sampled_from(LANES), st.sampled_from(ASKED))
def test_money_is_counted_by_the_same_function_as_credits(meter: Meter, card: Rate, lane: str, tier: str | None) -> None:
    book = Cost(id=1, backend="b", model="m", currency="USD", effective_us=0, free=False, prices=card.prices, variants=card.variants)
    assert cost(meter, book, lane=lane, service_tier=tier) == rate(meter, card, lane=lane, service_tier=tier)


@given(st.integers(1, 10**9), st.integers(0, 10**9))
def test_a_percentage_is_within_half_a_tenth_of_the_truth(old: int, new: int) -> None:
    said = percent(old, new)
    assert said is not None
    tenths = int(said.replace(".", ""))
    assert abs(2 * (1000 * (new - old) - tenths * old)) <= old
    assert said[0] == ("-" if new < old else "+")


def test_buckets_have_not_grown_unseen() -> None:
    assert set(INPUT_BUCKETS) | {"output", "audio_out", "reasoning", "images", "seconds", "requests", "searches"} == set(BUCKETS)
