"""An account by example: holds are all or nothing, settlements keep off other requests' holds, news from the books changes no decision."""

import pytest

from billing.credits.account import Account, Flushed, Snapshot

DAY_END = 1_000


def snapshot(spendable: int, *, limit: int = 100, past: int = 0, day_ends: int = DAY_END) -> Snapshot:
    return Snapshot(tenant_id="acme", spendable_ncr=spendable, limit_ncr=limit, valid_until_us=9_999, reset_us=None, past_today_ncr=past, day_ends_us=day_ends)


def flushed(cover: int, spendable: int | None, past: int = 0) -> Flushed:
    return Flushed(tenant_id="acme", cover_ncr=cover, past_ncr=past, spendable_ncr=spendable)


def test_a_hold_is_all_or_nothing() -> None:
    account = Account(snapshot(100))
    assert account.hold(60)
    assert not account.hold(41)
    assert account.hold(40)
    assert account.free_ncr == 0
    assert account.remaining_ncr == 100


def test_a_free_request_is_held_also_in_debt() -> None:
    account = Account(snapshot(-5))
    assert account.hold(0)
    assert not account.hold(1)


def test_a_released_hold_is_free_again() -> None:
    account = Account(snapshot(100))
    account.hold(60)
    account.release(60)
    assert account.free_ncr == 100
    assert not account.busy


def test_an_account_is_busy_while_a_request_is_open_also_without_a_hold() -> None:
    account = Account(snapshot(0))
    account.open()
    assert account.hold(0)
    assert (account.open_requests, account.busy) == (2, True)
    account.settle(0, 0, full_cover=False)
    assert account.busy
    account.release(0)
    assert not account.busy


def test_a_hold_that_is_refused_opens_nothing() -> None:
    account = Account(snapshot(5))
    assert not account.hold(6)
    assert not account.busy


def test_a_fast_request_is_covered_whole_also_past_its_hold() -> None:
    account = Account(snapshot(100))
    account.hold(60)
    assert account.settle(60, 130, full_cover=True) == 130
    assert account.free_ncr == -30
    assert account.used_ncr == 130


def test_a_slow_request_never_takes_what_another_one_holds() -> None:
    account = Account(snapshot(100))
    account.hold(95)
    assert account.settle(0, 30, full_cover=False) == 5
    assert account.free_ncr == 0
    assert account.settle(95, 95, full_cover=True) == 95
    assert account.free_ncr == 0


def test_a_slow_request_of_a_tenant_in_debt_takes_nothing() -> None:
    assert Account(snapshot(-50)).settle(0, 30, full_cover=False) == 0


def test_a_flush_changes_nothing_that_a_hold_sees() -> None:
    account = Account(snapshot(100))
    account.hold(20)
    account.hold(30)
    account.settle(20, 15, full_cover=True)
    before = account.free_ncr
    account.flushed(flushed(15, 85))
    assert account.free_ncr == before == 55
    assert account.unflushed_ncr == 0


def test_a_reload_keeps_holds_and_what_is_not_booked() -> None:
    account = Account(snapshot(100))
    account.hold(20)
    account.hold(10)
    account.settle(10, 8, full_cover=True)
    account.reloaded(snapshot(1_000, limit=1_100))
    assert account.free_ncr == 1_000 - 20 - 8
    assert account.limit_ncr == 1_100


def test_a_parked_event_gives_its_credits_back() -> None:
    account = Account(snapshot(100))
    account.settle(0, 8, full_cover=True)
    account.flushed(flushed(8, None))
    assert account.free_ncr == 100


def test_use_past_the_credits_counts_for_the_day_and_ends_with_it() -> None:
    account = Account(snapshot(5, past=7))
    account.settle(0, 30, full_cover=False)
    assert account.spent_today_ncr(DAY_END - 1) == 7 + 25
    account.flushed(flushed(5, 0, past=25))
    assert account.spent_today_ncr(DAY_END - 1) == 7 + 25
    assert account.spent_today_ncr(DAY_END) == 0


@pytest.mark.parametrize(("held", "charge"), [(11, 1), (-1, 1), (1, -1)])
def test_a_settlement_that_does_not_fit_is_refused(held: int, charge: int) -> None:
    account = Account(snapshot(100))
    account.hold(10)
    with pytest.raises(ValueError, match="held"):
        account.settle(held, charge, full_cover=True)


@pytest.mark.parametrize("amount", [11, -1])
def test_more_than_is_held_cannot_be_released(amount: int) -> None:
    account = Account(snapshot(100))
    account.hold(10)
    with pytest.raises(ValueError, match="released"):
        account.release(amount)
