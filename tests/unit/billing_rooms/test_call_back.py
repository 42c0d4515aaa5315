"""Near the end of the credits: what is set aside for a process that does not need it goes to the one that does, before anybody is billed or refused."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from billing.credits.account import Account
from billing.credits.accounts import Accounts
from billing.credits.draw import Want
from billing.credits.purse import Claims
from billing.db import Database
from billing.leases import store as leases
from billing.tenants.store import changes_since
from billing.usage.journal import Journal
from billing.usage.recorder import Recorder
from tests.books import grant, seed
from tests.clock import ManualClock
from tests.tenure import FixedTenure


class Process:
    def __init__(self, db: Database, folder: Path, name: str) -> None:
        self.clock = ManualClock()
        self.recorder = Recorder(db, Journal(folder, self.clock.now_us), self.clock.now_us, flush_ms=1)
        self.recorder.replica_id = name
        self.accounts = Accounts(self.recorder, self.clock, FixedTenure(db, name, processes=2))
        self.recorder.start(asyncio.get_running_loop().call_soon_threadsafe)

    async def settled(self) -> None:
        for _ in range(3):
            await asyncio.wrap_future(self.recorder.run(lambda _session: None))

    async def draw(self, need: int) -> Account:
        return await self.accounts.load("acme", Want(key_id="key_1", project=None, model="m", need_ncr=need))


def plain(account: Account) -> Claims:
    return account.claims("key_1", None, "m")


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Process, Process]]:
    db = Database(f"sqlite:///{tmp_path / 'weir.db'}")
    db.migrate()
    seed(db, "acme", grant("g", 100))
    one, two = Process(db, tmp_path / "one", "one"), Process(db, tmp_path / "two", "two")
    yield one, two
    for process in (one, two):
        process.recorder.stop()
    db.close()


async def test_what_another_does_not_hold_comes_when_it_is_called_for(pair: tuple[Process, Process]) -> None:
    one, two = pair
    rich = await one.draw(100)
    held = rich.hold(plain(rich), 30)
    assert held is not None
    poor = await two.draw(50)
    assert (plain(poor).free_ncr, plain(poor).elsewhere_ncr, plain(poor).unheld_ncr) == (0, 100, 100)
    calling = asyncio.create_task(two.accounts.call_back("acme"))
    again = asyncio.create_task(two.accounts.call_back("acme"))
    await asyncio.sleep(0)
    await two.settled()
    with two.recorder._db.read() as session:
        assert [change.tenant_id for change in changes_since(session, 0)] == ["acme"]  # both called with one voice
    one.accounts.refresh("acme")  # as the change feed has it do
    await one.settled()
    await asyncio.gather(calling, again)
    assert plain(rich).free_ncr == 0
    with one.recorder._db.read() as session:
        assert [lease.amount_ncr for lease in leases.held_by(session, "one")] == [30]
    await two.draw(50)
    assert plain(poor).free_ncr >= 50


async def test_a_change_gives_nothing_back_while_there_is_some_for_all(pair: tuple[Process, Process]) -> None:
    one, _two = pair
    account = await one.draw(10)
    one.accounts.refresh("acme")
    await one.settled()
    assert plain(account).free_ncr > 0
