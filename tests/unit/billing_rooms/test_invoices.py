"""A month of invoices, calculated by hand beside each figure: fees, top-ups, use, overage, tax, late use, credit notes, in four currencies.

November 2026 of tenants in their own zones. A credit costs what each plan says; the arithmetic is written out, so that a clerk can follow it.
"""

import threading
from datetime import datetime
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from billing.db import Database
from billing.errors import Conflict, Invalid, NotFound
from billing.grants import store as grants_store
from billing.grants.allowance import ensure_allowance
from billing.invoices import store
from billing.invoices.company import Company
from billing.invoices.document import Document, Line
from billing.jobs.settle_periods import TENANTS_MAX, run_once
from billing.money import NCR_PER_CREDIT as CREDIT
from billing.operations import closing, grants, invoices, ledger, periods, plans, subscriptions, tenants
from billing.periods import store as periods_store
from billing.plans.terms import PlanTerms
from billing.tenants.profile import Party, Profile
from billing.tenants.store import set_profile
from billing.usage.event import Lane, UsageEvent
from billing.usage.writer import book
from tests.books import event

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US


def at(when: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(when).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1_000_000


BEGIN_US = at("2026-11-01")
AFTER_US = at("2026-12-01") + 72 * HOUR_US


def sender(db: Database, **more: Any) -> None:
    with db.write() as session:
        store.set_company(session, Company(party=Party(name="Weir Ltd", country="DE"), **more))


def tenant(db: Database, name: str, *, currency: str = "USD", zone: str = "UTC", tax: str | None = None, begin_us: int | None = None, **terms: Any) -> None:
    at_us = at("2026-11-01", zone) if begin_us is None else begin_us
    plans.set_plan(db, PlanTerms(plan=f"plan-{name}", currency=currency, **{"on_exhausted": "overage", "credit_price": "0.01", **terms}), at_us)
    tenants.create_tenant(db, id=name, name=name.title(), plan=f"plan-{name}", currency=currency, timezone=zone, now_us=at_us)
    if tax is not None:
        with db.write() as session:
            set_profile(session, name, Profile(party=Party(name=name.title()), tax_category="S", tax_percent=tax, tax_note=None))


def allowed(db: Database, name: str, when_us: int) -> None:
    """Write a period's allowance, as the first draw of it does."""
    with db.write() as session:
        ensure_allowance(session, name, when_us)


NUMBER = iter(range(1, 10**9))


def used(db: Database, name: str, when_us: int, charge: float, *, past: float = 0, period_us: int = BEGIN_US, lane: Lane = "fast", **more: Any) -> UsageEvent:
    """Book a request that cost so many credits, of which `past` were past them."""
    ncr, over = round(charge * CREDIT), round(past * CREDIT)
    one = event(
        next(NUMBER), ncr, tenant=name, cover_ncr=ncr - over, lane=lane, started_us=when_us, day_us=when_us // DAY_US * DAY_US, period_us=period_us, **more,
    )  # fmt: skip
    with db.write() as session:
        book(session, [one], when_us + 1)
    return one


def closed(db: Database, name: str, now_us: int = AFTER_US) -> Document:
    """Close what is due of a tenant, and return its newest invoice."""
    periods.close_tenant(db, name, now_us)
    return invoices.show_invoice(db, invoices.list_invoices(db, tenant_id=name)[-1].id).document


def amounts(document: Document) -> list[tuple[str, str, int]]:
    return [(line.kind, line.model or line.plan or "", line.amount_minor) for line in document.lines]


def checked(document: Document) -> Document:
    """EN 16931: lines sum to the net, groups are taxed once, net and tax are the total."""
    assert document.net_minor == sum(line.amount_minor for line in document.lines)
    assert document.tax_minor == sum(tax.tax_minor for tax in document.taxes)
    assert document.total_minor == document.net_minor + document.tax_minor
    assert sum(tax.taxable_minor for tax in document.taxes) == document.net_minor
    return document


def unchanged(db: Database) -> list[str]:
    """What the proof of the books says of closed periods and issued invoices."""
    (proof,) = [proof for proof in ledger.verify(db, AFTER_US) if proof.number == "invoices"]
    return list(proof.differences)


# ---- the golden month ----


def test_usd_fee_and_use_past_the_credits_line_by_line(db: Database) -> None:
    sender(db)
    tenant(db, "acme", allowance_ncr=100 * CREDIT, monthly_fee_minor=4900, credit_price="0.012345")
    allowed(db, "acme", BEGIN_US)
    used(db, "acme", BEGIN_US + DAY_US, 60)
    used(db, "acme", BEGIN_US + 2 * DAY_US, 41, past=1)
    used(db, "acme", BEGIN_US + 3 * DAY_US, 3, past=3, model="big")
    used(db, "acme", BEGIN_US + 3 * DAY_US, 3, past=3, model="big", project="lab")
    document = checked(closed(db, "acme"))
    # 1 credit * 0.012345 = 0.012345 -> 0.01; 3 * 0.012345 = 0.037035 -> 0.04, for each project by itself
    assert amounts(document) == [
        ("fee", "plan-acme", 4900),
        ("usage", "big", 0), ("usage", "big", 0), ("usage", "m", 0),
        ("overage", "big", 4), ("overage", "big", 4), ("overage", "m", 1),
    ]  # fmt: skip
    assert (document.net_minor, document.tax_minor, document.total_minor) == (4909, 0, 4909)
    assert [line.exact for line in document.lines][-3:] == ["0.037035", "0.037035", "0.012345"]
    assert (document.first_day, document.end_day, document.number) == ("2026-11-01", "2026-12-01", None)
    use = document.lines[3]
    assert (use.requests, use.charge_ncr, use.covered_ncr, use.overage_ncr, use.rate_ids) == (2, 101 * CREDIT, 100 * CREDIT, CREDIT, (1,))


def test_eur_lines_are_rounded_each_and_then_summed_and_taxed(db: Database) -> None:
    sender(db)
    tenant(db, "berlin", currency="EUR", zone="Europe/Berlin", tax="19", monthly_fee_minor=990, credit_price="0.0333")
    start_us = at("2026-11-01", "Europe/Berlin")
    used(db, "berlin", start_us + DAY_US, 10, past=10, period_us=start_us)  # 0.333 -> 0.33
    used(db, "berlin", start_us + DAY_US, 20, past=20, period_us=start_us, model="n")  # 0.666 -> 0.67
    document = checked(closed(db, "berlin"))
    # net 9.90 + 0.33 + 0.67 = 10.90; 19 % of 10.90 = 2.071 -> 2.07
    assert (document.net_minor, document.tax_minor, document.total_minor) == (1090, 207, 1297)
    assert document.taxes[0].taxable_minor == 1090


def test_where_tax_by_line_would_differ_the_sum_decides(db: Database) -> None:
    sender(db)
    tenant(db, "vat", currency="EUR", tax="19", credit_price="0.01")
    for model in ("a", "b", "c"):
        used(db, "vat", BEGIN_US + DAY_US, 3, past=3, model=model)  # 0.03 each
    document = checked(closed(db, "vat"))
    # by line: 0.0057 -> 0.01, three times 0.03; of the sum: 0.09 * 19 % = 0.0171 -> 0.02
    assert (document.net_minor, document.tax_minor) == (9, 2)


def test_cny_and_a_top_up_that_was_sold(db: Database) -> None:
    sender(db)
    tenant(db, "beijing", currency="CNY", zone="Asia/Shanghai", tax="6", monthly_fee_minor=29900, credit_price="0.08")
    start_us = at("2026-11-01", "Asia/Shanghai")
    grants.add_grant(db, tenant_id="beijing", amount_ncr=500 * CREDIT, price_minor=3500, note="pack", now_us=start_us + 5 * DAY_US)
    grants.add_grant(db, tenant_id="beijing", amount_ncr=10 * CREDIT, kind="promotion", now_us=start_us + 5 * DAY_US)
    mistake = grants.add_grant(db, tenant_id="beijing", amount_ncr=CREDIT, price_minor=99, now_us=start_us + 5 * DAY_US)
    grants.void_grant(db, mistake.id, start_us + 5 * DAY_US + 1)
    used(db, "beijing", start_us + 6 * DAY_US, 120, period_us=start_us)
    document = checked(closed(db, "beijing"))
    assert [(line.kind, line.amount_minor, line.description) for line in document.lines][:2] == [
        ("fee", 29900, "Plan plan-beijing version 1"), ("top_up", 3500, "500 credits: pack"),
    ]  # fmt: skip
    # 299.00 + 35.00 = 334.00; 6 % = 20.04
    assert (document.net_minor, document.tax_minor, document.total_minor) == (33400, 2004, 35404)
    assert document.credits is not None
    assert (document.credits.granted_ncr, document.credits.used_ncr, document.credits.closing_ncr) == (511 * CREDIT, 120 * CREDIT, 390 * CREDIT)


def test_jpy_has_no_minor_unit(db: Database) -> None:
    sender(db)
    tenant(db, "tokyo", currency="JPY", zone="Asia/Tokyo", tax="10", monthly_fee_minor=5000, credit_price="1.5")
    start_us = at("2026-11-01", "Asia/Tokyo")
    used(db, "tokyo", start_us + DAY_US, 33, past=33, period_us=start_us)  # 49.5 -> 50
    document = checked(closed(db, "tokyo"))
    assert (document.net_minor, document.tax_minor, document.total_minor) == (5050, 505, 5555)


def test_an_upgrade_in_the_month_prices_each_request_by_the_plan_it_began_under(db: Database) -> None:
    sender(db)
    tenant(db, "up", monthly_fee_minor=1000, credit_price="0.10")
    plans.set_plan(db, PlanTerms(plan="dear", monthly_fee_minor=2000, on_exhausted="overage", credit_price="0.05"), BEGIN_US)
    change_us = BEGIN_US + 10 * DAY_US
    used(db, "up", change_us - 1, 7, past=7)  # 0.70
    subscriptions.change_plan(db, "up", "dear", change_us)
    used(db, "up", change_us, 7, past=7)  # 0.35
    document = checked(closed(db, "up"))
    assert amounts(document) == [("fee", "plan-up", 1000), ("usage", "m", 0), ("overage", "m", 70), ("overage", "m", 35)]
    assert [(line.plan, line.unit_price) for line in document.lines[2:]] == [("plan-up", "0.10"), ("dear", "0.05")]
    assert document.lines[1].requests == 2
    after = checked(closed(db, "up", at("2027-01-01") + 72 * HOUR_US))
    assert amounts(after) == [("fee", "dear", 2000)]


def test_anchor_31_months_follow_one_another_and_a_request_on_the_edge_is_in_one_of_them(db: Database) -> None:
    sender(db)
    begin_us = at("2026-10-31", "Europe/Berlin")  # the clock changed on the 25th
    tenant(db, "edge", currency="EUR", zone="Europe/Berlin", monthly_fee_minor=100, begin_us=begin_us)
    edges = [at(day, "Europe/Berlin") for day in ("2026-10-31", "2026-11-30", "2026-12-31", "2027-01-31", "2027-02-28", "2027-03-31", "2027-04-30")]
    for start_us, end_us in pairwise(edges):
        used(db, "edge", start_us, 1, past=1, period_us=start_us)
        used(db, "edge", end_us - 1, 1, past=1, period_us=start_us)
    periods.close_tenant(db, "edge", edges[-1] + 72 * HOUR_US)
    found = periods.list_periods(db, "edge", edges[-1] + 72 * HOUR_US)
    assert [(one.start_us, one.end_us, one.events) for one in found[:-1]] == [(*pair, 2) for pair in pairwise(edges)]
    assert [one.state for one in found] == ["closed"] * 6 + ["open"]
    for one in invoices.list_invoices(db, tenant_id="edge"):
        assert invoices.show_invoice(db, one.id).document.net_minor == 102  # fee 1.00, two requests of 0.01 in one line


# ---- late use, periods, statements ----


def test_late_use_is_a_correction_of_the_next_period_once_and_the_closed_one_never_changes(db: Database) -> None:
    sender(db)
    tenant(db, "late", allowance_ncr=0, credit_price="0.10")
    used(db, "late", BEGIN_US + DAY_US, 5, past=5)
    periods.close_tenant(db, "late", AFTER_US)
    (before,) = [one for one in periods.list_periods(db, "late", AFTER_US) if one.state == "closed"]
    used(db, "late", BEGIN_US + 2 * DAY_US, 3, past=3)
    used(db, "late", BEGIN_US + 2 * DAY_US, 2, past=2, model="new")
    second_us = at("2027-01-01") + 72 * HOUR_US
    document = checked(closed(db, "late", second_us))
    assert amounts(document) == [("correction", "m", 30), ("correction", "new", 20)]
    assert {(line.first_day, line.end_day) for line in document.lines} == {("2026-11-01", "2026-12-01")}
    used(db, "late", BEGIN_US + 3 * DAY_US, 1, past=1)
    third = checked(closed(db, "late", at("2027-02-01") + 72 * HOUR_US))
    assert amounts(third) == [("correction", "m", 10)]
    periods.close_tenant(db, "late", at("2027-03-01") + 72 * HOUR_US)
    assert len(invoices.list_invoices(db, tenant_id="late")) == 3, "nothing is corrected twice"
    now = periods.list_periods(db, "late", second_us)[0]
    assert (now.sha256, now.events) == (before.sha256, 1)
    assert unchanged(db) == []


def test_a_period_takes_late_use_until_its_grace_is_over_and_no_longer(db: Database) -> None:
    sender(db, grace_hours=5)
    tenant(db, "acme", monthly_fee_minor=100)
    end_us = at("2026-12-01")
    assert [one.state for one in periods.list_periods(db, "acme", end_us - 1)] == ["open"]
    assert [one.state for one in periods.list_periods(db, "acme", end_us)] == ["draft", "open"]
    assert periods.close_tenant(db, "acme", end_us + 5 * HOUR_US - 1) <= 1  # its first look
    assert [one.state for one in periods.list_periods(db, "acme", end_us)] == ["draft", "open"]
    periods.close_tenant(db, "acme", end_us + 5 * HOUR_US)
    assert [one.state for one in periods.list_periods(db, "acme", end_us)] == ["closed", "open"]


def test_a_statement_adds_up_and_goes_on_from_the_one_before(db: Database) -> None:
    sender(db)
    tenant(db, "sums", allowance_ncr=100 * CREDIT, on_exhausted="slow", credit_price=None)
    allowed(db, "sums", BEGIN_US + DAY_US)
    pack = grants.add_grant(db, tenant_id="sums", amount_ncr=50 * CREDIT, now_us=BEGIN_US + DAY_US)
    used(db, "sums", BEGIN_US + DAY_US, 30)
    first = closed(db, "sums").credits
    assert first is not None
    assert (first.opening_ncr, first.granted_ncr, first.used_ncr, first.expired_ncr, first.voided_ncr, first.closing_ncr) == tuple(
        n * CREDIT for n in (0, 150, 30, 70, 0, 50)
    )
    second_us = at("2026-12-05")
    used(db, "sums", second_us, 20, period_us=at("2026-12-01"))
    grants.void_grant(db, pack.id, second_us + 1)
    second = closed(db, "sums", at("2027-01-01") + 72 * HOUR_US).credits
    assert second is not None
    assert (second.opening_ncr, second.granted_ncr, second.used_ncr, second.voided_ncr, second.closing_ncr) == tuple(n * CREDIT for n in (50, 0, 20, 30, 0))
    with db.read() as session:
        assert sum(grant.remaining_ncr for grant in grants_store.all_grants(session, "sums") if grant.voided_us is None and grant.expires_us is None) == 0


def test_months_that_begin_with_the_first_request_have_no_invoice_before_it(db: Database) -> None:
    sender(db)
    tenant(db, "later", activate_on_first_use=True, monthly_fee_minor=500, allowance_ncr=CREDIT)
    periods.close_tenant(db, "later", AFTER_US)
    assert periods.list_periods(db, "later", AFTER_US) == []
    with pytest.raises(Conflict, match="begin with its first request"):
        invoices.preview(db, "later", AFTER_US)
    first_us = AFTER_US + 10 * DAY_US
    allowed(db, "later", first_us)
    used(db, "later", first_us - 5, 1, period_us=first_us)  # a request begins a moment before the months that it starts
    document = closed(db, "later", first_us + 40 * DAY_US)
    assert [line.kind for line in document.lines] == ["fee", "usage"]
    assert document.lines[1].requests == 1


def test_what_would_be_invoiced_now_is_shown_without_writing_anything(db: Database) -> None:
    sender(db)
    tenant(db, "acme", monthly_fee_minor=100)
    used(db, "acme", BEGIN_US + DAY_US, 5, past=5)
    document = checked(invoices.preview(db, "acme", BEGIN_US + 2 * DAY_US))
    assert amounts(document) == [("fee", "plan-acme", 100), ("usage", "m", 0), ("overage", "m", 5)]
    assert document.credits is not None
    assert invoices.preview(db, "acme", at("2026-12-02")).credits is None  # what it begins with is known when the one before is closed
    assert invoices.list_invoices(db) == []
    assert document.id == closed(db, "acme").id


def test_use_that_no_plan_ever_priced_is_not_invoiced_for_nothing_and_keeps_nobody_else(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    sender(db)
    for number in range(TENANTS_MAX + 1):
        tenant(db, f"free{number}", on_exhausted="slow", credit_price=None, allowance_ncr=0)
        used(db, f"free{number}", BEGIN_US + DAY_US, 5, past=5)  # past its credits and fast: no plan of ours does that
    tenant(db, "other", monthly_fee_minor=100)
    while db.retrying(lambda session: run_once(session, AFTER_US)):
        pass
    assert "cannot be invoiced" in caplog.text and "no plan was in force that says what a credit costs" in caplog.text
    assert [one.tenant_id for one in invoices.list_invoices(db)] == ["other"]
    with db.read() as session:
        again = periods_store.due(session, AFTER_US, 100)
    assert {cursor.end_us + 71 * HOUR_US for cursor in again} == {AFTER_US}, "looked at again in an hour"


def test_use_in_the_moments_after_a_change_is_priced_by_the_plan_it_was_served_under(db: Database) -> None:
    sender(db)
    tenant(db, "ends", monthly_fee_minor=100, credit_price="0.10")
    tenant(db, "moves", monthly_fee_minor=100, credit_price="0.10")
    plans.set_plan(db, PlanTerms(plan="slow", on_exhausted="slow"), BEGIN_US)
    change_us = BEGIN_US + 10 * DAY_US
    closing.close_tenant(db, "ends", change_us)
    subscriptions.change_plan(db, "moves", "slow", change_us, when="now")
    for name in ("ends", "moves"):
        used(db, name, change_us + 300_000, 5, past=5)  # by a gateway that had not heard of it yet
        assert amounts(closed(db, name))[-1] == ("overage", "m", 50)


def test_a_top_up_is_on_one_invoice_whenever_its_sale_was_written(db: Database) -> None:
    sender(db, grace_hours=0)
    tenant(db, "acme")
    periods.close_tenant(db, "acme", at("2026-12-01"))
    grants.add_grant(db, tenant_id="acme", amount_ncr=CREDIT, price_minor=700, now_us=at("2026-11-20"))  # by a clock that is behind
    assert amounts(closed(db, "acme", at("2027-01-01"))) == [("top_up", "", 700)]
    periods.close_tenant(db, "acme", at("2027-03-01"))
    assert len(invoices.list_invoices(db, tenant_id="acme")) == 1


def test_late_use_is_found_also_where_counts_of_two_periods_cancel_out(db: Database) -> None:
    sender(db)
    tenant(db, "acme", credit_price="0.10")
    december_us = at("2026-12-01")
    used(db, "acme", december_us - 5, 1, past=1, period_us=december_us)  # reserved again as the month turned: November's by its start
    periods.close_tenant(db, "acme", AFTER_US)
    used(db, "acme", BEGIN_US + DAY_US, 2, past=2)
    used(db, "acme", december_us - 4, 3, past=3, period_us=december_us)
    assert amounts(closed(db, "acme", at("2027-01-01") + 72 * HOUR_US)) == [("correction", "m", 50)]
    periods.close_tenant(db, "acme", at("2027-03-01") + 72 * HOUR_US)
    assert len(invoices.list_invoices(db, tenant_id="acme")) == 2, "told once"


# ---- issue, pay, void, credit ----


@pytest.fixture
def drafted(db: Database) -> str:
    """An invoice of 100.00 + 19 %, in two lines of 60.00 and 40.00."""
    sender(db)
    tenant(db, "acme", currency="EUR", tax="19", monthly_fee_minor=6000, credit_price="1")
    used(db, "acme", BEGIN_US + DAY_US, 40, past=40)
    return closed(db, "acme").id


def test_an_issued_invoice_has_a_number_and_says_for_ever_what_it_said(db: Database, drafted: str) -> None:
    issued = invoices.issue_invoice(db, drafted, AFTER_US)
    assert (issued.invoice.number, issued.invoice.state, issued.document.due_day) == ("INV-000001", "issued", "2027-01-03")
    assert issued.document.payment_terms == "Payable within 30 days, by 2027-01-03"
    with db.write() as session:
        set_profile(session, "acme", Profile(party=Party(name="Another Name")))
        store.set_company(session, Company(party=Party(name="Another Sender")))
    shown = invoices.show_invoice(db, "INV-000001")
    assert (shown.document, shown.sha256) == (issued.document, issued.sha256)
    assert checked(shown.document).total_minor == 11900
    with pytest.raises(Conflict, match="not issued again"):
        invoices.issue_invoice(db, drafted, AFTER_US)
    with db.engine.connect() as connection, pytest.raises(DBAPIError, match="never changed"):
        connection.execute(text("UPDATE invoice_document SET document = 'x'"))
    with db.engine.connect() as connection, pytest.raises(DBAPIError, match="never changed"):
        connection.execute(text("DELETE FROM billing_period"))
    assert unchanged(db) == []
    trigger = "invoice_document_immutable ON invoice_document" if db.dialect == "postgresql" else "invoice_document_no_update"
    with db.engine.begin() as connection:  # whoever has the database can take the lock off; then the proof tells
        connection.execute(text(f"DROP TRIGGER {trigger}"))
        connection.execute(text("UPDATE invoice_document SET document = replace(document, '11900', '1190')"))
    assert unchanged(db) == ["invoice `acme:2026-11-01` does not say what it said when it was issued"]


def test_a_draft_follows_who_the_tenant_is_until_it_is_issued(db: Database, drafted: str) -> None:
    with db.write() as session:
        set_profile(session, "acme", Profile(party=Party(name="New Name"), language="zh"))
    document = invoices.issue_invoice(db, drafted, AFTER_US).document
    assert (document.buyer.name, document.tax_minor, document.payment_terms) == ("New Name", 0, "请于 30 天内（2027-01-03 前）付款")


def test_nothing_is_issued_until_somebody_said_who_sends_it(db: Database) -> None:
    tenant(db, "acme", monthly_fee_minor=100)
    name = closed(db, "acme").id
    with pytest.raises(Conflict, match="weir company set"):
        invoices.issue_invoice(db, name, AFTER_US)
    with pytest.raises(NotFound):
        invoices.issue_invoice(db, "acme:2020-01-01", AFTER_US)


def test_credit_notes_in_parts_come_to_exactly_the_invoice_and_no_further(db: Database, drafted: str) -> None:
    invoices.issue_invoice(db, drafted, AFTER_US)
    seqs = [line.seq for line in invoices.show_invoice(db, drafted).document.lines if line.amount_minor]
    notes = [
        invoices.credit_invoice(db, "INV-000001", AFTER_US, reason="too much", parts={seqs[0]: 1}),  # 0.01; 19 % of it 0.0019 -> 0.00
        invoices.credit_invoice(db, "INV-000001", AFTER_US, reason="too much", parts={seqs[0]: 2}),  # 0.03 so far: 0.0057 -> 0.01, less 0.00
        invoices.credit_invoice(db, "INV-000001", AFTER_US, reason="wrong model", parts={seqs[1]: None}),
    ]
    assert [(note.invoice.number, note.document.net_minor, note.document.tax_minor) for note in notes] == [
        ("CN-000001", -1, 0), ("CN-000002", -2, -1), ("CN-000003", -4000, -760),
    ]  # fmt: skip
    with pytest.raises(Invalid, match=r"59\.97"):
        invoices.credit_invoice(db, "INV-000001", AFTER_US, reason="more", parts={seqs[0]: 5998})
    with pytest.raises(Conflict, match="credited in full"):
        invoices.credit_invoice(db, "INV-000001", AFTER_US, reason="again", parts={seqs[1]: None})
    with pytest.raises(Invalid, match="no line 99"):
        invoices.credit_invoice(db, "INV-000001", AFTER_US, reason="more", parts={99: None})
    rest = invoices.credit_invoice(db, "INV-000001", AFTER_US, reason="all of it")
    assert checked(rest.document).corrects == "INV-000001"
    shown = invoices.show_invoice(db, "INV-000001")
    assert shown.credited_minor == -shown.document.total_minor == -11900
    with pytest.raises(Conflict, match="in full"):
        invoices.credit_invoice(db, "INV-000001", AFTER_US, reason="once more")
    with pytest.raises(Conflict, match="a credit note corrects an invoice"):
        invoices.credit_invoice(db, "CN-000001", AFTER_US, reason="of a note")


def test_a_void_invoice_keeps_its_number_and_is_neither_paid_nor_credited(db: Database, drafted: str) -> None:
    with pytest.raises(Conflict, match="only an issued invoice"):
        invoices.pay_invoice(db, drafted, AFTER_US)
    invoices.issue_invoice(db, drafted, AFTER_US)
    gone = invoices.void_invoice(db, "INV-000001", AFTER_US, reason="wrong tenant")
    assert (gone.state, gone.number, gone.note) == ("void", "INV-000001", "wrong tenant")
    for refused in (invoices.pay_invoice, lambda *given: invoices.credit_invoice(*given, reason="x"), invoices.issue_invoice):
        with pytest.raises(Conflict):
            refused(db, "INV-000001", AFTER_US)


def test_a_period_whose_invoice_is_void_has_a_draft_again_with_a_number_of_its_own(db: Database, drafted: str) -> None:
    for number in (1, 2):
        name = drafted if number == 1 else f"{drafted}.{number}"
        invoices.issue_invoice(db, name, AFTER_US)
        invoices.void_invoice(db, name, AFTER_US, reason="wrong address")
    with db.write() as session:
        set_profile(session, "acme", Profile(party=Party(name="Acme", address=("New Street 1",))))
    third = invoices.issue_invoice(db, f"{drafted}.3", AFTER_US)
    assert (third.invoice.number, third.document.buyer.address) == ("INV-000003", ("New Street 1",))
    assert [(one.number, one.state) for one in invoices.list_invoices(db)] == [("INV-000001", "void"), ("INV-000002", "void"), ("INV-000003", "issued")]


def test_an_invoice_is_written_in_the_tenants_language(db: Database) -> None:
    sender(db)
    tenant(db, "acme", monthly_fee_minor=100, credit_price="1")
    used(db, "acme", BEGIN_US + DAY_US, 1, past=1, project="lab")
    with db.write() as session:
        set_profile(session, "acme", Profile(party=Party(name="Acme"), language="zh"))
    assert [line.description for line in closed(db, "acme").lines] == ["套餐 plan-acme 第 1 版", "m（项目 lab） 用量", "m（项目 lab） 超出积分的用量"]


def test_a_paid_invoice_can_be_credited_and_not_be_void(db: Database, drafted: str) -> None:
    invoices.issue_invoice(db, drafted, AFTER_US)
    assert invoices.pay_invoice(db, drafted, AFTER_US + 1).paid_us == AFTER_US + 1
    with pytest.raises(Conflict):
        invoices.void_invoice(db, drafted, AFTER_US, reason="too late")
    invoices.credit_invoice(db, drafted, AFTER_US, reason="given back")


def test_numbers_have_no_gap_whoever_fails_and_however_many_issue_at_once(db: Database) -> None:
    sender(db)
    names = [f"t{number}" for number in range(12)]
    for name in names:
        tenant(db, name, monthly_fee_minor=100)
    drafts = [closed(db, name).id for name in names]
    failed: list[BaseException] = []

    def issue(mine: list[str]) -> None:
        for name in mine:
            try:
                invoices.issue_invoice(db, name, AFTER_US)
            except Conflict as error:
                failed.append(error)

    with pytest.raises(RuntimeError, match="power"), db.write() as session:  # a number that was taken and not committed
        store.next_number(session, "INV")
        raise RuntimeError("power")
    threads = [threading.Thread(target=issue, args=(drafts[part::3] + drafts[(part + 1) % 3 :: 3],)) for part in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    issued = invoices.list_invoices(db, state="issued")
    assert sorted(one.number or "" for one in issued) == [f"INV-{number:06d}" for number in range(1, 13)]
    assert len(failed) == 12, "each was tried twice and issued once"


def test_the_job_closes_what_is_due_of_everybody_and_does_nothing_the_second_time(db: Database) -> None:
    sender(db)
    for name in ("a", "b", "c"):
        tenant(db, name, monthly_fee_minor=100)
    assert db.retrying(lambda session: run_once(session, AFTER_US)) == 3  # begun
    assert db.retrying(lambda session: run_once(session, AFTER_US)) == 3  # closed
    assert db.retrying(lambda session: run_once(session, AFTER_US)) == 0
    assert [one.tenant_id for one in invoices.list_invoices(db, month="2026-11")] == ["a", "b", "c"]
    assert invoices.list_invoices(db, month="2026-10") == invoices.list_invoices(db, month="2026-12") == []


def test_lists_are_in_pages_and_refuse_what_is_no_state(db: Database, drafted: str) -> None:
    tenant(db, "zoo", monthly_fee_minor=100)
    closed(db, "zoo")
    first = invoices.list_invoices(db, limit=1)
    assert [one.id for one in (*first, *invoices.list_invoices(db, after=first[-1].id))] == [drafted, "zoo:2026-11-01"]
    assert [one.id for one in invoices.list_invoices(db, state="draft", tenant_id="zoo")] == ["zoo:2026-11-01"]
    for wrong in ({"state": "sent"}, {"limit": 0}, {"month": "2026"}):
        with pytest.raises(Invalid):
            invoices.list_invoices(db, **wrong)
    with pytest.raises(NotFound):
        invoices.list_invoices(db, tenant_id="nobody")


def test_a_line_is_found_again_by_its_rates_and_its_plan(db: Database) -> None:
    sender(db)
    tenant(db, "acme", credit_price="0.10")
    used(db, "acme", BEGIN_US + DAY_US, 1, past=1, rate_id=7)
    used(db, "acme", BEGIN_US + DAY_US, 1, past=1, rate_id=9)
    line: Line = closed(db, "acme").lines[-1]
    assert (line.rate_ids, line.plan, line.plan_version, line.unit_price) == ((7, 9), "plan-acme", 1, "0.10")
