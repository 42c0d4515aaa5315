"""Money is exact: what is written is read back, nothing is rounded unless it says so, and bad text is refused as bad text."""

from contextlib import suppress
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import money
from billing.errors import Invalid

AMOUNTS = st.integers(-money.NCR_MAX, money.NCR_MAX)
CURRENCIES = st.sampled_from(sorted(money.EXPONENTS))
PRICES = st.decimals(min_value=0, max_value=Decimal("999999.999999999999"), places=12)


@given(AMOUNTS)
def test_credits_written_are_read_back(ncr: int) -> None:
    assert money.parse_credits(money.format_credits(ncr)) == ncr


@given(st.integers(0, money.NCR_MAX // 10**9))
def test_rates_written_are_read_back(ncr_per_unit: int) -> None:
    assert money.parse_rate_per_million(money.format_rate_per_million(ncr_per_unit)) == ncr_per_unit


@given(st.integers(-(10**15), 10**15), CURRENCIES)
def test_money_written_is_read_back(minor: int, currency: str) -> None:
    assert money.parse_money(money.format_money(minor, currency), currency) == minor


@given(AMOUNTS, PRICES)
def test_the_price_of_credits_is_exact(ncr: int, price: Decimal) -> None:
    assert Fraction(money.price_of(ncr, price)) == Fraction(ncr) * Fraction(price) / money.NCR_PER_CREDIT


@given(AMOUNTS, AMOUNTS, PRICES)
def test_the_price_of_a_sum_is_the_sum_of_the_prices(one: int, other: int, price: Decimal) -> None:
    assert Fraction(money.price_of(one + other, price)) == Fraction(money.price_of(one, price)) + Fraction(money.price_of(other, price))


@given(AMOUNTS, PRICES, CURRENCIES)
def test_rounding_moves_an_amount_by_half_a_minor_unit_at_most(ncr: int, price: Decimal, currency: str) -> None:
    exact = money.price_of(ncr, price)
    error = abs(Fraction(exact) * 10 ** money.exponent(currency) - money.round_money(exact, currency))
    assert error <= Fraction(1, 2)


@given(st.text(max_size=40))
def test_any_text_is_an_amount_or_invalid(text: str) -> None:
    for parse in (money.parse_credits, money.parse_rate_per_million, money.parse_price, lambda text: money.parse_money(text, "USD")):
        with suppress(Invalid):
            parse(text)


@pytest.mark.parametrize("text", ["1.00000000000000000000000000001", "0.0000000001", "1e-10", "NaN", "Infinity", "", "1,5", "10000000000", "1e30"])
def test_credits_that_are_no_amount_are_refused(text: str) -> None:
    with pytest.raises(Invalid):
        money.parse_credits(text)


@pytest.mark.parametrize("text", ["0.0001", "-1", "9223372036854775807", "0.00100000000000000000000000001", "one"])
def test_rates_with_too_many_digits_are_refused(text: str) -> None:
    with pytest.raises(Invalid):
        money.parse_rate_per_million(text)


@pytest.mark.parametrize("text", ["-0.01", "0.0000000000001", "123456789012345678901.0000000000001", "x"])
def test_prices_that_are_no_price_are_refused(text: str) -> None:
    with pytest.raises(Invalid):
        money.parse_price(text)


def test_a_large_price_is_kept_exact() -> None:
    assert money.parse_price("12345678901234567.123456789012") == Decimal("12345678901234567.123456789012")


def test_halves_are_rounded_away_from_zero() -> None:
    assert [money.round_money(Decimal(text), "USD") for text in ("0.005", "-0.005", "0.0049999", "0.015")] == [1, -1, 0, 2]
    assert money.round_money(Decimal("0.5"), "JPY") == 1


def test_a_public_price_becomes_credits_and_says_when_it_was_rounded() -> None:
    assert money.ncr_of_price(Decimal("0.15"), Decimal(1000), 1_000_000) == (150_000, True)
    assert money.ncr_of_price(Decimal("0.0000015"), Decimal("0.7"), 1_000_000) == (0, False)
    assert money.ncr_of_price(Decimal(10), Decimal(1000), 1_000) == (10 * 10**9, True)
