"""The keyring with the database away: known keys stay in force, unknown ones are told so promptly, revoked ones are refused once it is back."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlmodel import Session

from billing.db import Database
from billing.errors import BillingError, BooksUnavailable
from billing.operations import keys, plans, subscriptions, tenants
from billing.operations.keys import IssuedKey
from billing.plans.terms import PlanTerms
from billing.tenants.keys import KeyHasher
from gateway.auth.keyring import Keyring
from gateway.reads import BookReads
from tests.clock import START_US, ManualClock
from tests.reads import Reads, books

HASHER = KeyHasher(b"0123456789abcdef")


def issue(database: Database) -> IssuedKey:
    if not tenants.list_tenants(database):
        plans.set_plan(database, PlanTerms(plan="p", allowance_ncr=1), now_us=START_US)
        tenants.create_tenant(database, id="acme", name="ACME", plan="p", currency="USD", timezone="UTC", now_us=START_US)
    return keys.issue_key(database, HASHER, tenant_id="acme", kind="tenant", name="k", expires_us=START_US + 60_000_000, now_us=START_US)


@asynccontextmanager
async def ring(folder: Path) -> AsyncGenerator[tuple[Database, Reads, Keyring, ManualClock]]:
    with books(folder) as database:
        reads, clock = Reads(database), ManualClock()
        yield database, reads, Keyring(reads, HASHER, clock.now_us), clock
        reads.close()


async def test_a_key_that_is_not_in_memory_is_a_billing_error_while_the_database_is_away(tmp_path: Path) -> None:
    async with ring(tmp_path) as (database, reads, keyring, _):
        issued = issue(database)
        reads.trouble = BooksUnavailable("away")
        with pytest.raises(BillingError):
            await keyring.find(issued.secret)
        reads.trouble = None
        found = await keyring.find(issued.secret)
        assert found is not None and found.tenant_id == "acme", "a failed lookup is no verdict on the key"


async def test_a_database_that_hangs_is_a_billing_error_in_bounded_time_and_takes_no_shared_thread(tmp_path: Path) -> None:
    with books(tmp_path) as database:
        reads, stuck = BookReads(database, threads=1, limit_s=0.05), asyncio.Event()
        loop = asyncio.get_running_loop()

        def hang(_session: Session) -> None:
            asyncio.run_coroutine_threadsafe(stuck.wait(), loop).result(30)

        for _ in range(3):
            with pytest.raises(BooksUnavailable, match="did not answer within"):
                await reads.run(hang)
        stuck.set()
        assert await asyncio.to_thread(lambda: "free") == "free"
        async with asyncio.timeout(10):
            while True:
                try:
                    assert await reads.run(lambda _session: 7) == 7, "what was given up while it waited is not run later"
                    break
                except BooksUnavailable:
                    continue
        reads.close()


@pytest.mark.parametrize("changed", ["acme", None])
async def test_a_known_key_stays_in_force_when_a_change_cannot_be_looked_up(tmp_path: Path, changed: str | None) -> None:
    async with ring(tmp_path) as (database, reads, keyring, clock):
        issued = issue(database)
        known = await keyring.find(issued.secret)
        reads.trouble = BooksUnavailable("away")
        keyring.forget(changed)
        for _ in range(3):
            assert await keyring.find(issued.secret) == known
        clock.advance(61)
        assert await keyring.find(issued.secret) is None, "it expires all the same"


async def test_a_known_key_does_not_wait_for_a_database_that_hangs(tmp_path: Path) -> None:
    async with ring(tmp_path) as (database, reads, keyring, _):
        issued = issue(database)
        known = await keyring.find(issued.secret)
        reads.hangs = True
        keyring.forget("acme")
        async with asyncio.timeout(3):
            for _ in range(20):
                assert await keyring.find(issued.secret) == known
        reads.answers.set()


async def test_a_revoked_key_is_refused_at_its_next_use(tmp_path: Path) -> None:
    async with ring(tmp_path) as (database, _reads, keyring, _):
        issued = issue(database)
        assert await keyring.find(issued.secret) is not None
        keys.revoke_key(database, issued.id, START_US)
        keyring.forget("acme")
        assert await keyring.find(issued.secret) is None
        assert await keyring.find(issued.secret) is None


async def test_a_key_revoked_during_an_outage_is_refused_once_the_feed_has_told(tmp_path: Path) -> None:
    async with ring(tmp_path) as (database, reads, keyring, _):
        issued = issue(database)
        assert await keyring.find(issued.secret) is not None
        reads.trouble = BooksUnavailable("away")
        keyring.forget("acme")
        assert await keyring.find(issued.secret) is not None
        keys.revoke_key(database, issued.id, START_US)
        reads.trouble = None
        keyring.forget("acme")  # the feed could be read, so the database is there
        assert await keyring.find(issued.secret) is None


async def test_a_change_of_plan_that_was_written_before_is_noticed_when_it_comes(tmp_path: Path) -> None:
    async with ring(tmp_path) as (database, reads, keyring, clock):
        plans.set_plan(database, PlanTerms(plan="big", allowance_ncr=9), now_us=START_US)
        plans.set_plan(database, PlanTerms(plan="p", allowance_ncr=1), now_us=START_US)
        tenants.create_tenant(database, id="acme", name="ACME", plan="big", now_us=START_US)
        issued = keys.issue_key(database, HASHER, tenant_id="acme", now_us=START_US)
        at_us = subscriptions.change_plan(database, "acme", "p", START_US).at_us

        async def plan() -> str | None:
            found = await keyring.find(issued.secret)
            return None if found is None or found.terms is None else found.terms.plan

        assert await plan() == "big"
        clock.at_us = at_us - 1
        assert await plan() == "big"
        clock.at_us = at_us
        reads.trouble = BooksUnavailable("away")
        assert await plan() == "big", "until it can be looked up it stays what it was"
        reads.trouble = None
        async with asyncio.timeout(5):
            while await plan() != "p":
                await asyncio.sleep(0.01)
        reads.trouble = BooksUnavailable("away")
        assert await plan() == "p", "and is not looked up with every request"
