"""An account by example: holds are all or nothing, settlements keep off other requests' holds, news from the books changes no decision."""

from typing import Any

import pytest

from billing.credits.account import Account, Flushed, Snapshot
from billing.credits.purse import Claims, Cover, PurseState

DAY_END = 1_000


def purse(lease: int, *, name: str = "", left: int | None = None, available: int = 0, limit: int = 100, **scope: Any) -> PurseState:
    order = scope.pop("order", (2, 10))
    return PurseState(name=name, lease_ncr=lease, left_ncr=lease if left is None else left, available_ncr=available, limit_ncr=limit, order=order, **scope)


def snapshot(*purses: PurseState | int, past: int = 0, day_ends: int = DAY_END, ceilings: tuple[PurseState, ...] = ()) -> Snapshot:
    states = tuple(purse(one) if isinstance(one, int) else one for one in purses)
    return Snapshot(tenant_id="acme", purses=states, ceilings=ceilings, valid_until_us=9_999, reset_us=None, past_today_ncr=past, day_ends_us=day_ends)


def flushed(taken: dict[str, int], *states: PurseState, past: int = 0) -> Flushed:
    return Flushed(tenant_id="acme", taken=taken, past_ncr=past, states=states)


def plain(account: Account) -> Claims:
    return account.claims("key_1", None, "m")


def test_a_hold_is_all_or_nothing() -> None:
    account = Account(snapshot(100))
    assert account.hold(plain(account), 60)
    assert not account.hold(plain(account), 41)
    assert account.hold(plain(account), 40)
    assert plain(account).free_ncr == 0
    assert plain(account).remaining_ncr == 100


def test_only_what_is_leased_can_be_held_whatever_the_tenant_has() -> None:
    account = Account(snapshot(purse(30, left=100, available=10)))
    assert not account.hold(plain(account), 31)
    assert account.hold(plain(account), 30)
    assert (plain(account).remaining_ncr, plain(account).unheld_ncr) == (100, 70)


def test_a_free_request_is_held_also_in_debt() -> None:
    account = Account(snapshot(-5))
    assert account.hold(plain(account), 0)
    assert not account.hold(plain(account), 1)


def test_a_released_hold_is_free_again() -> None:
    account = Account(snapshot(100))
    hold = account.hold(plain(account), 60)
    assert hold is not None
    account.release(hold)
    assert plain(account).free_ncr == 100
    assert not account.busy


def test_an_account_is_busy_while_a_request_is_open_also_without_a_hold() -> None:
    account = Account(snapshot(0))
    first = account.open(plain(account))
    second = account.hold(plain(account), 0)
    assert second is not None
    assert (account.open_requests, account.busy) == (2, True)
    account.settle(first, 0, full_cover=False)
    assert account.busy
    account.release(second)
    assert not account.busy


def test_a_hold_that_is_refused_opens_nothing() -> None:
    account = Account(snapshot(5))
    assert not account.hold(plain(account), 6)
    assert not account.busy


def test_a_fast_request_is_covered_whole_also_past_its_hold() -> None:
    account = Account(snapshot(100))
    hold = account.hold(plain(account), 60)
    assert hold is not None
    assert account.settle(hold, 130, full_cover=True) == Cover(130)
    assert plain(account).free_ncr == -30
    assert plain(account).remaining_ncr == -30


def test_a_slow_request_takes_what_is_free_and_never_anothers_hold() -> None:
    account = Account(snapshot(100))
    account.hold(plain(account), 60)
    assert account.settle(account.open(plain(account)), 70, full_cover=False) == Cover(40)
    assert plain(account).free_ncr == 0
    assert account.spent_today_ncr(0) == 30
    assert account.settle(account.open(plain(account)), 5, full_cover=False) == Cover(0)


def test_a_flush_moves_what_was_settled_into_the_books_and_changes_nothing_that_is_free() -> None:
    account = Account(snapshot(100))
    account.settle(account.open(plain(account)), 30, full_cover=True)
    account.flushed(flushed({"": 30}, purse(70)))
    assert plain(account).free_ncr == plain(account).remaining_ncr == 70
    assert account.unflushed_ncr == 0


def test_a_flush_whose_events_were_parked_frees_nothing_but_the_waiting() -> None:
    account = Account(snapshot(100))
    account.settle(account.open(plain(account)), 30, full_cover=True)
    account.flushed(flushed({"": 30}))
    assert plain(account).free_ncr == 100


