"""Versions of rates and costs: proposed, looked at, published once and for ever, or withdrawn and kept."""

from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from billing.db import Database
from billing.errors import Conflict, Invalid, NotFound
from billing.operations import costs, rates, versions
from billing.operations.versions import Change
from billing.rates.card import RateCard
from billing.rates.cost import CostBook
from billing.rates.store import all_rates, rate_at
from billing.rating import Variant

NOW = 1_800_000_000_000_000
HOUR = 3_600_000_000
CHEAP, DEAR = {"input": 500, "output": 1500}, {"input": 1000, "output": 3000}
FLEX = Variant(service_tier="flex", prices={"input": 250, "output": 750})


def propose(db: Database, *changes: Change, at_us: int | None = None, now_us: int = NOW) -> int:
    return versions.propose_version(db, "rates", changes, effective_us=at_us, now_us=now_us).id


def applying(db: Database, model: str, at_us: int) -> dict[str, int] | None:
    with db.read() as session:
        found, card = rate_at(session, model, at_us), RateCard(all_rates(session)).at(model, at_us)
    assert found == (None if card is None else card.rate)  # the database and the memory say the same
    return None if found is None else {bucket: found.prices[bucket] for bucket in ("input", "output")}


def test_a_proposal_applies_to_nothing_until_it_is_published(db: Database) -> None:
    rates.set_rate(db, model="m", prices=CHEAP, now_us=NOW)
    number = propose(db, Change(model="m", prices=DEAR, variants=(FLEX,)), Change(model="n", prices=DEAR))
    assert (applying(db, "m", NOW + 2), applying(db, "n", NOW + 2)) == (CHEAP, None)
    made = versions.publish_version(db, "rates", number, now_us=NOW + 1)
    assert (made.state, made.effective_us, made.published_us) == ("published", NOW + 1, NOW + 1)
    assert (applying(db, "m", NOW), applying(db, "m", NOW + 1), applying(db, "n", NOW + 1)) == (CHEAP, DEAR, DEAR)
    (rate,) = [rate for rate in rates.list_rates(db, "m") if rate.version_id == number]
    assert rate.variants[0].prices["cache_read"] == 250


def test_setting_a_rate_is_a_version_that_is_published_at_once(db: Database) -> None:
    rate = rates.set_rate(db, model="m", prices=CHEAP, now_us=NOW)
    (version,) = versions.list_versions(db, "rates")
    assert (version.id, version.state, version.effective_us) == (rate.version_id, "published", NOW)


def test_it_applies_from_the_instant_it_was_proposed_for_or_another_one_to_come(db: Database) -> None:
    planned, moved = (propose(db, Change(model=model, prices=DEAR), at_us=NOW + HOUR) for model in ("m", "n"))
    assert versions.publish_version(db, "rates", planned, now_us=NOW).effective_us == NOW + HOUR
    assert versions.publish_version(db, "rates", moved, effective_us=NOW + 2 * HOUR, now_us=NOW).effective_us == NOW + 2 * HOUR
    assert (applying(db, "m", NOW + HOUR - 1), applying(db, "m", NOW + HOUR), applying(db, "n", NOW + HOUR)) == (None, DEAR, None)


def test_a_version_never_begins_in_the_past(db: Database) -> None:
    with pytest.raises(Invalid, match="has passed"):
        propose(db, Change(model="m", prices=DEAR), at_us=NOW - 1)
    late = propose(db, Change(model="m", prices=DEAR), at_us=NOW + 1)
    with pytest.raises(Invalid, match="was proposed for has passed"):
        versions.publish_version(db, "rates", late, now_us=NOW + 2)
    with pytest.raises(Invalid, match="has passed"):
        versions.publish_version(db, "rates", late, effective_us=NOW + 1, now_us=NOW + 2)
    assert rates.list_rates(db) == []
    assert versions.publish_version(db, "rates", late, effective_us=NOW + 2, now_us=NOW + 2).effective_us == NOW + 2


