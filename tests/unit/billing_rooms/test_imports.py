"""Tenants from a file: all of them or none, every fault of every row at once, and no more statements for more rows than there must be."""

from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import event

from billing.db import Database
from billing.errors import Invalid
from billing.operations import closing, plans, profiles, subscriptions, tenants
from billing.operations.imports import import_tenants
from billing.operations.sheets import Done, ImportRefused
from billing.operations.subscriptions import Standing
from billing.operations.usage import balance
from billing.plans.terms import PlanTerms
from billing.tenants.tenant import Tenant
from tests.clock import START_US

NOW = START_US
CREDIT = 10**9


def shown(tenant: Tenant, _found: Standing) -> Mapping[str, str]:
    return {"created": str(tenant.created_us)}


def take(db: Database, text: str | bytes, *, update: bool = False, now_us: int = NOW) -> list[Done]:
    return import_tenants(db, text.encode() if isinstance(text, str) else text, now_us, update=update, shown=shown, shows=("created",))


def faults(db: Database, text: str, *, update: bool = False) -> list[tuple[int, str, str]]:
    with pytest.raises(ImportRefused) as refused:
        take(db, text, update=update)
    return [(fault.line, fault.id, fault.field) for fault in refused.value.faults]


@pytest.fixture
def books(db: Database) -> Database:
    for plan, credits in (("pro", 1000), ("max", 4000)):
        plans.set_plan(db, PlanTerms(plan=plan, allowance_ncr=credits * CREDIT), NOW)
    plans.set_plan(db, PlanTerms(plan="euro", monthly_fee_minor=100, currency="EUR"), NOW)
    return db


def test_a_file_makes_tenants_on_their_plans_with_their_papers(books: Database) -> None:
    text = (
        "\ufeffID,name,plan,currency,timezone,address,country,tax_category,tax_percent,po_number\r\n"
        'acme,"ACME, Inc.",euro,EUR,Europe/Berlin,"Hauptstr. 1\r\n10115 Berlin",DE,S,19,PO-7\r\n'
        "\r\n"
        "beta,'=2+2,pro,,,,,,,\r\n"
    )
    assert [(one.line, one.id, one.action) for one in take(books, text)] == [(2, "acme", "create"), (5, "beta", "create")]
    acme, beta = profiles.get_profile(books, "acme"), profiles.get_profile(books, "beta")
    assert (acme.tenant.name, acme.tenant.currency, acme.tenant.timezone) == ("ACME, Inc.", "EUR", "Europe/Berlin")
    assert acme.profile.party.address == ("Hauptstr. 1", "10115 Berlin")
    assert (acme.profile.tax_percent, acme.profile.tax_note, acme.profile.po_number) == ("19", None, "PO-7")
    assert (beta.tenant.name, beta.profile.party.name, beta.profile.tax_note) == ("=2+2", "=2+2", "Not subject to tax")
    found = balance(books, "beta", NOW)
    assert (found.plan, found.limit_ncr, found.period_start_us) == ("pro", 1000 * CREDIT, NOW)


def test_one_wrong_row_is_none_imported_and_every_fault_is_told(books: Database) -> None:
    tenants.create_tenant(books, id="there", name="", plan="pro", now_us=NOW)
    text = (
        "id,plan,currency,timezone,country,language,state,created\n"
        "good,pro,USD,UTC,DE,en,,\n"
        "Bad Id,gold,XXX,Mars,Germany,fr,closed,now\n"
        "good,pro,USD,UTC,DE,en,,\n"
        "there,pro,,,,,,\n"
        "short,pro\n"
        "money,euro,USD,,,,,\n"
        "planless,,,,,,,\n"
    )
    expected = [(3, "Bad Id", field) for field in ("id", "currency", "timezone", "state", "created", "plan", "country", "language")]
    more = [(4, "good", "id"), (5, "there", "id"), (6, "short", ""), (7, "money", "plan_id"), (8, "planless", "plan")]
    assert faults(books, text) == [*expected, *((line, name, "plan" if field == "plan_id" else field) for line, name, field in more)]
    assert [tenant.id for tenant in tenants.list_tenants(books)] == ["there"]
    with books.read() as session:
        assert len(subscriptions.standings(session, tenants.list_tenants(books), NOW)) == 1


