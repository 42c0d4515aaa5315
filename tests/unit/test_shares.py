"""How slots are shared out over processes, by example, and what a process may claim of what it is due."""

from gateway.lanes.shares import Need, apportion, claim


def test_a_process_alone_has_all_the_slots() -> None:
    assert apportion(64, {"a": Need()}) == {"a": 64}
    assert apportion(64, {"a": Need(fast=500, slow=500)}) == {"a": 64}


def test_slots_that_nobody_needs_are_spread_evenly() -> None:
    assert apportion(64, {"a": Need(), "b": Need(), "c": Need(), "d": Need()}) == {"a": 16, "b": 16, "c": 16, "d": 16}
    assert apportion(5, {"c": Need(), "b": Need(), "a": Need()}) == {"a": 2, "b": 2, "c": 1}


def test_what_is_needed_is_filled_before_anything_is_spread() -> None:
    assert apportion(16, {"busy": Need(fast=12), "idle": Need()}) == {"busy": 14, "idle": 2}


def test_a_fast_need_anywhere_is_filled_before_a_slow_one_elsewhere() -> None:
    assert apportion(10, {"fast": Need(fast=9), "slow": Need(slow=100)}) == {"fast": 9, "slow": 1}
    assert apportion(10, {"fast": Need(fast=4), "slow": Need(slow=100)}) == {"fast": 4, "slow": 6}


def test_those_who_need_more_than_there_is_get_the_same() -> None:
    assert apportion(12, {"a": Need(fast=100), "b": Need(fast=7), "c": Need(fast=2)}) == {"a": 5, "b": 5, "c": 2}


def test_every_process_has_a_slot_however_few_there_are() -> None:
    assert apportion(2, {"a": Need(fast=9), "b": Need(), "c": Need()}) == {"a": 1, "b": 1, "c": 1}
    assert apportion(0, {"a": Need()}) == {"a": 1}


def test_less_is_claimed_at_once_and_more_only_out_of_what_nobody_has_claimed() -> None:
    assert claim(due=3, held=8, left=5) == 3
    assert claim(due=8, held=3, left=5) == 5
    assert claim(due=8, held=3, left=3) == 3
    assert claim(due=8, held=3, left=20) == 8


def test_what_is_held_is_kept_where_others_have_claimed_too_much() -> None:
    assert claim(due=8, held=3, left=-4) == 3
    assert claim(due=2, held=3, left=-4) == 2


def test_a_claim_is_one_slot_at_least() -> None:
    assert claim(due=1, held=1, left=-7) == 1
    assert claim(due=5, held=1, left=0) == 1
