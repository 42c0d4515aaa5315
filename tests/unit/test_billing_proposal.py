"""Public prices become proposals that `set_rate` takes, and what cannot be said in a rate is named."""

from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest

from billing.db import Database
from billing.errors import Invalid
from billing.operations.costs import Route, propose_costs
from billing.operations.rates import propose, set_rate

NOW = 1_794_000_000_000_000  # 6 November 2026


def test_a_listed_model_is_proposed_in_credits(tmp_path: Path) -> None:
    (mini,) = propose(["gpt-4o-mini"], credits_per_usd="1000", now_us=NOW)
    assert mini.source == "openai/gpt-4o-mini"
    assert mini.usd["input_mtok"] == "0.15"
    assert (mini.prices["input"], mini.prices["output"]) == (150_000, 600_000)
    assert mini.prices["cache_read"] == 75_000
    assert any("storage_searches_kcount" in note for note in mini.notes)
    database = Database(f"sqlite:///{tmp_path / 'weir.db'}")
    database.migrate()
    rate = set_rate(database, model=mini.model, prices=mini.prices, now_us=NOW)
    assert rate.prices["input"] == 150_000
    database.close()


def test_prices_for_long_contexts_are_proposed_as_variants() -> None:
    (sonnet,) = propose(["claude-sonnet-4-5"], credits_per_usd="1", now_us=NOW)
    (longer,) = [variant for variant in sonnet.variants if variant.service_tier is None]
    assert (sonnet.prices["input"], sonnet.prices["output"]) == (3000, 15000)
    assert (longer.input_over, longer.prices["input"], longer.prices["output"], longer.prices["cache_read"]) == (200_000, 6000, 22500, 600)


def test_prices_of_a_service_tier_are_proposed_as_variants_and_those_of_batches_are_named() -> None:
    (mini,) = propose(["gpt-5-mini"], credits_per_usd="1", now_us=NOW)
    tiers = {variant.service_tier: variant.prices["input"] for variant in mini.variants if variant.input_over is None}
    assert tiers["flex"] < mini.prices["input"] < tiers["priority"]
    assert "default" not in tiers
    assert any("processing batch" in note for note in mini.notes)


def test_a_proposal_with_variants_is_a_rate(tmp_path: Path) -> None:
    (sonnet,) = propose(["claude-sonnet-4-5"], credits_per_usd="1000", now_us=NOW)
    database = Database(f"sqlite:///{tmp_path / 'weir.db'}")
    database.migrate()
    rate = set_rate(database, model=sonnet.model, prices=sonnet.prices, variants=sonnet.variants, now_us=NOW)
    assert [variant.input_over for variant in rate.variants] == [variant.input_over for variant in sonnet.variants]
    database.close()


def test_a_routes_cost_is_proposed_in_dollars_at_the_seller_its_address_names() -> None:
    direct, own = propose_costs([Route("ds", "deepseek-chat", "https://api.deepseek.com"), Route("own", "llama", "http://127.0.0.1:1/v1")], now_us=NOW)
    assert (direct.backend, direct.source) == ("ds", "deepseek/deepseek-chat")
    assert direct.prices["input"] == 270_000  # 0.27 USD per 1,000,000 tokens, in 10^-12 USD per token
    assert (own.source, own.prices) == (None, {})


def test_a_model_that_is_not_listed_is_named_and_not_priced() -> None:
    (unknown,) = propose(["smollm2-at-home"], credits_per_usd="1000", now_us=NOW)
    assert (unknown.source, unknown.prices) == (None, {})
    assert "by hand" in unknown.notes[0]


def test_a_model_with_prices_by_the_hour_is_proposed_at_the_dearest_whatever_the_hour_is() -> None:
    hours = [propose(["deepseek-chat"], credits_per_usd="1", now_us=NOW + hour * 3_600_000_000) for hour in range(24)]
    assert all(proposals == hours[0] for proposals in hours)
    (chat,) = hours[0]
    assert (chat.prices["input"], chat.prices["output"], chat.prices["cache_read"]) == (270, 1100, 70)
    assert "cheaper from 16:30 to 00:30 UTC; the dearer price is proposed" in chat.notes


def test_the_hours_at_which_a_model_is_cheaper_are_all_named() -> None:
    (flash,) = propose(["deepseek-flash"], credits_per_usd="1", now_us=NOW)
    assert (flash.prices["input"], flash.prices["output"]) == (300, 1200)
    assert "cheaper from 04:00 to 06:00 and from 10:00 to 01:00 UTC; the dearer price is proposed" in flash.notes


def test_a_price_that_is_not_listed_is_not_proposed_as_nothing() -> None:
    (embedding,) = propose(["@cf/baai/bge-m3"], credits_per_usd="1", now_us=NOW)
    assert embedding.usd == {"input_mtok": "0.012"}
    assert embedding.prices == {}
    assert any("output: not listed" in note and "by hand" in note for note in embedding.notes)


def test_a_price_that_is_listed_as_nothing_is_proposed_as_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = SimpleNamespace(id="gift", prices=None, get_prices=lambda _at: SimpleNamespace(input_mtok=Decimal(0), output_mtok=Decimal(0)))
    snapshot = SimpleNamespace(find_provider_model=lambda *_anything: (SimpleNamespace(id="somebody"), listed))
    monkeypatch.setattr("genai_prices.data_snapshot.get_snapshot", lambda: snapshot)
    (gift,) = propose(["gift"], credits_per_usd="1", now_us=NOW)
    assert gift.prices == {"input": 0, "output": 0}


@pytest.mark.parametrize("worth", ["0", "-1", "many"])
def test_credits_that_are_worth_nothing_are_refused(worth: str) -> None:
    with pytest.raises(Invalid):
        propose(["gpt-4o-mini"], credits_per_usd=worth, now_us=NOW)
