"""What finance takes away equals the events to the last nano-credit, is the same each time, and is safe to open in a spreadsheet."""

import csv
import io
import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from billing.db import Database
from billing.errors import Invalid, NotFound
from billing.exports import invoice_lines, requests, usage
from billing.grants.allowance import ensure_allowance
from billing.grants.periods import month_span
from billing.meter import Meter
from billing.money import parse_credits
from billing.operations import invoices, plans, tenants
from billing.operations.usage import balance, usage_rows
from billing.plans.terms import PlanTerms
from billing.usage.event import UsageEvent
from billing.usage.writer import book
from tests.taken import usage_bytes

CREDIT = 10**9
HOUR = 3_600_000_000
DAY = 24 * HOUR
START, END = month_span("2026-11", "Europe/Berlin")


@pytest.fixture
def acme(db: Database) -> Database:
    """A tenant in Berlin on an overage plan since 10 October, its months anchored there."""
    terms = PlanTerms(plan="pro", allowance_ncr=10 * CREDIT, on_exhausted="overage", credit_price="0.0123", monthly_fee_minor=4900, currency="EUR")
    plans.set_plan(db, terms, START)
    tenants.create_tenant(db, id="acme", name="=Acme", plan="pro", currency="EUR", timezone="Europe/Berlin", now_us=START - 22 * DAY)
    return db


def use(db: Database, number: int, at_us: int, **more: Any) -> UsageEvent:
    fields: dict[str, Any] = {
        "id": f"event-{number:03}", "tenant_id": "acme", "key_id": "k", "model": "m", "backend": "b", "upstream_model": "u", "endpoint": "/v1/chat/completions",
        "started_us": at_us, "ended_us": at_us + 1, "status": 200, "outcome": "complete", "lane": "fast", "source": "reported",
        "meter": Meter(input=10, output=5), "charge_ncr": CREDIT, "cover_ncr": CREDIT,
    }  # fmt: skip
    event = UsageEvent(**(fields | more))
    with db.write() as session:
        ensure_allowance(session, "acme", at_us)
        book(session, [event], at_us)
    return event


def rows(file: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.decode(), newline="")))


def test_a_month_without_use_is_a_header_alone(acme: Database) -> None:
    assert usage_bytes(acme, "2026-11").count(b"\r\n") == 1
    assert json.loads(usage_bytes(acme, "2026-11", form="json"))["lines"] == []


def test_the_lines_sum_to_the_events_to_the_last_nano_credit(acme: Database) -> None:
    events = [
        use(acme, number, START + number * 7 * HOUR, charge_ncr=CREDIT // 3 + number, cover_ncr=(CREDIT // 3 + number) // 2, model=f"m{number % 3}")
        for number in range(60)
    ]
    lines = rows(usage_bytes(acme, "2026-11"))
    assert sum(parse_credits(line["credits"]) for line in lines) == sum(event.charge_ncr for event in events)
    assert sum(parse_credits(line["overage_credits"]) for line in lines) == sum(event.charge_ncr - event.cover_ncr for event in events)
    assert sum(int(line["input_tokens"]) for line in lines) == 600
    assert sum(int(line["requests"]) for line in lines) == 60
    for line in lines:
        parts = [parse_credits(line[f"{part}_credits"]) for part in ("covered", "debt", "excess", "overage")]
        assert sum(parts) == parse_credits(line["credits"])
    exact = sum((Decimal(line["overage_amount"]) for line in lines), Decimal(0))
    assert exact == Decimal(sum(event.charge_ncr - event.cover_ncr for event in events)) * Decimal("0.0123") / CREDIT
    document = json.loads(usage_bytes(acme, "2026-11", form="json"))
    assert parse_credits(document["totals"]["credits"]) == sum(event.charge_ncr for event in events)
    assert [{key: str(value) for key, value in line.items()} for line in document["lines"]] == lines


def test_month_and_day_are_the_tenants_own(acme: Database) -> None:
    use(acme, 1, START - 1)
    use(acme, 2, START)
    use(acme, 3, END - 1)
    use(acme, 4, END)
    assert [(line.day, line.requests) for line in usage_rows(acme, "2026-11")] == [("2026-11-01", 1), ("2026-11-30", 1)]
    assert [line.day for line in usage_rows(acme, "2026-10")] == ["2026-10-31"]


def test_what_nobody_owes_costs_nothing_and_is_said(acme: Database) -> None:
    period_us = balance(acme, "acme", START + HOUR).period_start_us
    use(acme, 1, START + HOUR, lane="slow", charge_ncr=3 * CREDIT, cover_ncr=CREDIT, source="estimated", period_us=period_us)
    (line,) = usage_rows(acme, "2026-11")
    assert (line.covered_ncr, line.excess_ncr, line.overage_ncr, line.overage_exact, line.unreported) == (CREDIT, 2 * CREDIT, 0, Decimal(0), 1)
    assert balance(acme, "acme", START + DAY).excess_ncr == 2 * CREDIT


def test_a_call_that_failed_is_no_answer_whose_usage_nobody_reported(acme: Database) -> None:
    use(acme, 1, START + HOUR, outcome="failed", status=502, source="none", meter=Meter(), charge_ncr=0, cover_ncr=0)
    use(acme, 2, START + HOUR, outcome="cut", status=499, source="partial")
    use(acme, 3, START + HOUR, outcome="recovered", status=0, source="recovered")
    use(acme, 4, START + HOUR)
    (line,) = usage_rows(acme, "2026-11")
    assert (line.requests, line.unreported) == (4, 2)


def test_every_column_is_explained_to_who_reads_it() -> None:
    explained = set(re.findall(r"`([a-z_0-9]+)`", (Path(usage.__file__).parent / "README.md").read_text()))
    columns = {column.name for of in (usage, requests, invoice_lines) for column in of.COLUMNS}
    assert columns - explained == set()


def test_the_same_month_exported_twice_is_the_same_bytes(acme: Database) -> None:
    for number in range(20):
        use(acme, number, START + number * HOUR, model=f"m{number % 4}")
    for take in (lambda: usage_bytes(acme, "2026-11"), lambda: usage_bytes(acme, "2026-11", form="json")):
        assert take() == take()


def test_a_name_that_a_spreadsheet_would_run_is_disarmed(acme: Database) -> None:
    use(acme, 1, START + HOUR, model='=HYPERLINK("http://x","y")')
    assert rows(usage_bytes(acme, "2026-11"))[0]["model"] == '\'=HYPERLINK("http://x","y")'


def test_what_cannot_be_exported_is_refused_in_words(acme: Database) -> None:
    with pytest.raises(Invalid, match="2026-11"):
        usage_bytes(acme, "november")
    with pytest.raises(Invalid, match="one of csv, json"):
        usage_bytes(acme, "2026-11", form="xls")
    with pytest.raises(NotFound, match="no tenant"):
        invoices.documents(acme, month="2026-11", tenant_id="b")
