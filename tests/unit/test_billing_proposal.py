"""Public prices become proposals that `set_rate` takes, and what cannot be said in a rate is named."""

from pathlib import Path

import pytest

from billing.db import Database
from billing.errors import Invalid
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


def test_a_price_in_tiers_is_proposed_at_its_base_and_says_so() -> None:
    (sonnet,) = propose(["claude-sonnet-4-5"], credits_per_usd="1", now_us=NOW)
    assert sonnet.prices["input"] == 3000
    assert any("long contexts" in note for note in sonnet.notes)


def test_a_model_that_is_not_listed_is_named_and_not_priced() -> None:
    (unknown,) = propose(["smollm2-at-home"], credits_per_usd="1000", now_us=NOW)
    assert (unknown.source, unknown.prices) == (None, {})
    assert "by hand" in unknown.notes[0]


@pytest.mark.parametrize("worth", ["0", "-1", "many"])
def test_credits_that_are_worth_nothing_are_refused(worth: str) -> None:
    with pytest.raises(Invalid):
        propose(["gpt-4o-mini"], credits_per_usd=worth, now_us=NOW)
