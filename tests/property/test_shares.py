"""Shares of slots: they add up, are the same wherever they are computed, follow the need, and are nobody's twice while they change hands."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.lanes.shares import Need, apportion, claim

NEEDS = st.builds(Need, fast=st.integers(0, 60), slow=st.integers(0, 60))
PROCESSES = st.dictionaries(st.text("abcdef0123456789", min_size=1, max_size=4), NEEDS, min_size=1, max_size=9)
SLOTS = st.integers(0, 200)


@given(SLOTS, PROCESSES)
def test_they_add_up_and_everybody_has_one(slots: int, needs: dict[str, Need]) -> None:
    shares = apportion(slots, needs)
    assert shares.keys() == needs.keys()
    assert min(shares.values()) >= 1
    assert sum(shares.values()) == max(slots, len(needs))


@given(SLOTS, PROCESSES, st.randoms(use_true_random=False))
def test_they_do_not_hang_on_the_order_in_which_one_heard_of_the_others(slots: int, needs: dict[str, Need], order: random.Random) -> None:
    shuffled = list(needs.items())
    order.shuffle(shuffled)
    assert apportion(slots, dict(shuffled)) == apportion(slots, needs)


@given(SLOTS, PROCESSES, st.data())
def test_needing_more_never_gets_one_less(slots: int, needs: dict[str, Need], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(needs)))
    more = needs | {name: Need(needs[name].fast + data.draw(st.integers(1, 5)), needs[name].slow)}
    assert apportion(slots, more)[name] >= apportion(slots, needs)[name]


@given(SLOTS, PROCESSES)
def test_one_slot_more_is_less_for_nobody(slots: int, needs: dict[str, Need]) -> None:
    before, after = apportion(slots, needs), apportion(slots + 1, needs)
    assert all(after[name] >= before[name] for name in needs)


@given(SLOTS, PROCESSES)
def test_the_fast_need_is_filled_evenly_from_below(slots: int, needs: dict[str, Need]) -> None:
    """Who lacks something for its fast requests has no less, but for one slot, than anybody who has more than the one that all have."""
    shares = apportion(slots, needs)
    for name, need in needs.items():
        if shares[name] < need.fast:
            for other in needs:
                assert shares[other] <= max(1, shares[name] + 1)
                assert shares[other] <= max(1, needs[other].fast), "a slow request, or room for one, went before a fast one"


@given(SLOTS, PROCESSES)
def test_the_slow_need_is_filled_before_room_is_made_for_what_may_come(slots: int, needs: dict[str, Need]) -> None:
    shares = apportion(slots, needs)
    if any(shares[name] < need.fast + need.slow for name, need in needs.items()):
        assert all(shares[name] <= max(1, need.fast + need.slow) for name, need in needs.items())


class Process:
    """One that beats: in one transaction it reads what all the others wrote, claims what it may, and writes its need and its claim."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.need = Need()
        self.share = 1

    def beat(self, books: dict[str, tuple[Need, int]], slots: int) -> None:
        others = {name: told for name, told in books.items() if name != self.name}
        due = apportion(slots, {name: need for name, (need, _share) in others.items()} | {self.name: self.need})[self.name]
        self.share = claim(due, self.share, slots - sum(share for _need, share in others.values()))
        books[self.name] = self.need, self.share


STEPS = st.lists(st.tuples(st.integers(0, 4), NEEDS, st.sampled_from(["beat", "need", "need and beat", "leave"])), max_size=80)


@settings(max_examples=300)
@given(st.integers(5, 64), STEPS)
def test_however_needs_and_processes_come_and_go_no_slot_is_claimed_twice(slots: int, steps: list[tuple[int, Need, str]]) -> None:
    """But for the one slot of each that has come, which the others give up at their next beats."""
    books: dict[str, tuple[Need, int]] = {}
    living: dict[str, Process] = {}
    unheard: dict[str, set[str]] = {}  # who has not beaten since somebody came
    for index, need, does in steps:
        name = f"p{index}"
        if does == "leave":
            living.pop(name, None)
            books.pop(name, None)
            unheard.pop(name, None)
            continue
        joins = name not in living
        process = living.setdefault(name, Process(name))
        if joins:
            unheard[name] = set(living) - {name}
        if "need" in does:
            process.need = need
        if joins or "beat" in does:
            process.beat(books, slots)
            for waits in unheard.values():
                waits.discard(name)
        new = sum(1 for name, waits in unheard.items() if waits & living.keys())
        assert sum(process.share for process in living.values()) <= slots + new
    for _ in range(3):  # all have said what they need; those that have too much take less; the others more
        for process in living.values():
            process.beat(books, slots)
    assert {name: process.share for name, process in living.items()} == apportion(slots, {name: process.need for name, process in living.items()})
    assert not living or sum(process.share for process in living.values()) == slots