def test_past_the_credits_is_counted_from_midnight_to_midnight() -> None:
    account = Account(snapshot(0, past=7))
    account.settle(account.open(plain(account)), 5, full_cover=False)
    assert account.spent_today_ncr(DAY_END - 1) == 12
    account.flushed(flushed({}, past=5))
    assert account.spent_today_ncr(DAY_END - 1) == 12
    assert account.spent_today_ncr(DAY_END) == 0


def test_a_hold_cannot_end_twice() -> None:
    account = Account(snapshot(100))
    hold = account.hold(plain(account), 10)
    assert hold is not None
    account.release(hold)
    with pytest.raises(ValueError, match="cannot be released"):
        account.release(hold)


def test_a_negative_charge_is_refused() -> None:
    account = Account(snapshot(100))
    with pytest.raises(ValueError, match="none"):
        account.settle(account.open(plain(account)), -1, full_cover=True)


def test_a_seat_pays_before_its_tenant_and_only_for_its_key() -> None:
    seat = purse(20, name="key:key_1", order=(0, 10), key_id="key_1")
    account = Account(snapshot(purse(100), seat))
    assert account.claims("key_2", None, "m").free_ncr == 100
    mine = plain(account)
    assert mine.free_ncr == 120
    hold = account.hold(mine, 50)
    assert hold is not None
    assert hold.named() == {"key:key_1": 20, "": 30}
    assert account.settle(hold, 35, full_cover=True) == Cover(35, {"key:key_1": 20, "": 15})
    assert (mine.free_ncr, account.general.free_ncr) == (85, 85)


def test_credits_for_some_models_serve_only_those() -> None:
    account = Account(snapshot(purse(10), purse(50, name="models:big", order=(2, 5), models=("big",))))
    assert account.claims("key_1", None, "small").free_ncr == 10
    assert account.claims("key_1", None, "big").free_ncr == 60


def test_what_all_purses_lack_is_owed_by_the_tenant() -> None:
    account = Account(snapshot(purse(10), purse(5, name="key:key_1", order=(0, 10), key_id="key_1")))
    assert account.settle(account.open(plain(account)), 40, full_cover=True) == Cover(40, {"key:key_1": 5, "": 35})
    assert account.general.free_ncr == -25


def test_a_ceiling_stops_its_key_while_the_tenant_has_credits() -> None:
    account = Account(snapshot(purse(100), ceilings=(purse(30, name="cap:key:key_1", limit=30),)))
    mine, other = plain(account), account.claims("key_2", None, "m")
    hold = account.hold(mine, 25)
    assert hold is not None
    assert not account.hold(mine, 6)
    assert account.hold(other, 6)
    assert account.settle(hold, 20, full_cover=True) == Cover(20, {"": 20, "cap:key:key_1": 20})
    assert (mine.free_ncr, mine.remaining_ncr, mine.limit_ncr) == (10, 10, 30)
    taken = {"": 20, "cap:key:key_1": 20}
    told = Flushed(tenant_id="acme", taken=taken, past_ncr=0, by_period={("cap:key:key_1", None): 20}, states=(purse(80),), ceilings={"cap:key:key_1": 10})
    account.flushed(told)
    assert (mine.free_ncr, mine.remaining_ncr) == (10, 10)


def test_a_slow_request_takes_no_more_than_its_ceiling() -> None:
    account = Account(snapshot(purse(100), ceilings=(purse(5, name="cap:project:lab", limit=5),)))
    claims = account.claims("key_1", "lab", "m")
    assert account.settle(account.open(claims), 50, full_cover=False).ncr == 5


def test_a_purse_whose_grants_ended_serves_no_more_but_keeps_what_is_under_way() -> None:
    seat = purse(20, name="key:key_1", order=(0, 10), key_id="key_1")
    account = Account(snapshot(purse(100), seat))
    hold = account.hold(plain(account), 15)
    assert hold is not None
    account.reloaded(snapshot(100))
    assert plain(account).free_ncr == 100
    assert account.settle(hold, 15, full_cover=True).ncr == 15
    account.flushed(flushed({"": 15}, purse(85)))
    assert account.unflushed_ncr == 0