@pytest.mark.parametrize("end", ["publish", "withdraw"])
def test_what_is_published_or_withdrawn_is_neither_again(db: Database, end: Literal["publish", "withdraw"]) -> None:
    number = propose(db, Change(model="m", prices=DEAR))
    if end == "publish":
        versions.publish_version(db, "rates", number, now_us=NOW)
    else:
        assert versions.withdraw_version(db, "rates", number, NOW).state == "withdrawn"
    for again in (lambda: versions.publish_version(db, "rates", number, now_us=NOW), lambda: versions.withdraw_version(db, "rates", number, NOW)):
        with pytest.raises(Conflict, match="only a proposal"):
            again()
    assert len(rates.list_rates(db)) == (1 if end == "publish" else 0)
    assert [version.id for version in versions.list_versions(db, "rates")] == [number]  # withdrawn, and kept


def test_two_who_publish_the_same_proposal_publish_it_once(db: Database) -> None:
    number = propose(db, Change(model="m", prices=DEAR))

    def publish(_: int) -> bool:
        try:
            return bool(versions.publish_version(db, "rates", number, now_us=NOW))
        except Conflict:
            return False

    with ThreadPoolExecutor(4) as admins:
        assert sum(admins.map(publish, range(4))) == 1
    assert len(rates.list_rates(db)) == 1


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE rate SET free = true",
        "DELETE FROM rate",
        "UPDATE cost SET free = true",
        "DELETE FROM cost",
        "UPDATE price_version SET note = 'x'",
        "DELETE FROM price_version",
    ],
)
def test_the_database_itself_refuses_to_change_what_was_published(db: Database, change: str) -> None:
    rates.set_rate(db, model="m", prices=CHEAP, now_us=NOW)
    costs.set_cost(db, backend="b", model="m", currency="USD", prices=CHEAP, now_us=NOW)
    with pytest.raises(DBAPIError, match="never changed"), db.write() as session:
        session.connection().execute(text(change))


def test_rates_of_before_versions_stay_and_the_schema_goes_down_and_up_with_data(empty_db: Database) -> None:
    empty_db.migrate("0004")
    with empty_db.write() as session:
        old = (
            'INSERT INTO rate (id, model, effective_us, free, prices, created_us) VALUES (7, \'m\', 5, false, \'{"input": 1, "output": 2, "requests": 0}\', 5)'
        )
        session.connection().execute(text(old))
    empty_db.migrate()
    (rate,) = rates.list_rates(empty_db)
    assert (rate.id, rate.prices["output"], rate.variants, rate.version_id) == (7, 2, (), None)
    rates.set_rates(empty_db, [Change(model="m", prices=DEAR, variants=(FLEX,))], now_us=NOW)
    costs.set_cost(empty_db, backend="b", model="m", currency="USD", free=True, now_us=NOW)
    propose(empty_db, Change(model="n", prices=DEAR))
    with empty_db.engine.begin() as connection:
        before = connection.execute(text("SELECT id, model, effective_us FROM rate ORDER BY id")).all()
    empty_db.unmigrate("0004")
    with empty_db.engine.begin() as connection:
        assert connection.execute(text("SELECT id, model, effective_us FROM rate ORDER BY id")).all() == before
        connection.execute(text("DELETE FROM rate WHERE id = 8"))  # the trigger went too
    empty_db.migrate("0005")
    assert [rate.id for rate in rates.list_rates(empty_db)] == [7]
    assert versions.list_versions(empty_db, "rates") == []


def test_a_model_may_lose_its_rate_and_get_one_again(db: Database) -> None:
    rates.set_rate(db, model="m", prices=CHEAP, now_us=NOW)
    number = propose(db, Change(model="m", ended=True))
    found = versions.diff_version(db, "rates", number, NOW)
    assert found.losing == (("", "m"),)
    assert [(line.bucket, line.old, line.new, line.percent) for line in found.lines] == [("input", 500, None, None), ("output", 1500, None, None)]
    versions.publish_version(db, "rates", number, now_us=NOW + 1)
    assert (applying(db, "m", NOW), applying(db, "m", NOW + 1)) == (CHEAP, None)
    assert rates.rated_models(db, NOW + 1) == set()
    rates.set_rate(db, model="m", prices=DEAR, effective_us=NOW + HOUR, now_us=NOW + 2)
    assert (applying(db, "m", NOW + 2), applying(db, "m", NOW + HOUR)) == (None, DEAR)
    assert rates.rated_models(db, NOW + 2) == {"m"}


