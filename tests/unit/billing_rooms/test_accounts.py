"""Accounts are loaded once, kept with their holds, and never overtaken by a batch that was booked meanwhile."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import pytest
from sqlmodel import Session

from billing.credits import accounts as accounts_module
from billing.credits.account import Account, Flushed, Snapshot
from billing.credits.accounts import Accounts
from billing.credits.draw import Member, Want
from billing.credits.purse import Claims, PurseState
from billing.db import Database
from billing.errors import BooksUnavailable, NotFound
from billing.grants import store as grants
from billing.leases import store as leases
from billing.plans import store as plans
from billing.plans.terms import PlanTerms
from billing.usage.journal import Journal
from billing.usage.recorder import Recorder
from billing.work import Urgency
from tests.books import HOUR_US, event, grant, seed
from tests.clock import START_US, ManualClock
from tests.tenure import FixedTenure

T = TypeVar("T")


class Rig:
    def __init__(self, db: Database, folder: Path) -> None:
        self.db = db
        self.clock = ManualClock()
        self.recorder = Recorder(db, Journal(folder, self.clock.now_us), self.clock.now_us, flush_ms=1)
        self.tenure = FixedTenure(db)
        self.recorder.replica_id = self.tenure.member.replica_id
        self.accounts = Accounts(self.recorder, self.clock, self.tenure)
        self.recorder.start(asyncio.get_running_loop().call_soon_threadsafe)

    async def settled(self) -> None:
        """Wait until everything settled is booked and heard of."""
        while self.recorder.backlog:
            await asyncio.wrap_future(self.recorder.run(lambda _session: None))
        await asyncio.wrap_future(self.recorder.run(lambda _session: None))


ALL = Want(key_id="key_1", project=None, model="m", need_ncr=10**9)


def plain(account: Account) -> Claims:
    return account.claims("key_1", None, "m")


@pytest.fixture
async def rig(db: Database, tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(db, tmp_path / "journal")
    yield rig
    rig.recorder.stop()


async def test_an_account_is_loaded_once_for_all_who_ask_together(rig: Rig) -> None:
    seed(rig.db, "acme", grant("g", 100))
    assert rig.accounts.get("acme") is None
    first, second = await asyncio.gather(rig.accounts.load("acme"), rig.accounts.load("acme"))
    assert first is second is rig.accounts.get("acme")
    assert (plain(first).remaining_ncr, plain(first).limit_ncr, first.reset_us) == (100, 100, None)


async def test_a_tenant_that_does_not_exist_is_not_found(rig: Rig) -> None:
    with pytest.raises(NotFound):
        await rig.accounts.load("nobody")
    assert len(rig.accounts) == 0


async def test_the_months_allowance_is_written_by_whoever_looks_first(rig: Rig) -> None:
    seed(rig.db, "acme")
    with rig.db.write() as session:
        plans.subscribe(session, "acme", plans.add_version(session, PlanTerms(plan="pro", allowance_ncr=500), START_US), START_US)
    account = await rig.accounts.load("acme")
    assert plain(account).remaining_ncr == plain(account).limit_ncr == 500
    assert account.reset_us == account.valid_until_us
    rig.clock.at_us = account.valid_until_us
    assert rig.accounts.get("acme") is None
    assert (await rig.accounts.load("acme")) is account
    assert plain(account).remaining_ncr == 500


async def test_settled_use_is_booked_and_a_reload_keeps_holds(rig: Rig) -> None:
    seed(rig.db, "acme", grant("g", 100))
    account = await rig.accounts.load("acme", ALL)
    account.hold(plain(account), 30)
    hold = account.hold(plain(account), 20)
    assert hold is not None
    account.settle(hold, 15, full_cover=True)
    rig.recorder.settled(event(1, 15))
    with rig.db.write() as session:
        grants.insert_grant(session, grant("g2", 1000))
    rig.accounts.refresh("acme")
    await rig.settled()
    assert account.unflushed_ncr == 0
    assert plain(account).unheld_ncr == 1100 - 15 - 30
    assert plain(account).limit_ncr == 1100


async def test_a_grant_that_begins_later_makes_the_account_stale_then(rig: Rig) -> None:
    seed(rig.db, "acme", grant("g", 100), grant("later", 50, effective_us=START_US + HOUR_US))
    account = await rig.accounts.load("acme")
    assert (plain(account).remaining_ncr, account.valid_until_us) == (100, START_US + HOUR_US)
    rig.clock.at_us = START_US + HOUR_US
    assert plain(await rig.accounts.load("acme")).remaining_ncr == 150


async def test_use_past_the_credits_counts_from_the_tenants_midnight(rig: Rig) -> None:
    seed(rig.db, "acme", timezone="Asia/Tokyo")
    account = await rig.accounts.load("acme")
    assert account.settle(account.open(plain(account)), 40, full_cover=False).ncr == 0
    rig.recorder.settled(event(1, 40, cover_ncr=0, lane="slow", day_us=account.day_us))
    await rig.settled()
    assert account.spent_today_ncr(rig.clock.now_us()) == 40
    rig.accounts.refresh("acme")
    await rig.settled()
    assert account.spent_today_ncr(rig.clock.now_us()) == 40
    assert account.day_ends_us == START_US + 3 * HOUR_US  # 12:00 UTC is 21:00 in Tokyo
    rig.clock.at_us = account.day_ends_us
    assert account.spent_today_ncr(rig.clock.now_us()) == 0
    assert rig.accounts.get("acme") is account
    await rig.settled()
    assert account.day_ends_us == START_US + 27 * HOUR_US


async def test_after_a_change_of_plans_an_account_is_read_again_when_it_is_next_asked_for(rig: Rig) -> None:
    seed(rig.db, "acme", grant("g", 100))
    account = await rig.accounts.load("acme")
    with rig.db.write() as session:
        grants.insert_grant(session, grant("g2", 50))
    rig.accounts.refresh_all()
    await rig.settled()
    assert plain(account).remaining_ncr == 100
    assert rig.accounts.get("acme") is account
    await rig.settled()
    assert plain(account).remaining_ncr == 150


async def test_only_idle_accounts_are_dropped(db: Database, tmp_path: Path) -> None:
    rig = Rig(db, tmp_path / "journal")
    rig.accounts = Accounts(rig.recorder, rig.clock, rig.tenure, accounts_max=2)
    for name in ("a", "b", "c"):
        seed(db, name, grant(f"g-{name}", 10, tenant_id=name))
    account = await rig.accounts.load("a", ALL)
    assert account.hold(plain(account), 5)
    await rig.accounts.load("b")
    await rig.accounts.load("c")
    assert rig.accounts.get("a") is not None
    assert rig.accounts.get("b") is None
    assert len(rig.accounts) == 2
    rig.recorder.stop()


async def test_an_account_with_a_request_that_holds_nothing_is_not_dropped(db: Database, tmp_path: Path) -> None:
    rig = Rig(db, tmp_path / "journal")
    rig.accounts = Accounts(rig.recorder, rig.clock, rig.tenure, accounts_max=1)
    for name in ("a", "b", "c"):
        seed(db, name, grant(f"g-{name}", 100, tenant_id=name))
    account = await rig.accounts.load("a", ALL)
    hold = account.open(plain(account))
    await rig.accounts.load("b")
    assert rig.accounts.get("a") is account
    rig.recorder.settled(event(1, 60, tenant="a", cover_ncr=account.settle(hold, 60, full_cover=False).ncr, lane="slow"))
    await rig.settled()
    assert (plain(account).remaining_ncr, account.unflushed_ncr) == (40, 0)
    await rig.accounts.load("c")
    assert rig.accounts.get("a") is None
    rig.recorder.stop()


async def test_an_account_that_somebody_waits_for_is_not_dropped_before_it_is_used(db: Database, tmp_path: Path) -> None:
    rig = Rig(db, tmp_path / "journal")
    rig.accounts = Accounts(rig.recorder, rig.clock, rig.tenure, accounts_max=1)
    names = [f"t{number}" for number in range(20)]
    for name in names:
        seed(db, name, grant(f"g-{name}", 10, tenant_id=name))
    loaded = await asyncio.gather(*map(rig.accounts.load, names))
    assert [account.tenant_id for account in loaded] == names
    rig.recorder.stop()


class AwayBooks:
    """Books whose every reading fails at once."""

    def __init__(self) -> None:
        self.on_flushed: Callable[[list[Flushed]], None] | None = None
        self.away = False
        self.readings = 0
        self.member = Member(replica_id="r", beats=(1,))

    def run(
        self,
        _work: Callable[[Session], T],
        then: Callable[[T], None] | None = None,
        otherwise: Callable[[BaseException], None] | None = None,
        *,
        urgency: Urgency = Urgency.LATER,
        key: str | None = None,
    ) -> Future[T]:
        self.readings += 1
        future: Future[T] = Future()
        if self.away:
            assert otherwise is not None
            otherwise(BooksUnavailable("away"))
            future.set_exception(BooksUnavailable("away"))
        elif then is not None:
            own = PurseState(name="", lease_ncr=5, left_ncr=5, available_ncr=0)
            day = Snapshot(tenant_id="acme", purses=(own,), valid_until_us=2**62, reset_us=None, past_today_ncr=0, day_ends_us=START_US + HOUR_US)
            then(day)  # type: ignore[arg-type]
            future.set_result(day)  # type: ignore[arg-type]
        return future

    def displaced(self, _replica_id: str) -> None:
        raise AssertionError("nobody was displaced")


@pytest.mark.parametrize("day_ended", [False, True])
async def test_a_reading_that_failed_is_tried_again_once_a_second_and_not_with_every_request(day_ended: bool) -> None:
    books, clock = AwayBooks(), ManualClock()
    accounts = Accounts(books, clock, books)
    account = await accounts.load("acme")
    books.away = True
    if day_ended:
        clock.at_us += HOUR_US
    else:
        accounts.refresh_all()
    for _ in range(50):
        assert accounts.get("acme") is account
    assert books.readings == 2
    clock.at_us += 999_999
    accounts.get("acme")
    assert books.readings == 2
    clock.at_us += 1
    accounts.get("acme")
    accounts.get("acme")
    assert books.readings == 3


async def test_many_settlements_and_reloads_at_once_end_exactly(rig: Rig) -> None:
    seed(rig.db, "acme", grant("g", 10**6))
    account = await rig.accounts.load("acme", ALL)
    for number in range(400):
        hold = account.hold(plain(account), 100)
        assert hold is not None
        account.settle(hold, 10, full_cover=True)
        rig.recorder.settled(event(number, 10))
        if number % 7 == 0:
            rig.accounts.refresh("acme")
        if number % 13 == 0:
            await asyncio.sleep(0)
        assert plain(account).remaining_ncr == 10**6 - 10 * (number + 1)
    await rig.settled()
    assert plain(account).free_ncr == plain(account).remaining_ncr == 10**6 - 4_000
    assert not account.busy


async def test_a_request_after_a_background_look_is_not_told_that_the_books_failed(rig: Rig) -> None:
    seed(rig.db, "acme", grant("g", 100))
    account = await rig.accounts.load("acme")
    rig.accounts.refresh_all()
    rig.accounts.get("acme")
    assert account.retry_s <= rig.clock.monotonic_s()


async def test_many_requests_at_a_low_lease_ask_the_books_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    seed(rig.db, "acme", grant("g", 10**6))
    account = await rig.accounts.load("acme", Want(key_id="key_1", project=None, model="m", need_ncr=0))
    asked: list[str] = []
    monkeypatch.setattr(rig.accounts, "_ask", lambda tenant_id, *_want, **_urgent: asked.append(tenant_id))
    for _ in range(100):
        rig.accounts.want_more(account, plain(account), ALL)
    assert len(asked) == 1


async def test_what_the_books_have_set_aside_and_nobody_knows_of_goes_back(rig: Rig) -> None:
    for name in ("acme", "beta"):
        seed(rig.db, name, grant(f"g-{name}", 100, tenant_id=name))
        await rig.accounts.load(name, ALL)
    account = rig.accounts.get("acme")
    assert account is not None
    account.general.lease_ncr = 30  # a giving back that failed
    del rig.accounts._accounts["beta"]  # a first draw whose answer was lost
    rig.accounts.reconcile()
    await rig.settled()
    await rig.settled()
    with rig.db.read() as session:
        left = {lease.tenant_id: lease.amount_ncr for lease in leases.held_by(session, "r1")}
    assert left == {"acme": 30}


async def test_a_hoard_goes_back_and_others_can_draw_it(rig: Rig) -> None:
    seed(rig.db, "acme", grant("g", 1000))
    account = await rig.accounts.load("acme", Want(key_id="key_1", project=None, model="m", need_ncr=1000))
    hold = account.hold(plain(account), 1000)
    assert hold is not None
    account.settle(hold, 5, full_cover=True)
    rig.recorder.settled(event(1, 5))
    await rig.settled()
    assert rig.accounts.give_back(100) == 1
    await rig.settled()
    with rig.db.read() as session:
        assert [lease.amount_ncr for lease in leases.held_by(session, "r1")] == [5]  # what it used lately
    assert account.general.free_ncr == 5


async def test_a_change_while_an_account_is_first_drawn_is_not_missed(rig: Rig) -> None:
    seed(rig.db, "acme", grant("g", 100))
    loading = asyncio.create_task(rig.accounts.load("acme"))
    await asyncio.sleep(0)
    with rig.db.write() as session:
        grants.insert_grant(session, grant("g2", 50))
    rig.accounts.refresh("acme")
    account = await loading
    await rig.settled()
    assert plain(account).remaining_ncr == 150


async def test_an_account_with_a_draw_under_way_is_not_dropped(db: Database, tmp_path: Path) -> None:
    rig = Rig(db, tmp_path / "journal")
    rig.accounts = Accounts(rig.recorder, rig.clock, rig.tenure, accounts_max=1)
    for name in ("a", "b"):
        seed(db, name, grant(f"g-{name}", 10, tenant_id=name))
    account = await rig.accounts.load("a")
    rig.accounts.refresh("a")
    other = asyncio.create_task(rig.accounts.load("b"))
    await other
    await rig.settled()
    assert rig.accounts.get("a") in (None, account)
    rig.recorder.stop()


async def test_a_draw_that_nobody_waits_for_any_more_is_not_made(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    seed(rig.db, "acme", grant("g", 100))
    made: list[str] = []
    monkeypatch.setattr(accounts_module, "draw", lambda _session, _member, tenant_id, *_rest: made.append(tenant_id))
    busy = threading.Event()
    rig.recorder.run(lambda _session: busy.wait(10), urgency=Urgency.BEAT)
    waiting = asyncio.create_task(rig.accounts.load("acme"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    busy.set()
    await rig.settled()
    assert made == []
    assert not rig.accounts._drawing


async def test_requests_of_many_tenants_share_a_transaction_and_one_that_is_unknown_spoils_none(rig: Rig) -> None:
    names = [f"t{number}" for number in range(20)]
    for name in names:
        seed(rig.db, name, grant(f"g-{name}", 10, tenant_id=name))
    loads = [asyncio.create_task(rig.accounts.load(name)) for name in (*names, "nobody")]
    found = await asyncio.gather(*loads, return_exceptions=True)
    assert [account.tenant_id for account in found if isinstance(account, Account)] == names
    assert isinstance(found[-1], NotFound)
