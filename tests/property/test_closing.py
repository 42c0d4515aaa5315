"""Invariants 11 to 14 over any life of a tenant: every request is in one period or corrected once, what is closed never changes, lines and taxes add up."""

from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from billing.credits import store as accounts
from billing.db import Database
from billing.grants import store as grants
from billing.grants.allowance import ensure_allowance
from billing.grants.periods import period_at
from billing.invoices.company import Company
from billing.invoices.document import Document
from billing.invoices.store import set_company
from billing.meter import Meter
from billing.money import NCR_PER_CREDIT as CREDIT
from billing.operations import grants as giving
from billing.operations import invoices, periods, plans, subscriptions, tenants
from billing.periods import store
from billing.periods.facts import Facts
from billing.periods.spans import runs_of, span_at, spans
from billing.plans.terms import PlanTerms, Subscription
from billing.tenants.profile import Party, Profile
from billing.tenants.store import set_profile
from billing.usage.event import UsageEvent
from billing.usage.writer import book
from tests.books import request_id
from tests.desk import migrated

HOUR = 3_600_000_000
DAY = 24 * HOUR
START = int(datetime(2026, 1, 31, 10, tzinfo=UTC).timestamp()) * 1_000_000
ZONE = "Europe/Berlin"
LIFE_DAYS = 130
WHEN = st.integers(0, LIFE_DAYS * 24 - 1)
REQUEST = st.tuples(
    st.just("use"), WHEN, st.sampled_from([0, 0, 0, 1, 100, 2000]), st.integers(0, 50), st.integers(0, 50), st.sampled_from(["a", "b"]),
    st.sampled_from([None, "p"]), st.sampled_from(["fast", "slow"]),
)  # fmt: skip
GIVE = st.tuples(st.just("give"), WHEN, st.integers(1, 200), st.sampled_from([None, 300, 1500]))
TAKE = st.tuples(st.just("take"), WHEN)
CLOSE = st.tuples(st.just("close"), WHEN)
CHANGE = st.tuples(st.just("change"), WHEN, st.sampled_from(["pro", "max"]))
Life = list[tuple[Any, ...]]


def open_books(db: Database) -> None:
    for plan, allowance, fee in (("pro", 60, 1000), ("max", 90, 2500)):
        terms = PlanTerms(
            plan=plan, allowance_ncr=allowance, on_exhausted="overage", credit_price="30000000", monthly_fee_minor=fee, rollover_cap_ncr=20
        )  # fmt: skip
        plans.set_plan(db, terms, 1)
    tenants.create_tenant(db, id="t", name="t", plan="pro", timezone=ZONE, now_us=START)
    with db.write() as session:
        set_company(session, Company(party=Party(name="Weir Ltd")))
        set_profile(session, "t", Profile(party=Party(name="T"), tax_category="S", tax_percent="8.1", tax_note=None))


def live(db: Database, life: Life) -> None:
    """Let a tenant's life happen in the order in which the books hear of it; at every close what was closed before must be what it was."""
    open_books(db)
    told = sorted(enumerate(life), key=lambda one: (one[1][1] + (one[1][2] if one[1][0] == "use" else 0), one[0]))
    kept: dict[int, str] = {}
    given_: list[str] = []
    for number, (what, hour, *more) in told:
        now_us = START + hour * HOUR + number
        if what == "use":
            request(db, number, now_us, more)
        elif what == "give":
            expires_us = None if more[1] is None else now_us + more[1] * HOUR
            given_.append(giving.add_grant(db, tenant_id="t", amount_ncr=more[0], price_minor=more[0], expires_us=expires_us, now_us=now_us).id)
        elif what == "take" and given_:
            with db.read() as session:
                one = grants.get_grant(session, given_.pop())
            if one is not None and (one.expires_us is None or one.expires_us > now_us):
                giving.void_grant(db, one.id, now_us)
        elif what == "change":
            found = subscriptions.standing(db, "t", now_us)
            if found.current is not None and found.current.plan != more[0]:
                subscriptions.change_plan(db, "t", more[0], now_us, when="now")
        elif what == "close":
            close(db, now_us, kept)
    close(db, START + (LIFE_DAYS + 150) * DAY, kept)


