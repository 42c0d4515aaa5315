"""A month out of the books: the database's sums are the events', the requests behind a line sum to it, and a file of any length takes no more memory."""

import csv
import io
import tracemalloc
from decimal import Decimal
from typing import Any, BinaryIO

import pytest

from billing.db import Database
from billing.errors import Invalid
from billing.grants.allowance import ensure_allowance
from billing.grants.periods import day_of, month_span
from billing.invoices.document import Document
from billing.meter import BUCKETS, Meter
from billing.money import add_exact, price_of
from billing.operations import plans, subscriptions, tenants
from billing.operations.exports import usage_file
from billing.operations.month import Wanted, daily_lines, tenants_of
from billing.plans.terms import PlanTerms
from billing.usage import store
from billing.usage.event import UsageEvent, excess_ncr, overage_ncr
from billing.usage.writer import book
from tests.paper import full
from tests.taken import take, usage_bytes

CREDIT = 10**9
HOUR = 3_600_000_000
DAY = 24 * HOUR
START, END = month_span("2026-11", "Europe/Berlin")
ZONES = {"acme": "Europe/Berlin", "beta": "Asia/Tokyo", "gamma": "Europe/Berlin"}


@pytest.fixture
def books(db: Database) -> Database:
    """Three tenants in two zones on a plan that bills on; one of them changes to a dearer plan in the middle of a day."""
    shared: dict[str, Any] = {"on_exhausted": "overage", "currency": "EUR"}
    plans.set_plan(db, PlanTerms(plan="pro", allowance_ncr=10 * CREDIT, credit_price="0.0123", monthly_fee_minor=4900, **shared), START)
    plans.set_plan(db, PlanTerms(plan="max", allowance_ncr=30 * CREDIT, credit_price="0.5", monthly_fee_minor=9900, **shared), START)
    for tenant, zone in ZONES.items():
        tenants.create_tenant(db, id=tenant, name=tenant, plan="pro", currency="EUR", timezone=zone, now_us=START - 22 * DAY)
    subscriptions.change_plan(db, "acme", "max", START + 15 * DAY + 12 * HOUR, when="now")
    return db


