"""The audit of the ledger: piece by piece, whatever goes wrong with one piece, and never silent about a ledger that it cannot sum."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from billing.db import Database
from billing.errors import BooksUnavailable
from billing.ledger import store as ledger
from billing.ledger.postings import Entry, Posting
from billing.usage.journal import Journal
from billing.usage.recorder import Recorder
from gateway import vitals
from gateway.config.settings import Settings
from gateway.vitals import Vitals
from tests.clock import START_US, ManualClock
from tests.reads import Reads, books


class Audit:
    """An audit over real books, whose way to them may be troubled."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.clock, self.reads = database, ManualClock(), Reads(database)
        journal = Journal(folder / "journal", self.clock.now_us)
        self.vitals = Vitals(Settings(), self.clock, recorder=Recorder(database, journal, self.clock.now_us), journal=journal, pools={})

    @asynccontextmanager
    async def under_way(self) -> AsyncIterator[None]:
        task = self.vitals.beside("the audit", self.vitals.audit(self.reads), needed=False)
        try:
            async with asyncio.timeout(10):
                yield
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def says(self, imbalance_ncr: int | None) -> None:
        while self.vitals.imbalance_ncr != imbalance_ncr:
            await asyncio.sleep(0.002)

    def post(self, count: int) -> None:
        sides = (Entry("consumed", 5), Entry("issued", -5))
        with self.database.write() as session:
            first = ledger.newest_entry(session)
            ledger.post(session, [Posting(idem_key=f"t{first + n}", kind="usage", tenant_id="acme", at_us=START_US, entries=sides) for n in range(count)])

    def spoil(self, tx_id: int, ncr: int) -> None:
        with self.database.engine.begin() as connection:
            connection.exec_driver_sql(f"INSERT INTO ledger_entry (tx_id, seq, account, amount_ncr) VALUES ({tx_id}, 99, 'consumed', {ncr})")


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Audit]:
    for name, value in {"AUDIT_EVERY_S": 0.005, "AUDIT_AGAIN_S": 0.005, "AUDIT_TX": 10, "AUDIT_OPEN_TX": 3, "AUDIT_STEPS_MAX": 2}.items():
        monkeypatch.setattr(vitals, name, value)
    with books(tmp_path) as database:
        made = Audit(database, tmp_path)
        yield made
        made.reads.close()


async def test_a_large_ledger_is_summed_piece_by_piece_and_each_piece_once(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    audit.post(57)
    pieces: list[tuple[int, int]] = []

    def entry_sum(session: object, after: int, upto: int) -> int:
        pieces.append((after, upto))
        return ledger.entry_sum(session, after, upto)  # type: ignore[arg-type]

    monkeypatch.setattr(vitals, "entry_sum", entry_sum)
    async with audit.under_way():
        await audit.says(0)
    assert pieces[:7] == [(0, 10), (10, 20), (20, 30), (30, 40), (40, 50), (50, 54), (54, 57)]
    assert set(pieces[7:]) <= {(54, 57)}


async def test_what_is_wrong_anywhere_is_told(audit: Audit, caplog: pytest.LogCaptureFixture) -> None:
    audit.post(57)
    audit.spoil(5, 7)
    async with audit.under_way():
        await audit.says(7)
        audit.spoil(57, 2)
        await audit.says(9)
        audit.post(20)
        audit.spoil(77, 1)
        await audit.says(10)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]
    assert [re.findall(r"sum to (\d+) ncr", line) for line in said] == [["7"], ["9"], ["10"]]


@pytest.mark.parametrize("trouble", [BooksUnavailable("it took too long"), RuntimeError("a column is gone")])
async def test_trouble_with_one_piece_ends_nothing_and_is_no_reason_to_begin_anew(audit: Audit, trouble: Exception, caplog: pytest.LogCaptureFixture) -> None:
    audit.post(57)
    async with audit.under_way():
        await audit.reads.attempts(3)
        audit.reads.trouble = trouble
        await audit.reads.attempts(3)
        assert str(trouble) in caplog.text
        audit.reads.trouble = None
        await audit.says(0)
    assert audit.vitals.missing() == []
    assert min(record.levelno for record in caplog.records if record.name == "weir") >= logging.WARNING


async def test_that_all_is_well_is_not_said_for_longer_than_it_is_known(audit: Audit) -> None:
    audit.post(5)
    async with audit.under_way():
        await audit.says(0)
        audit.reads.trouble = BooksUnavailable("away")
        await audit.reads.attempts(2)
        audit.clock.advance(vitals.AUDIT_STALE_S + 1)
        assert audit.vitals.imbalance_ncr is None
        audit.reads.trouble = None
        await audit.says(0)


async def test_what_ends_counts_for_ready_only_if_requests_need_it(audit: Audit, caplog: pytest.LogCaptureFixture) -> None:
    async def ends() -> None:
        raise RuntimeError("a bug")

    await asyncio.gather(audit.vitals.beside("webhooks", ends(), needed=False), audit.vitals.beside("the feed", ends()), return_exceptions=True)
    await asyncio.sleep(0)
    assert audit.vitals.missing() == ["the feed has stopped"]
    assert {record.getMessage().split(" has")[0] for record in caplog.records if record.levelno == logging.CRITICAL} == {"webhooks", "the feed"}
