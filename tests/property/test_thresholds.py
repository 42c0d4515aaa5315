"""Thresholds that flushes note equal those of a model, each once, whatever the batches, their order and what is told twice."""

import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from billing.alerts import store
from billing.alerts.thresholds import PERCENTS, reached
from billing.alerts.webhook import GIVE_UP_US, Webhook, next_try_us
from billing.db import Database
from billing.usage.event import UsageEvent
from billing.usage.writer import book
from tests.books import HOUR_US, event, grant, seed
from tests.clock import START_US

DAY_US = 24 * HOUR_US
PERIODS = (START_US, START_US + DAY_US)  # each with a grant of its own, that ends with it
TENANTS = ("acme", "beta")
AMOUNT_NCR = 100
CLEARED = (
    "ledger_entry",
    "ledger_tx",
    "usage_event",
    "usage_sum",
    "grant_balance",
    "credit_grant",
    "credit_account",
    "threshold",
    "webhook_delivery",
    "tenant",
)


@st.composite
def uses(draw: st.DrawFn) -> list[UsageEvent]:
    found = []
    for number in range(draw(st.integers(1, 14))):
        charge, period_us = draw(st.integers(0, 45)), draw(st.sampled_from(PERIODS))
        found.append(
            event(
                number,
                charge,
                tenant=draw(st.sampled_from(TENANTS)),
                cover_ncr=draw(st.integers(0, charge)),
                lane=draw(st.sampled_from(["fast", "slow"])),
                started_us=period_us + draw(st.integers(0, 20)) * HOUR_US,
                period_us=period_us,
            )
        )
    return found


@st.composite
def tellings(draw: st.DrawFn, count: int) -> list[list[int]]:
    """Batches of event numbers: each at least once, in any order."""
    order = draw(st.permutations([*range(count), *draw(st.lists(st.integers(0, count - 1), max_size=6))]))
    cuts = sorted(draw(st.sets(st.integers(0, len(order)), max_size=6)))
    return [list(order[start:end]) for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True) if start < end]


def model(found: list[UsageEvent]) -> set[tuple[str, int, int]]:
    """What must be noted: one grant a period, and no debt, so that the use of a period is the sum of what credits paid in it."""
    used: Counter[tuple[str, int]] = Counter()
    for one in found:
        used[one.tenant_id, one.period_us or 0] += one.cover_ncr
    return {(tenant, period, percent) for (tenant, period), ncr in used.items() for percent in PERCENTS if 100 * ncr >= percent * AMOUNT_NCR}


def without_debt(found: list[UsageEvent]) -> list[UsageEvent]:
    """Cover no more of a period than its grant has: debt would be carried from one period into another, by the order in which they are told."""
    left = Counter({(tenant, period): AMOUNT_NCR for tenant in TENANTS for period in PERIODS})
    fitted = []
    for one in found:
        cover = min(one.cover_ncr, left[one.tenant_id, one.period_us or 0])
        left[one.tenant_id, one.period_us or 0] -= cover
        fitted.append(msgspec.structs.replace(one, cover_ncr=cover))
    return fitted


def fresh(db: Database) -> None:
    with db.write() as session:
        for name in session.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all():
            session.execute(text(f"DROP TRIGGER {name}"))
        for table in CLEARED:
            session.execute(text(f"DELETE FROM {table}"))
    for tenant in TENANTS:
        given_ = [grant(f"{tenant}-{start}", AMOUNT_NCR, tenant_id=tenant, effective_us=start, expires_us=start + DAY_US) for start in PERIODS]
        seed(db, tenant, *given_)


@given(st.data())
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_noted_equals_the_model_once_each(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        db = Database(f"sqlite:///{Path(folder) / 'weir.db'}")
        db.migrate()
        with db.write() as session:
            store.insert_webhook(session, Webhook(id="wh", url="https://hook.test/", tenant_id=None, events=None, created_us=1))
        for _ in range(5):
            fresh(db)
            found = without_debt(data.draw(uses()))
            for batch in data.draw(tellings(len(found))):
                with db.write() as session:
                    book(session, [found[number] for number in batch], START_US)
            with db.read() as session:
                noted = {
                    (one.tenant_id, one.period_us, one.percent)
                    for tenant in TENANTS
                    for start in PERIODS
                    for one in store.thresholds_of(session, tenant, start)
                }
                told = store.deliveries(session, None, 1000)
            assert noted == model(found)
            assert len(told) == len(noted) == len({one.id for one in told})
        db.close()


@given(st.integers(-(2**60), 2**60), st.integers(-(2**60), 2**60))
def test_reached_is_a_prefix_and_grows_with_use(limit_ncr: int, used_ncr: int) -> None:
    found = reached(limit_ncr, used_ncr)
    assert tuple(found) == PERCENTS[: len(found)]
    assert set(found) <= set(reached(limit_ncr, used_ncr + 1))
    assert found == [] or limit_ncr > 0


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=40, max_size=40), st.lists(st.integers(0, 10_000_000), min_size=40, max_size=40))
def test_tries_go_on_for_about_three_days_and_then_end(jitters: list[float], delays_us: list[int]) -> None:
    now_us, pauses = START_US, []
    for tries, (jitter, delay_us) in enumerate(zip(jitters, delays_us, strict=True), 1):
        again_us = next_try_us(tries, START_US, now_us, jitter)
        if again_us is None:
            break
        pauses.append(again_us - now_us)
        assert 5_000_000 * 0.75 <= pauses[-1] <= 12 * HOUR_US * 1.25
        now_us = again_us + delay_us
    assert 10 <= len(pauses) <= 20
    assert START_US + GIVE_UP_US - 15 * HOUR_US <= now_us <= START_US + GIVE_UP_US + 10_000_000
    assert all(later > earlier for earlier, later in pairwise(pauses[:7]))