def test_a_diff_says_each_price_that_changes_and_leaves_out_those_that_only_follow(db: Database) -> None:
    rates.set_rates(db, [Change(model="m", prices={**CHEAP, "images": 0}), Change(model="same", prices=CHEAP), Change(model="gift", free=True)], now_us=NOW)
    changes = (
        Change(model="m", prices={"input": 550, "output": 1500, "cache_read": 50, "images": 7}, variants=(FLEX,)),
        Change(model="same", prices=CHEAP),
        Change(model="gift", prices={"input": 1, "output": 0}),
        Change(model="new", prices=CHEAP),
    )
    found = versions.diff_version(db, "rates", propose(db, *changes), NOW)
    said = {(line.model, line.when, line.bucket): (line.old, line.new, line.percent) for line in found.lines}
    assert said == {
        ("gift", "", "input"): (0, 1, None),
        ("m", "", "input"): (500, 550, "+10.0"),
        ("m", "", "cache_read"): (500, 50, "-90.0"),
        ("m", "", "images"): (0, 7, None),
        ("m", "flex", "input"): (500, 250, "-50.0"),
        ("m", "flex", "output"): (1500, 750, "-50.0"),
        ("m", "flex", "images"): (0, 7, None),
        ("new", "", "input"): (None, 500, None),
        ("new", "", "output"): (None, 1500, None),
    }
    assert (found.losing, found.at_us) == ((), NOW)


def test_a_diff_is_against_what_applies_at_the_versions_instant_and_stays_so_when_it_is_published(db: Database) -> None:
    rates.set_rate(db, model="m", prices=CHEAP, now_us=NOW)
    rates.set_rate(db, model="m", prices=DEAR, effective_us=NOW + HOUR, now_us=NOW)
    number = propose(db, Change(model="m", prices={"input": 2000, "output": 3000}), at_us=NOW + HOUR)
    before = versions.diff_version(db, "rates", number, NOW)
    assert [(line.bucket, line.old, line.new, line.percent) for line in before.lines] == [("input", 1000, 2000, "+100.0")]
    versions.publish_version(db, "rates", number, now_us=NOW)
    rates.set_rate(db, model="m", free=True, effective_us=NOW + HOUR, now_us=NOW)
    assert versions.diff_version(db, "rates", number, NOW + 2 * HOUR).lines == before.lines


def test_a_variant_that_goes_is_in_the_diff(db: Database) -> None:
    rates.set_rates(db, [Change(model="m", prices=CHEAP, variants=(FLEX,))], now_us=NOW)
    found = versions.diff_version(db, "rates", propose(db, Change(model="m", prices=CHEAP)), NOW)
    assert [(line.when, line.bucket, line.old, line.new) for line in found.lines] == [("flex", "input", 250, 500), ("flex", "output", 750, 1500)]


def test_a_cost_in_another_currency_is_not_compared_in_percent(db: Database) -> None:
    costs.set_cost(db, backend="b", model="m", currency="USD", prices=CHEAP, now_us=NOW)
    number = versions.propose_version(db, "costs", [Change(backend="b", model="m", currency="EUR", prices=CHEAP)], now_us=NOW).id
    found = versions.diff_version(db, "costs", number, NOW)
    assert [(line.bucket, line.old, line.new, line.percent, line.old_currency, line.currency) for line in found.lines] == [
        ("input", 500, 500, None, "USD", "EUR"),
        ("output", 1500, 1500, None, "USD", "EUR"),
    ]


def test_costs_are_kept_by_backend_and_model_and_one_nobody_said_is_unknown(db: Database) -> None:
    cheap = costs.set_cost(db, backend="a", model="m", currency="USD", prices=CHEAP, now_us=NOW)
    dear = costs.set_cost(db, backend="b", model="m", currency="CNY", prices=DEAR, variants=(FLEX,), now_us=NOW)
    ends = versions.propose_version(db, "costs", [Change(backend="a", model="m", ended=True)], now_us=NOW)
    versions.publish_version(db, "costs", ends.id, effective_us=NOW + HOUR, now_us=NOW)
    book = CostBook(costs.list_costs(db))
    assert (book.at("a", "m", NOW), book.at("b", "m", NOW), book.at("c", "m", NOW), book.at("a", "m", NOW - 1)) == (cheap, dear, None, None)
    assert book.at("a", "m", NOW + HOUR) is None
    assert [cost.id for cost in costs.list_costs(db, "b")] == [dear.id]