def test_an_account_without_leases_admits_nothing_and_forgets_nothing() -> None:
    account = Account(snapshot(100))
    hold = account.hold(plain(account), 30)
    assert hold is not None
    account.unleased()
    assert not account.hold(plain(account), 1)
    assert account.settle(hold, 30, full_cover=True) == Cover(30)
    assert (account.unflushed_ncr, plain(account).remaining_ncr) == (30, 70)


def test_the_books_are_asked_again_when_they_have_more_or_after_a_while() -> None:
    account = Account(snapshot(purse(0, left=50)))
    claims = plain(account)
    claims.dry_until_s = 5.0
    assert not claims.may_ask(4.9)
    assert claims.may_ask(5.0)
    account.flushed(flushed({}, purse(0, left=50, available=1)))
    assert claims.may_ask(4.9)


def test_a_lease_is_low_when_half_of_the_last_draw_is_gone_and_there_is_more() -> None:
    account = Account(snapshot(purse(40, left=100, available=60)))
    assert not plain(account).low()
    account.hold(plain(account), 21)
    assert plain(account).low()
    account.flushed(flushed({}, purse(40, left=40, available=0)))
    assert not plain(account).low()


def test_what_an_earlier_period_used_is_not_taken_off_this_ones_ceiling() -> None:
    account = Account(snapshot(purse(100), ceilings=(purse(30, name="cap:key:key_1", limit=30),)))
    hold = account.hold(plain(account), 25)
    assert hold is not None
    account.settle(hold, 25, full_cover=True)
    taken = {"": 25, "cap:key:key_1": 25}
    account.flushed(Flushed(tenant_id="acme", taken=taken, past_ncr=0, by_period={("cap:key:key_1", 77): 25}, states=(purse(75),), ceilings={}))
    assert plain(account).remaining_ncr == 30


def test_what_the_tenant_owes_takes_nothing_from_a_seat() -> None:
    account = Account(snapshot(purse(0, left=-50), purse(20, name="key:key_1", order=(0, 10), key_id="key_1")))
    assert plain(account).unheld_ncr == plain(account).remaining_ncr == 20
    assert account.claims("key_2", None, "m").unheld_ncr == -50


def test_credits_for_a_new_scope_are_found_also_when_a_flush_tells_of_them_first() -> None:
    account = Account(snapshot(purse(10), purse(5, name="models:x", order=(2, 5), models=("x",))))
    assert plain(account).free_ncr == 10
    seat = purse(20, name="key:key_1", order=(0, 10), key_id="key_1")
    account.flushed(flushed({}, purse(10), seat))
    account.reloaded(snapshot(purse(10), purse(5, name="models:x", order=(2, 5), models=("x",)), seat))
    assert plain(account).free_ncr == 30


def test_what_other_processes_served_past_the_credits_counts_for_the_day() -> None:
    account = Account(snapshot(0))
    account.settle(account.open(plain(account)), 5, full_cover=False)
    account.flushed(Flushed(tenant_id="acme", taken={}, past_ncr=5, today=(0, 85)))
    assert account.spent_today_ncr(1) == 85
    account.flushed(Flushed(tenant_id="acme", taken={}, past_ncr=0, today=(-1, 3)))
    assert account.spent_today_ncr(1) == 85


def test_a_purse_keeps_what_it_used_lately_and_gives_back_the_rest_where_nobody_has_any() -> None:
    part = Account(snapshot(purse(100, left=100, available=0))).general
    part.used_ncr = 30
    assert part.surplus_ncr(1000) == 70
    part.next_span()
    assert part.surplus_ncr(1000) == 70
    part.next_span()
    assert part.surplus_ncr(1000) == 100


def test_where_there_is_some_for_all_only_what_is_past_the_bound_goes_back_and_what_is_idle() -> None:
    part = Account(snapshot(purse(100, left=500, available=400))).general
    assert part.surplus_ncr(60) == 40
    part.next_span()
    part.next_span()
    assert part.surplus_ncr(60) == 100


def test_what_a_purse_gave_whose_grants_are_void_is_not_free_again_when_it_is_booked() -> None:
    account = Account(snapshot(purse(10), purse(5, name="key:key_1", order=(0, 10), key_id="key_1")))
    hold = account.hold(plain(account), 5)
    assert hold is not None
    assert account.settle(hold, 5, full_cover=True).purses == {"key:key_1": 5}
    before = plain(account).free_ncr
    account.flushed(flushed({"key:key_1": 5}, purse(10)))
    assert plain(account).free_ncr == before == 10
