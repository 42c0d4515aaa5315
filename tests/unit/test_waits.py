"""Waits of the last minutes: quantiles near the true ones, a window that slides, counts that add up over processes."""

import random
from statistics import quantiles

import pytest

from gateway.lanes.waits import SLICE_US, WINDOW_US, Waits, merge, quantile_of, read
from tests.clock import START_US

S = 1_000_000


def of(waits_us: list[int], at_us: int = START_US) -> Waits:
    waits = Waits()
    for wait_us in waits_us:
        waits.add(wait_us, at_us)
    return waits


def test_nobody_waited_is_not_the_same_as_no_wait() -> None:
    assert Waits().quantile(0.5, START_US) is None
    assert of([0]).quantile(0.5, START_US) == 0
    assert of([1023]).quantile(0.5, START_US) == 0, "less than a millisecond is no wait"


@pytest.mark.parametrize("wait_us", [1024, 1151, 1152, 1500, 9_999, 10_000, 123_456, 999_999, 30 * S, 119 * S, 600 * S, 17 * 60 * S])
def test_a_quantile_is_within_seven_percent(wait_us: int) -> None:
    found = of([wait_us]).quantile(0.99, START_US)
    assert found is not None
    assert abs(found - wait_us) <= 0.07 * wait_us


def test_quantiles_of_many_are_near_the_true_ones() -> None:
    chance = random.Random(7)
    waits_us = [round(chance.lognormvariate(13, 1.5)) for _ in range(5000)]
    waits, true = of(waits_us), quantiles(waits_us, n=100)
    for percent in (10, 50, 90, 99):
        found = waits.quantile(percent / 100, START_US)
        assert found is not None
        assert abs(found - true[percent - 1]) <= 0.1 * true[percent - 1], percent


def test_a_part_of_the_requests_did_not_wait_longer_than_its_quantile() -> None:
    waits = of([0] * 99 + [5 * S])
    assert waits.quantile(0.99, START_US) == 0
    assert of([0] * 98 + [5 * S] * 2).quantile(0.99, START_US) == pytest.approx(5 * S, rel=0.07)


def test_what_is_longer_than_a_quarter_of_an_hour_counts_as_that() -> None:
    assert of([10**15]).quantile(0.5, START_US) == pytest.approx(18 * 60 * S, rel=0.1)


def test_the_window_slides() -> None:
    waits = of([2 * S], START_US)
    waits.add(8 * S, START_US + WINDOW_US // 2)
    assert len(waits.counts(START_US + WINDOW_US - SLICE_US)) == 2
    assert waits.quantile(0.01, START_US + WINDOW_US + SLICE_US) == pytest.approx(8 * S, rel=0.07)
    assert waits.quantile(0.5, START_US + 2 * WINDOW_US) is None


def test_after_a_long_silence_it_counts_on() -> None:
    waits = of([2 * S])
    waits.add(0, START_US + 100 * WINDOW_US)
    assert waits.counts(START_US + 100 * WINDOW_US) == {0: 1}


def test_what_several_processes_write_adds_up() -> None:
    one, two = of([0, 0, 2 * S]), of([2 * S, 9 * S])
    total = merge(read(waits.written(START_US)) for waits in (one, two))
    assert total == of([0, 0, 2 * S, 2 * S, 9 * S]).counts(START_US)
    assert quantile_of(total, 0.5) == pytest.approx(2 * S, rel=0.07)


def test_what_is_written_stays_short_however_many_waited() -> None:
    waits = of([round(1024 * 1.01**power) for power in range(1500)] * 20)
    assert len(waits.written(START_US)) <= 2 * 161


def test_half_a_pair_is_left_out() -> None:
    assert read([3, 7, 9]) == {3: 7}