def test_the_two_books_do_not_see_each_others_versions(db: Database) -> None:
    number = propose(db, Change(model="m", prices=DEAR))
    with pytest.raises(NotFound):
        versions.publish_version(db, "costs", number, now_us=NOW)
    with pytest.raises(NotFound):
        versions.diff_version(db, "costs", number, NOW)
    assert versions.list_versions(db, "costs") == []


GOOD = Change(model="m", prices=CHEAP)
REFUSED: list[tuple[str, str, list[Change]]] = [
    ("rates", "at least 1", []),
    ("rates", "there twice", [GOOD, Change(model="m", free=True)]),
    ("rates", "not both", [Change(model="m", free=True, variants=(FLEX,))]),
    ("rates", "not both", [Change(model="m", ended=True, prices=CHEAP)]),
    ("rates", "at once", [Change(model="m", free=True, ended=True)]),
    ("rates", "`output` of model `m` has no price", [Change(model="m", prices={"input": 1})]),
    ("rates", "not a model's name", [Change(model=" m", free=True)]),
    ("rates", "whole number of nano-credits", [Change(model="m", prices={"input": 10**15, "output": 1})]),
    (
        "rates",
        "thresholds must increase",
        [Change(model="m", prices=CHEAP, variants=(Variant(input_over=2, prices=CHEAP), Variant(input_over=1, prices=CHEAP)))],
    ),
    ("costs", "not a backend's name", [Change(model="m", currency="USD", prices=CHEAP)]),
    ("costs", "`XXX` is not supported", [Change(backend="b", model="m", currency="XXX", prices=CHEAP)]),
    ("costs", "whole number of pico-units", [Change(backend="b", model="m", currency="USD", prices={"input": 10**16, "output": 1})]),
]


@pytest.mark.parametrize(("book", "says", "changes"), REFUSED, ids=[f"{book}-{says}" for book, says, _ in REFUSED])
def test_a_proposal_that_cannot_be_rated_by_is_refused(db: Database, book: Literal["rates", "costs"], says: str, changes: list[Change]) -> None:
    with pytest.raises(Invalid, match=says):
        versions.propose_version(db, book, changes, now_us=NOW)
    assert versions.list_versions(db, book) == []


def test_a_proposal_is_made_once(db: Database) -> None:
    number = propose(db, GOOD)
    with pytest.raises(Invalid, match=f"version {number} proposes the same already"):
        propose(db, GOOD)
    assert propose(db, GOOD, at_us=NOW + 1) == number + 1
    versions.withdraw_version(db, "rates", number, NOW)
    assert propose(db, GOOD) == number + 2


steps = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(("price", "free", "end")), st.integers(0, 3), st.sampled_from(("publish", "withdraw"))), max_size=8
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_17_exactly_one_rate_applies_whatever_is_proposed_published_and_withdrawn(db: Database, steps: list[tuple[str, str, int, str]]) -> None:
    with db.read() as session:
        begin = max((rate.effective_us for rate in all_rates(session)), default=NOW) + HOUR  # each example on a timeline of its own
    expected: dict[str, list[tuple[int, dict[str, int] | None]]] = {"a": [], "b": []}
    for model in "ab":
        rates.set_rate(db, model=model, prices=DEAR, effective_us=begin - 1, now_us=begin - HOUR)
        expected[model].append((begin - 1, DEAR))
    for number, (model, kind, start, end) in enumerate(steps):
        prices = {"input": number, "output": number}
        change = Change(model=model, free=kind == "free", ended=kind == "end", prices=prices if kind == "price" else {})
        version = versions.propose_version(db, "rates", [change], note=str(number), effective_us=begin + start, now_us=begin - HOUR)
        if end == "publish":
            versions.publish_version(db, "rates", version.id, now_us=begin - HOUR)
            expected[model].append((begin + start, None if kind == "end" else prices if kind == "price" else {}))
        else:
            versions.withdraw_version(db, "rates", version.id, begin - HOUR)
    for model in "ab":
        for at_us in range(begin - 1, begin + 4):
            begun = [entry for entry in expected[model] if entry[0] <= at_us]
            latest = max(start for start, _ in begun)
            want = [prices for start, prices in begun if start == latest][-1]
            with db.read() as session:
                found = rate_at(session, model, at_us)
            assert (None if found is None else {} if found.free else {bucket: found.prices[bucket] for bucket in ("input", "output")}) == want