def events(count: int) -> list[UsageEvent]:
    """Events all over the month, and a little before and after it; of every lane, model, project and outcome."""
    made = []
    for number in range(count):
        charge = CREDIT // 7 + number
        made.append(
            UsageEvent(
                id=f"event-{number:05}", tenant_id=list(ZONES)[number % 3], key_id="k", model=f"m{number % 4}", backend="b", upstream_model="u",
                endpoint="/v1/chat/completions", started_us=START - DAY + number * ((END - START + 2 * DAY) // count), ended_us=END + 3 * DAY, status=200,
                outcome="failed" if number % 11 == 0 else "complete", lane="slow" if number % 5 == 0 else "fast",
                source="estimated" if number % 7 == 0 else "reported", meter=Meter(input=10 + number, output=None if number % 3 else 5), charge_ncr=charge,
                cover_ncr=charge // (1 + number % 3), project=[None, "search", "bot"][number % 3 if number % 2 else 0],
            )
        )  # fmt: skip
    return made


def booked(db: Database, made: list[UsageEvent]) -> None:
    with db.write() as session:
        for tenant in ZONES:
            ensure_allowance(session, tenant, START)
        book(session, made, START)


def rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def test_the_sums_of_the_database_are_the_sums_of_the_events(books: Database) -> None:
    made = events(300)
    booked(books, made)
    expected: dict[tuple[str, str, str, str | None], list[Any]] = {}
    with books.read() as session:
        covered = {event.id: ncr for event, ncr in store.events_between(session, 0, 2 * END)}
        found = list(daily_lines(session, tenants_of(session, "2026-11", None), "2026-11", by_project=True))
    changed_us = START + 15 * DAY + 12 * HOUR
    for event in made:
        day = day_of(event.started_us, ZONES[event.tenant_id]).isoformat()
        if not day.startswith("2026-11"):
            continue
        price = Decimal("0.5") if event.tenant_id == "acme" and event.started_us >= changed_us else Decimal("0.0123")
        line = expected.setdefault((event.tenant_id, day, event.model, event.project), [0, 0, 0, 0, 0, 0, 0, 0, Decimal(0)])
        paid = covered[event.id]
        figures = (
            1, event.source != "reported" and event.outcome != "failed", event.meter.input or 0, event.meter.output or 0, event.charge_ncr, paid,
            event.cover_ncr - paid, excess_ncr(event),
        )  # fmt: skip
        expected[(event.tenant_id, day, event.model, event.project)] = [
            *(before + more for before, more in zip(line, figures, strict=False)), add_exact(line[8], price_of(overage_ncr(event), price)),
        ]  # fmt: skip
    assert {
        (line.tenant_id, line.day, line.model, line.project): [
            line.requests, line.unreported, line.units["input"], line.units["output"], line.charge_ncr, line.covered_ncr, line.debt_ncr, line.excess_ncr,
            line.overage_exact,
        ]
        for line in found
    } == expected  # fmt: skip
    assert [(line.tenant_id, line.day, line.model, line.project or "") for line in found] == sorted((*key[:3], key[3] or "") for key in expected)
    assert all(tuple(line.units) == BUCKETS for line in found)


def test_the_requests_behind_a_line_sum_to_it(books: Database) -> None:
    booked(books, events(200))
    for line in rows(usage_bytes(books, "2026-11"))[::7]:
        behind = rows(usage_bytes(books, "2026-11", by="request", tenant_id=line["tenant"], from_day=line["day"], to_day=line["day"], model=line["model"]))
        assert len(behind) == int(line["requests"])
        for column in ("credits", "covered_credits", "debt_credits", "excess_credits", "overage_credits", "overage_amount"):
            assert sum(Decimal(one[column]) for one in behind) == Decimal(line[column])
        assert {(one["tenant"], one["day"], one["model"], one["currency"]) for one in behind} == {(line["tenant"], line["day"], line["model"], "EUR")}


def test_requests_are_chosen_by_project_and_by_having_none(books: Database) -> None:
    booked(books, events(60))
    everything = rows(usage_bytes(books, "2026-11", by="request"))
    for project in ("search", "bot", ""):
        chosen = rows(usage_bytes(books, "2026-11", by="request", project=project))
        assert [one["event"] for one in chosen] == [one["event"] for one in everything if one["project"] == project]
        assert chosen
    assert {one["output_tokens"] for one in everything} == {"5", ""}


@pytest.mark.parametrize("form", ["csv", "json", "jsonl", "xlsx", "parquet", "focus"])
def test_the_same_month_is_the_same_bytes_and_the_totals_are_the_events(books: Database, form: str) -> None:
    made = events(60)
    booked(books, made)
    first, second = (take(usage_file(books, Wanted(month="2026-11"), form=form)) for _ in range(2))
    assert first == second
    mine = [event for event in made if day_of(event.started_us, ZONES[event.tenant_id]).isoformat().startswith("2026-11")]
    assert first[1].totals["x_Requests" if form == "focus" else "requests"] == len(mine)


def test_focus_has_the_numbers_of_the_invoices_and_leaves_out_what_is_void(books: Database) -> None:
    booked(books, events(60))

    def taken(state: str) -> list[dict[str, str]]:
        papers: list[tuple[Document, str]] = [(full(), state)]
        return rows(take(usage_file(books, Wanted(month="2026-11"), form="focus", documents=papers))[0])

    listed = taken("issued")
    used = [row for row in listed if row["ChargeCategory"] == "Usage"]
    assert {row["InvoiceId"] for row in used if row["BillingAccountId"] == "acme"} == {"INV-00042"}
    assert {row["InvoiceId"] for row in used if row["BillingAccountId"] != "acme"} == {""}
    assert sum(Decimal(row["BilledCost"]) for row in listed if row["InvoiceId"] == "INV-00042") == Decimal("299.43")
    assert {(row["BillingAccountId"], row["ChargePeriodStart"][11:]) for row in used} == {("acme", "23:00:00Z"), ("beta", "15:00:00Z"), ("gamma", "23:00:00Z")}
    assert {row["ChargeCategory"] for row in taken("void")} == {"Usage"}
    assert {row["InvoiceId"] for row in taken("void")} == {""}


def test_what_credits_were_worth_is_the_fee_over_the_allowance(books: Database) -> None:
    (event, *_rest) = [event for event in events(60) if event.tenant_id == "beta" and event.started_us > START + DAY]
    booked(books, [event])
    with books.read() as session:
        ((_event, covered),) = store.events_between(session, 0, 2 * END)
    (row,) = rows(take(usage_file(books, Wanted(month="2026-11"), form="focus"))[0])
    assert Decimal(row["EffectiveCost"]) == price_of(covered, Decimal("4.9")) + price_of(overage_ncr(event), Decimal("0.0123"))


class Nowhere(io.RawIOBase):
    """A file that keeps nothing: what is left in memory is the export's own."""

    size = 0

    def write(self, data: Any) -> int:
        self.size += len(data)
        return len(data)

    def tell(self) -> int:
        return self.size

    def seek(self, *_: int) -> int:
        return 0

    def readable(self) -> bool:
        return True

    def readinto(self, _: Any) -> int:
        return 0


def peak(db: Database, month: str, form: str) -> tuple[int, int]:
    out: Any = Nowhere()
    sink: BinaryIO = out
    tracemalloc.start()
    made = usage_file(db, Wanted(month=month), by="request", form=form).make(sink)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return made.rows, most


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_ten_times_the_requests_take_no_more_memory(db: Database, form: str) -> None:
    tenants_zone = "UTC"
    plans.set_plan(db, PlanTerms(plan="pro", allowance_ncr=10 * CREDIT), START)
    tenants.create_tenant(db, id="acme", name="acme", plan="pro", timezone=tenants_zone, now_us=START)
    for month, count in (("2026-11", 2_000), ("2026-12", 20_000)):
        start_us, _end_us = month_span(month, tenants_zone)
        made = [
            UsageEvent(
                id=f"{month}-{number:06}", tenant_id="acme", key_id="k", model="m", backend="b", upstream_model="u", endpoint="e", started_us=start_us + number,
                ended_us=start_us + number, status=200, outcome="complete", lane="slow", source="reported", meter=Meter(input=1), charge_ncr=1, cover_ncr=0,
            )
            for number in range(count)
        ]  # fmt: skip
        with db.write() as session:
            store.insert_events(session, made, {event.id: 0 for event in made})
    peak(db, "2026-11", form)  # what is loaded once is not counted
    (few, little), (many, much) = (peak(db, month, form) for month in ("2026-11", "2026-12"))
    assert (few, many) == (2_000, 20_000)
    assert much < 1.5 * little, f"{much} bytes for {many} requests, {little} for {few}"


@pytest.mark.parametrize(
    ("more", "options", "words"),
    [
        ({"from_day": "2026-10-31"}, {"by": "request"}, "from_day: `2026-10-31` is not a day of 2026-11"),
        ({"to_day": "2026-12-01"}, {"by": "request"}, "to_day: `2026-12-01` is not a day"),
        ({"from_day": "2026-11-20", "to_day": "2026-11-10"}, {"by": "request"}, "no day of 2026-11 lies from 2026-11-20"),
        ({"model": "m"}, {"by": "day"}, "--by request"),
        ({"project": "p"}, {"form": "focus"}, "--by request"),
        ({}, {"by": "week"}, "`week` is not one"),
        ({}, {"by": "request", "form": "focus"}, "FOCUS is a row per day"),
    ],
)
def test_what_cannot_be_narrowed_is_refused_in_words(books: Database, more: dict[str, str], options: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid) as refused:
        take(usage_file(books, Wanted(month="2026-11", **more), **options))
    assert words in str(refused.value)