def request(db: Database, number: int, now_us: int, more: list[Any]) -> None:
    late_h, cover, past, model, project, lane = more
    month = period_at(START, ZONE, now_us)
    event = UsageEvent(
        id=request_id(number), tenant_id="t", key_id="k", model=model, backend="b", upstream_model="u", endpoint="e", started_us=now_us, ended_us=now_us,
        status=200, outcome="complete", lane=lane, source="reported", meter=Meter(), charge_ncr=cover + past, cover_ncr=cover, project=project,
        day_us=now_us // DAY * DAY, period_us=month.start_us,
    )  # fmt: skip
    with db.write() as session:
        accounts.lock(session, ["t"])
        ensure_allowance(session, "t", now_us)
        book(session, [event], now_us + late_h * HOUR)


def close(db: Database, now_us: int, kept: dict[int, str]) -> None:
    periods.close_tenant(db, "t", now_us)
    with db.read() as session:
        now = {one.facts.start_us: one.sha256 for one in store.all_closed(session, "t")}
    assert now.items() >= kept.items(), "a closed period changed"
    kept.update(now)


def told_of(closed: list[Facts]) -> Counter[str]:
    told: Counter[str] = Counter()
    for facts in closed:
        for use in (*facts.uses, *(use for one in facts.corrections for use in one.uses)):
            assert use.charge_ncr == use.cover_ncr + use.excess_ncr + use.overage_ncr
            told.update({"requests": use.requests, "charge": use.charge_ncr, "covered": use.covered_ncr, "overage": use.overage_ncr})
    return told


@settings(max_examples=40, deadline=None)
@given(st.lists(REQUEST | REQUEST | GIVE | TAKE | CLOSE | CHANGE, max_size=30))
def test_every_request_is_in_one_period_or_corrected_once_and_everything_adds_up(life: Life) -> None:
    with TemporaryDirectory() as folder:
        (Path(folder) / "weir.db").write_bytes(migrated())
        db = Database(f"sqlite:///{folder}/weir.db")
        live(db, life)
        with db.read() as session:
            closed = [one.facts for one in store.all_closed(session, "t")]
            past = "COALESCE(SUM(CASE lane WHEN 'fast' THEN charge_ncr - cover_ncr ELSE 0 END), 0)"
            query = f"SELECT COUNT(*), COALESCE(SUM(charge_ncr), 0), COALESCE(SUM(covered_ncr), 0), {past} FROM usage_event"
            sums = session.execute(text(query)).one()
            end_us = closed[-1].end_us
            given_ = [grant for grant in grants.all_grants(session, "t") if grant.effective_us < end_us or grant.kind == "rollover"]
            left = [grant for grant in given_ if grant.expires_us is None or grant.expires_us > end_us]
            debt = accounts.get(session, "t").debt_ncr
        told = told_of(closed)
        assert (told["requests"], told["charge"], told["covered"], told["overage"]) == tuple(sums)
        assert all(first.end_us == after.start_us for first, after in pairwise(closed))
        opening = 0
        for facts in closed:
            one = facts.statement
            assert one.opening_ncr == opening
            assert one.closing_ncr == one.opening_ncr + one.granted_ncr - one.used_ncr - one.expired_ncr - one.voided_ncr
            opening = one.closing_ncr
        assert (opening, closed[-1].statement.debt_ncr) == (sum(grant.remaining_ncr for grant in left if grant.voided_us is None), debt)
        invoiced(db, closed)
        db.close()


def invoiced(db: Database, closed: list[Facts]) -> None:
    """Every invoice adds up, all overage is on one of them, and numbers have no gap."""
    overage = 0
    found = invoices.list_invoices(db, tenant_id="t")
    for number, row in enumerate(found, 1):
        document = invoices.issue_invoice(db, row.id, closed[-1].end_us).document
        assert document.number == f"INV-{number:06d}"
        assert document.net_minor == sum(line.amount_minor for line in document.lines) == sum(tax.taxable_minor for tax in document.taxes)
        assert document.total_minor == document.net_minor + document.tax_minor
        assert sum(line.kind == "fee" for line in document.lines) == 1
        overage += sum(line.overage_ncr for line in document.lines if line.kind in ("overage", "correction"))
    assert overage == told_of(closed)["overage"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=6), st.data())
