"""Margins: sums in SQL equal the requests one by one, every split sums to its whole (19), a fee is earned once however spans are cut."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from billing.db import Database
from billing.errors import CostMissing
from billing.margins.amounts import in_major, split
from billing.margins.fee import Fee
from billing.margins.gpu import HOUR_US, GpuCost, bill, busy_us, windows
from billing.margins.report import DIMENSIONS, IDLE
from billing.margins.span import Span, in_zone, month_of
from billing.margins.store import insert_gpu
from billing.meter import Meter
from billing.money import exact_of_pico, price_of
from billing.operations import margins, plans, tenants
from billing.plans.terms import PlanTerms
from billing.rates import store as rates
from billing.rates.cost import CostBook, cost
from billing.rates.version import Change, checked
from billing.rating import Variant
from billing.usage import store as usage
from billing.usage.event import UsageEvent
from tests.desk import migrated

CREDIT, HOUR = 10**9, 3_600_000_000
MONTH = month_of("2026-10")  # clocks go back in Berlin
ZONES = ("Europe/Berlin", "UTC", "America/New_York")
START = in_zone(MONTH, "UTC").start_us
LATER = START + 400 * 24 * HOUR


@contextmanager
def database() -> Iterator[Database]:
    with TemporaryDirectory() as folder:
        (Path(folder) / "weir.db").write_bytes(migrated())
        db = Database(f"sqlite:///{folder}/weir.db")
        try:
            yield db
        finally:
            db.close()


@given(st.integers(0, 10**24), st.lists(st.integers(0, 10**12), min_size=1, max_size=30).filter(any))
def test_19_a_split_sums_to_its_whole_and_no_part_is_off_by_more_than_one(total: int, weights: list[int]) -> None:
    parts = split(total, weights)
    assert sum(parts) == total
    assert all(abs(part * sum(weights) - total * weight) < sum(weights) for part, weight in zip(parts, weights, strict=True))
    assert split(total, weights) == parts


@given(st.lists(st.tuples(st.integers(-50, 300), st.integers(0, 120)), max_size=30), st.lists(st.integers(0, 250), min_size=2, max_size=8, unique=True))
def test_time_is_busy_when_anything_runs(jobs: list[tuple[int, int]], cuts: list[int]) -> None:
    cuts = sorted(cuts)
    running = sorted((start, start + length) for start, length in jobs)
    ran = {at for start, end in running for at in range(start, end)}
    assert busy_us(running, cuts) == [len(ran & set(range(start, end))) for start, end in pairwise(cuts)]


@given(st.integers(0, 10**15), st.integers(1, 64), st.lists(st.integers(0, 10**12), min_size=2, max_size=9, unique=True), st.integers(0, 10**12))
def test_bills_of_spans_that_follow_each_other_sum_to_the_bill_of_all(hour_pico: int, gpus: int, cuts: list[int], start_us: int) -> None:
    cuts = sorted(cuts)
    one = GpuCost(id=1, backend="b", gpus=gpus, hour_pico=hour_pico, currency="USD", start_us=start_us, end_us=None, weights=(1, 1, 1), created_us=0)
    whole = bill(one, cuts[0], cuts[-1])
    assert sum(bill(one, start, end) for start, end in pairwise(cuts)) == whole
    hours = Decimal(max(0, cuts[-1] - start_us) - max(0, cuts[0] - start_us)) / HOUR_US
    assert abs(in_major(whole) - exact_of_pico(hour_pico) * gpus * hours) < Decimal("2e-12")
    assert [end for _day, _start, end in windows(one, cuts, cuts[-1] + 1)] == [cut for cut in cuts[1:] if cut > start_us]


@given(st.integers(0, 10**12), st.integers(0, 10**6), st.lists(st.integers(0, 10**5), max_size=20))
def test_a_fee_is_earned_once_however_the_use_is_cut(amount: int, credits_ncr: int, use: list[int]) -> None:
    fee = Fee(subscription="s", plan="p", start_us=0, end_us=1, amount=amount, currency="USD", credits_ncr=credits_ncr)
    marks = [sum(use[:count]) for count in range(len(use) + 1)]
    parts = [fee.earned(after) - fee.earned(before) for before, after in pairwise(marks)]
    assert all(part >= 0 for part in parts)
    assert sum(parts) == fee.earned(sum(use)) <= amount
    assert not credits_ncr or fee.earned(credits_ncr) == amount


PRICES = st.fixed_dictionaries({"input": st.integers(0, 10**6), "output": st.integers(0, 10**6)}, optional={"reasoning": st.integers(0, 10**6)})


@st.composite
def changes(draw: st.DrawFn) -> Change:
    backend, model = draw(st.sampled_from("ab")), draw(st.sampled_from("uv"))
    kind = draw(st.sampled_from(("priced", "priced", "priced", "free", "ended")))
    if kind != "priced":
        return Change(backend=backend, model=model, currency="USD", free=kind == "free", ended=kind == "ended")
    variants = [Variant(input_over=over, prices=draw(PRICES)) for over in sorted(draw(st.sets(st.sampled_from((50, 100, 200)), max_size=2)))]
    variants += [Variant(lane="slow", prices=draw(PRICES))] if draw(st.booleans()) else []
    variants += [Variant(service_tier="flex", prices=draw(PRICES))] if draw(st.booleans()) else []
    return Change(backend=backend, model=model, currency=draw(st.sampled_from(("USD", "EUR"))), prices=draw(PRICES), variants=tuple(variants))


@st.composite
def events(draw: st.DrawFn, number: int) -> UsageEvent:
    output = draw(st.integers(0, 300))
    charge = draw(st.integers(0, CREDIT))
    images = draw(st.sampled_from((None, None, None, 2)))
    started_us = START + draw(st.integers(-8 * HOUR, 32 * 24 * HOUR))
    meter = Meter(
        input=draw(st.sampled_from((None, 0, 50, 51, 100, 101, 200, 201))),
        cache_read=draw(st.sampled_from((None, 0, 50))),
        output=output,
        reasoning=draw(st.sampled_from((None, 0, output // 2))),
        images=images,
        requests=1,
    )
    return UsageEvent(
        id=f"e{number}",
        tenant_id=draw(st.sampled_from(("t0", "t1", "t2"))),
        key_id="k",
        model=draw(st.sampled_from("mn")),
        backend=draw(st.sampled_from("ab")),
        upstream_model=draw(st.sampled_from("uv")),
        endpoint="e",
        started_us=started_us,
        ended_us=started_us + draw(st.integers(0, HOUR)),
        status=200,
        outcome="complete",
        lane=draw(st.sampled_from(("fast", "slow"))),
        source="reported",
        meter=meter,
        charge_ncr=charge,
        cover_ncr=draw(st.integers(0, charge)),
        project=draw(st.sampled_from((None, "p", "q"))),
        service_tier=draw(st.sampled_from((None, "flex"))),
    )


@st.composite
def books(draw: st.DrawFn) -> tuple[list[tuple[int, Change]], list[UsageEvent]]:
    entries = [
        (draw(st.sampled_from((START - 40 * 24 * HOUR, START, START + 9 * HOUR, START + 9 * 24 * HOUR))), draw(changes()))
        for _ in range(draw(st.integers(1, 8)))
    ]
    return sorted(entries, key=lambda entry: entry[0]), [draw(events(number)) for number in range(draw(st.integers(0, 25)))]


def fill(db: Database, entries: list[tuple[int, Change]], found: list[UsageEvent]) -> CostBook:
    plans.set_plan(db, PlanTerms(plan="pro", on_exhausted="overage", credit_price="0.012345", currency="EUR"), START - 90 * 24 * HOUR)
    for index, zone in enumerate(ZONES):
        tenants.create_tenant(db, id=f"t{index}", name="", plan="pro", currency="EUR", timezone=zone, now_us=START - 90 * 24 * HOUR)
    with db.write() as session:
        for number, (effective_us, change) in enumerate(entries):
            rates.insert_costs(session, checked("costs", [change]), effective_us=effective_us, version_id=number, now_us=0)
        usage.insert_events(session, found, {event.id: event.cover_ncr for event in found})
        return CostBook(rates.all_costs(session))


@settings(max_examples=60, deadline=None)
@given(books(), st.sets(st.sampled_from(DIMENSIONS)))
def test_sums_by_the_database_equal_the_requests_one_by_one(given_books: tuple[list[tuple[int, Change]], list[UsageEvent]], by: set[str]) -> None:
    entries, found = given_books
    spent: dict[tuple[str, ...], dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    overage: dict[tuple[str, ...], Decimal] = defaultdict(Decimal)
    gaps: dict[tuple[str, str, str], int] = defaultdict(int)
    with database() as db:
        book = fill(db, entries, found)
        report = margins.margins(db, MONTH, by=tuple(by), now_us=LATER)
    zones = {f"t{index}": in_zone(MONTH, zone) for index, zone in enumerate(ZONES)}
    for event in found:
        days = zones[event.tenant_id]
        if not days.start_us <= event.started_us < days.end_us:
            continue
        values = {"tenant": event.tenant_id, "project": event.project or "", "model": event.model, "backend": event.backend}
        values["day"] = MONTH.day(days.number(event.started_us))
        key = tuple(values[name] for name in DIMENSIONS if name in by)
        if event.lane == "fast":
            overage[key] += price_of(event.charge_ncr - event.cover_ncr, Decimal("0.012345"))
        entry, meter = book.at(event.backend, event.upstream_model, event.started_us), event.meter
        if entry is None:
            for bucket in meter.__struct_fields__:
                gaps[event.backend, event.upstream_model, bucket] += getattr(meter, bucket) or 0
            continue
        try:
            pico = cost(meter, entry, lane=event.lane, service_tier=event.service_tier)
        except CostMissing as missing:
            gaps[event.backend, event.upstream_model, missing.bucket or ""] += 2
            rest = Meter(**{bucket: getattr(meter, bucket) for bucket in meter.__struct_fields__ if bucket != "images"})
            pico = cost(rest, entry, lane=event.lane, service_tier=event.service_tier)
        spent[key][entry.currency] += exact_of_pico(pico)
    said = {(tuple(line.keys.values()), line.currency): line for line in report.lines}
    for key, currencies in spent.items():
        for currency, amount in currencies.items():
            assert amount == (said[key, currency].calls if amount or (key, currency) in said else 0)
    assert {key: amount for key, amount in overage.items() if amount} == {key: line.overage for (key, _), line in said.items() if line.overage}
    told: dict[tuple[str, str, str], int] = defaultdict(int)
    for gap in report.gaps:
        told[gap.backend, gap.model, gap.bucket] += gap.units
    assert {key: units for key, units in gaps.items() if units} == told
    for total in report.totals:
        mine = [line for line in report.lines if line.currency == total.line.currency]
        for field in ("calls", "gpus", "overage", "fees", "requests", "charge_ncr", "uncosted_units"):
            assert sum(getattr(line, field) for line in mine) == getattr(total.line, field)


@settings(max_examples=30, deadline=None)
@given(books(), st.data())
def test_the_gpus_bill_is_split_whole_and_the_same_however_it_is_looked_at(
    given_books: tuple[list[tuple[int, Change]], list[UsageEvent]], data: st.DataObject
) -> None:
    _entries, found = given_books
    gpu = GpuCost(
        id=1, backend="a", gpus=data.draw(st.integers(1, 8)), hour_pico=data.draw(st.integers(1, 10**13)), currency="USD",
        start_us=START + data.draw(st.integers(-HOUR, 20 * 24 * HOUR)), end_us=data.draw(st.sampled_from((None, START + 25 * 24 * HOUR + 7))),
        weights=(10, 1, 40), created_us=0,
    )  # fmt: skip
    with database() as db:
        fill(db, [], found)
        with db.write() as session:
            insert_gpu(session, gpu)
        whole = margins.margins(db, MONTH, by=DIMENSIONS, now_us=LATER)
        coarse = margins.margins(db, MONTH, by=("tenant",), now_us=LATER)
        alone = {tenant: margins.margins(db, MONTH, by=("tenant",), tenant_id=tenant, now_us=LATER) for tenant in ("t0", "t1", "t2")}
        ends = [MONTH.first_day + timedelta(days=after) for after in (0, 1, 25, 31)]
        spans = [margins.margins(db, Span(first, end), by=("tenant",), now_us=LATER) for first, end in pairwise(ends)]
    due = in_major(bill(gpu, max(START, gpu.start_us), min(in_zone(MONTH, "UTC").end_us, gpu.end_us or LATER)))
    for report in (whole, coarse):
        assert sum(line.gpus for line in report.lines) == due
        assert sum(line.gpus for line in report.lines if line.line == IDLE) == sum(total.idle for total in report.totals)
    assert sum(line.gpus for report in spans for line in report.lines) == due
    used = {line.keys["tenant"]: line.gpus for line in coarse.lines if line.gpus and line.line != IDLE}
    assert used == {tenant: line.gpus for tenant, report in alone.items() for line in report.lines if line.gpus}
    for tenant, amount in used.items():
        assert amount == sum(line.gpus for line in whole.lines if line.keys["tenant"] == tenant)
        assert amount == sum(line.gpus for report in spans for line in report.lines if line.keys["tenant"] == tenant)


def test_days_of_a_zone_are_numbered_across_a_change_of_the_clock() -> None:
    for month, zone in (("2026-10", "Europe/Berlin"), ("2026-03", "America/New_York"), ("2026-04", "UTC")):
        span = month_of(month)
        days = in_zone(span, zone)
        for index, day in enumerate(span):
            (start, end) = (in_zone(Span(day, day + timedelta(days=1)), zone).start_us, in_zone(Span(day, day + timedelta(days=1)), zone).end_us)
            assert [days.number(start), days.number(end - 1), span.day(index)] == [index, index, day.isoformat()]
    assert month_of("2026-12") == Span(date(2026, 12, 1), date(2027, 1, 1))
