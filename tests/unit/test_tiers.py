"""A service tier on its way: what the upstream says counts only for who asked, and a charge takes lane and tier, also after a crash."""

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from backends.openai.dialect import OpenAIDialect
from backends.provider import Call
from billing.errors import CostMissing, Invalid
from billing.meter import Meter
from billing.money import exact_of_pico, format_pico, parse_pico
from billing.rates.card import Priced
from billing.rates.cost import Cost, cost
from billing.rating import Rate, Variant, complete, complete_variants
from billing.usage.records import Dispatched, Progress
from billing.usage.replay import recover
from gateway.flow.estimate import said
from gateway.flow.settle import charge

BASE = complete({"input": 10, "output": 100})
VARIANTS = complete_variants(
    [Variant(service_tier="flex", prices={"input": 5, "output": 50}), Variant(lane="slow", prices={"input": 1, "output": 2})],
    BASE,
)
CARD = Rate(id=3, model="m", effective_us=0, free=False, prices=BASE, variants=VARIANTS)
USAGE = b'{"prompt_tokens":4,"completion_tokens":2}'


def heard(asked: str | None, usage: bytes | None, tier: bytes | None) -> Any:
    call = Call(endpoint="chat/completions", request_id="r", model="m", members={}, body_bytes=0, service_tier=asked)
    reserved = SimpleNamespace(admitted=SimpleNamespace(received=SimpleNamespace(call=call, wish=SimpleNamespace(choices=1, prompts=1))))
    attempt = SimpleNamespace(pool=SimpleNamespace(provider=OpenAIDialect()))
    raws = [None if text is None else msgspec.Raw(text) for text in (usage, tier)]
    return said(cast(Any, reserved), cast(Any, attempt), raws[0], final=True, tier=raws[1])


@pytest.mark.parametrize(
    ("asked", "usage", "tier", "served"),
    [
        ("flex", USAGE, b'"default"', "default"),
        ("flex", USAGE, None, None),
        ("flex", USAGE, b"null", None),
        ("flex", b'{"prompt_tokens":4,"completion_tokens":2,"service_tier":"flex"}', None, "flex"),
        (None, USAGE, b'"flex"', "flex"),  # bought by the gateway itself, for a slow request
    ],
)
def test_what_the_upstream_says_of_the_tier_is_heard_where_one_was_bought(asked: str | None, usage: bytes, tier: bytes | None, served: str | None) -> None:
    found = heard(asked, usage, tier)
    assert (found.usage.service_tier, found.usage.input, found.complete) == (served, 4, True)


def test_a_tier_without_a_usage_is_kept_while_the_usage_is_counted() -> None:
    found = heard("flex", None, b'"flex"')
    assert (found.usage.service_tier, found.complete) == ("flex", False)


def test_a_charge_is_of_the_lane_and_the_tier() -> None:
    meter = Meter(input=4, output=2)
    failures: list[None] = []

    def failed() -> None:
        failures.append(None)

    assert charge(meter, CARD, failed) == 240
    assert charge(meter, CARD, failed, lane="slow") == 8
    assert charge(meter, CARD, failed, lane="slow", service_tier="flex") == 120  # a tier's own price goes before a lane's
    assert failures == []
    assert (charge(Meter(input=4, output=2, images=1), CARD, failed, lane="slow"), len(failures)) == (8, 1)


@pytest.mark.parametrize(("lane", "tier", "ncr"), [("fast", None, 240), ("slow", None, 8), ("fast", "flex", 120)])
def test_a_lost_request_is_charged_at_its_lane_and_the_tier_it_asked_for(lane: Any, tier: str | None, ncr: int) -> None:
    sent = Dispatched(
        id="r", tenant_id="t", key_id="k", model="m", backend="b", upstream_model="u", endpoint="e", started_us=1, lane=lane, prompt_estimate=1,
        rate_id=3, service_tier=tier,
    )  # fmt: skip
    event = recover(sent, Progress(id="r", meter=Meter(input=4, output=2)), CARD)
    assert (event.charge_ncr, event.lane, event.service_tier) == (ncr, lane, tier)


def test_only_a_tier_with_prices_of_its_own_is_sold() -> None:
    assert [Priced(CARD).sold(tier) for tier in (None, "flex", "priority", "default")] == [None, "flex", None, None]


BOOK = Cost(id=1, backend="b", model="u", currency="USD", effective_us=0, free=False, prices=complete({"input": 270_000, "output": 1_100_000}))


def test_a_cost_is_exact_and_a_missing_price_is_an_error_and_not_0() -> None:
    pico = cost(Meter(input=1_000_003, output=7), BOOK)
    assert str(exact_of_pico(pico)) == "0.270008510000"
    with pytest.raises(CostMissing, match="`images` of model `u` at backend `b`"):
        cost(Meter(input=1, images=1), BOOK)
    assert cost(Meter(input=1, images=1), msgspec.structs.replace(BOOK, free=True, prices={})) == 0
    with pytest.raises(CostMissing):
        cost(Meter(input=1), msgspec.structs.replace(BOOK, prices={}))


@pytest.mark.parametrize(
    ("text", "units", "pico"), [("0.27", 10**6, 270_000), ("1.10", 10**6, 1_100_000), ("0.000001", 10**6, 1), ("0.04", 1, 4 * 10**10), ("0", 1, 0)]
)
def test_money_per_unit_is_kept_to_its_last_digit(text: str, units: int, pico: int) -> None:
    assert parse_pico(text, units) == pico
    assert parse_pico(format_pico(pico, units), units) == pico


@pytest.mark.parametrize(("text", "units"), [("0.0000001", 10**6), ("-1", 1), ("0.0000000000001", 1), ("much", 1), ("1e40", 1), ("nan", 10**6)])
def test_money_that_is_too_fine_or_no_price_is_refused(text: str, units: int) -> None:
    with pytest.raises(Invalid):
        parse_pico(text, units)