def test_credit_notes_in_any_parts_come_to_the_invoice_to_the_last_unit(sold: list[int], data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        (Path(folder) / "weir.db").write_bytes(migrated())
        db = Database(f"sqlite:///{folder}/weir.db")
        open_books(db)
        for number, minor in enumerate(sold):
            giving.add_grant(db, tenant_id="t", amount_ncr=CREDIT, price_minor=minor, id=f"g{number}", now_us=START)
        late_us = START + 40 * DAY
        periods.close_tenant(db, "t", late_us)
        invoice = invoices.issue_invoice(db, invoices.list_invoices(db)[0].id, late_us).document
        left = {line.seq: line.amount_minor for line in invoice.lines if line.amount_minor}
        notes: list[Document] = []
        while any(left.values()):
            seq = data.draw(st.sampled_from([seq for seq, minor in left.items() if minor]))
            part = data.draw(st.none() | st.integers(1, left[seq])) if len(notes) < 8 else None
            note = invoices.credit_invoice(db, invoice.id, late_us, reason="r", parts={seq: part}).document
            left[seq] += note.net_minor
            notes.append(note)
            assert -sum(one.tax_minor for one in notes) <= invoice.tax_minor
        assert sum(note.total_minor for note in notes) == -invoice.total_minor
        assert sum(note.tax_minor for note in notes) == -invoice.tax_minor
        assert [note.number for note in notes] == [f"CN-{number:06d}" for number in range(1, len(notes) + 1)]
        db.close()


ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "America/Havana", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia"])
CREATED = st.integers(1_262_304_000, 1_893_456_000).map(lambda seconds: seconds * 1_000_000)
STEP = st.tuples(st.sampled_from(["keep", "anew", "gap", "wait"]), st.integers(1, 200 * DAY))


def history(created: int, steps: list[tuple[str, int]]) -> list[Subscription]:
    """Subscriptions one after the other: with the anchor kept, with one of their own, after a gap, or begun by a first request some time later."""
    found = [Subscription(id="t.1", tenant_id="t", plan="p", version=1, anchor_us=created, started_us=created, ended_us=None)]
    now = created
    for number, (what, gap) in enumerate(steps, 2):
        now += gap
        last = found[-1]
        found[-1] = Subscription(id=last.id, tenant_id="t", plan="p", version=1, anchor_us=last.anchor_us, started_us=last.started_us, ended_us=now)
        now += gap if what == "gap" else 0
        anchor = last.anchor_us if what == "keep" else now + gap if what == "wait" else now
        found.append(Subscription(id=f"t.{number}", tenant_id="t", plan="p", version=1, anchor_us=anchor, started_us=now, ended_us=None))
        now += gap if what == "wait" else 0
    return found


@given(CREATED, ZONES, st.lists(STEP, max_size=6), st.lists(st.integers(-40 * DAY, 1499 * DAY), max_size=10))
def test_periods_partition_time_whatever_subscriptions_did(created: int, zone: str, steps: list[tuple[str, int]], offsets: list[int]) -> None:
    runs = runs_of(history(created, steps), zone, created)
    found = list(spans(runs, zone, created + 1500 * DAY))
    assert found[0].since_us == 0 and not any(span.first for span in found[1:])
    assert all(one.end_us == after.start_us and one.start_us < one.end_us for one, after in pairwise(found))
    assert all(one.end_us - one.start_us <= 32 * DAY for one in found)
    for offset in offsets:
        at_us = max(0, created + offset)
        mine = [span for span in found if span.since_us <= at_us < span.end_us]
        assert len(mine) == 1 and span_at(runs, zone, at_us) == mine[0]


@given(CREATED, ZONES)
def test_a_tenant_without_a_subscription_is_billed_by_calendar_months(created: int, zone: str) -> None:
    first = span_at(runs_of([], zone, created), zone, created)
    assert first is not None and first.first and first.since_us <= created < first.end_us
    assert span_at((), zone, created) is None
