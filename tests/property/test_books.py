"""Events told in any order, twice, in any batches: the same balances, and facts, account and ledger agree to the last nano-credit."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from billing.credits import store as accounts
from billing.credits.store import Totals
from billing.db import Database
from billing.grants import store as grants
from billing.usage import store
from billing.usage.event import UsageEvent
from billing.usage.store import Sums
from billing.usage.verify import verify
from billing.usage.writer import book
from tests.books import HOUR_US, event, grant, seed
from tests.clock import START_US

GUARDED = ("ledger_entry", "ledger_tx", "usage_event", "grant_balance", "credit_grant", "credit_account", "tenant")


@st.composite
def events(draw: st.DrawFn) -> list[UsageEvent]:
    found = []
    for number in range(draw(st.integers(1, 12))):
        charge = draw(st.integers(0, 40))
        found.append(
            event(
                number,
                charge,
                tenant=draw(st.sampled_from(["acme", "beta"])),
                cover_ncr=draw(st.integers(0, charge)),
                lane=draw(st.sampled_from(["fast", "slow"])),
                started_us=START_US + draw(st.integers(0, 3)) * HOUR_US,
            )
        )
    return found


@st.composite
def tellings(draw: st.DrawFn, count: int) -> list[list[int]]:
    """Batches of event numbers: each at least once, in any order."""
    order = draw(st.permutations([*range(count), *draw(st.lists(st.integers(0, count - 1), max_size=5))]))
    cuts = sorted(draw(st.sets(st.integers(0, len(order)), max_size=4)))
    return [list(order[start:end]) for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True) if start < end]


class Books:
    """A fresh database whose tenants have grants that every event may use (`ageing`: that begin and end among the events)."""

    def __init__(self, folder: str, *, ageing: bool) -> None:
        self.db = Database(f"sqlite:///{Path(folder) / 'weir.db'}")
        self.db.migrate()
        self.windows = [(-1, 2), (1, None), (0, 3)] if ageing else [(-1, None)] * 3

    def told(self, uses: list[UsageEvent], batches: list[list[int]]) -> tuple[dict[str, int], dict[str, Totals]]:
        self._empty()
        for tenant in ("acme", "beta"):
            given_ = [
                grant(
                    f"{tenant}-{number}",
                    30,
                    tenant_id=tenant,
                    effective_us=START_US + start * HOUR_US,
                    expires_us=None if end is None else START_US + end * HOUR_US,
                )
                for number, (start, end) in enumerate(self.windows)
            ]
            seed(self.db, tenant, *given_)
        for batch in batches:
            with self.db.write() as session:
                assert book(session, [uses[number] for number in batch], START_US + 4 * HOUR_US).conflicts == []
        with self.db.read() as session:
            assert verify(session) == []
            sums = store.sums(session)
            totals = accounts.every(session)
            for tenant_id, total in totals.items():
                charged = total.consumed_ncr + total.debt_ncr + total.excess_ncr + total.overage_ncr
                assert charged == sum(use.charge_ncr for use in uses if use.tenant_id == tenant_id) == sums.get(tenant_id, Sums()).charge_ncr
            return {one.id: one.remaining_ncr for one in grants.all_grants(session)}, totals

    def _empty(self) -> None:
        with self.db.write() as session:
            for name in session.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all():
                session.execute(text(f"DROP TRIGGER {name}"))
            for table in GUARDED:
                session.execute(text(f"DELETE FROM {table}"))


@given(st.data())
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_order_any_batches_and_duplicates_make_the_same_books(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        books = Books(folder, ageing=False)
        for _ in range(6):
            uses = data.draw(events())
            plain = books.told(uses, [list(range(len(uses)))])
            assert books.told(uses, data.draw(tellings(len(uses)))) == plain
        books.db.close()


@given(st.data())
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_where_grants_begin_and_end_meanwhile_credits_left_less_debt_are_the_same(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        books = Books(folder, ageing=True)
        for _ in range(6):
            uses = data.draw(events())
            plain, plain_totals = books.told(uses, [list(range(len(uses)))])
            left, totals = books.told(uses, data.draw(tellings(len(uses))))
            assert sum(left.values()) - sum(one.debt_ncr for one in totals.values()) == sum(plain.values()) - sum(one.debt_ncr for one in plain_totals.values())
        books.db.close()