def test_an_update_changes_what_the_file_says_and_leaves_what_it_does_not(books: Database) -> None:
    take(books, "id,plan,name,country,po_number\nacme,pro,ACME,DE,PO-7\nbeta,max,Beta,FR,\ngone,pro,,,\n")
    closing.close_tenant(books, "gone", NOW + 1)
    done = take(
        books, "id,plan,name,po_number,state\nacme,max v1,Acme AG,,suspended\nbeta,max v1,Beta,,active\ngone,,gone,,closed\n", update=True, now_us=NOW + 1
    )
    assert [one.action for one in done] == ["update", "none", "none"]
    acme = profiles.get_profile(books, "acme")
    assert (acme.tenant.name, acme.tenant.state, acme.profile.party.country, acme.profile.po_number) == ("Acme AG", "suspended", "DE", None)
    found = subscriptions.standing(books, "acme", NOW + 1)
    assert found.current is not None and (found.current.plan, found.current.anchor_us) == ("max", NOW), "its months stay"
    down = take(books, "id,plan\nacme,pro\n", update=True, now_us=NOW + 2)
    assert down[0].action == "update"
    assert getattr(subscriptions.standing(books, "acme", NOW + 2).next, "plan", None) == "pro", "fewer credits come when the period ends"
    assert [one.action for one in take(books, "id,plan\nacme,max\nnew,pro\n", update=True, now_us=NOW + 3)] == ["none", "create"]


def test_an_update_refuses_what_cannot_change(books: Database) -> None:
    take(books, "id,plan\nacme,pro\nbeta,pro\ngone,pro\n")
    closing.close_tenant(books, "gone", NOW)
    closing.close_tenant(books, "beta", NOW, when="period-end")
    text = "id,plan,currency,timezone,created,state\nacme,,EUR,Europe/Berlin,1,asleep\nbeta,max,,,,\ngone,,USD,UTC,,active\n"
    told = faults(books, text, update=True)
    assert [(line, field) for line, _, field in told if line == 2] == [(2, field) for field in ("currency", "timezone", "state", "created", "plan")]
    assert (4, "gone", "state") in told
    assert faults(books, "id,plan\nbeta,max\n", update=True) == [(2, "beta", "plan")], "what the books refuse is a fault of its row"
    assert faults(books, "id,plan\nacme,max v7\n", update=True) == [(2, "acme", "plan")]
    assert profiles.get_profile(books, "acme").tenant.currency == "USD"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is empty; its first line names the columns, of which id are needed"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"id,plna\nacme,pro\n", "column `plna` is not known; the columns there are: id, name, state, plan, currency"),
        (b"plan\npro\n", "column `id` is missing"),
        (b"id,plan,ID\n", "column `id` is there twice"),
        (b'id,plan\n"acme,pro\n', "line 2 is no CSV"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(books: Database, data: bytes, told: str) -> None:
    with pytest.raises(Invalid) as refused:
        take(books, data)
    assert told in str(refused.value)


def test_more_rows_are_no_more_statements(books: Database) -> None:
    def statements(first: int, many: int) -> int:
        ran: list[Any] = []
        event.listen(books.engine, "before_cursor_execute", lambda *call: ran.append(call[2]))
        text = "id,plan,country\n" + "".join(f"t{number},pro,DE\n" for number in range(first, first + many))
        assert len(take(books, text)) == many
        return len(ran)

    few = statements(0, 10)
    if books.dialect == "sqlite":  # PostgreSQL's driver sends rows a thousand at a time
        assert statements(1000, 500) <= few + 2
    else:
        assert statements(1000, 500) <= few + 10
    assert len(tenants.list_tenants(books)) == 510
