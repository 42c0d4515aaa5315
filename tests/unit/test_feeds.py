"""Use and invoices reach Stripe, OpenMeter and signed webhooks: each event told once whatever comes late, in the shapes that the vendors' own SDKs have."""

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest
import stripe
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from pydantic import SecretStr
from standardwebhooks import Webhook as Receiver

from backends.transport.over_httpx import HttpxTransport
from billing.alerts import store as outbox
from billing.alerts.webhook import FEEDS, Delivery, Webhook
from billing.credits import store as accounts
from billing.db import Database
from billing.errors import Conflict, Invalid, NotFound
from billing.feeds.tell import tell_invoice, tell_void
from billing.feeds.use import HOUR_US, MILLI_NCR, Hour, Use, delivery_of
from billing.invoices.document import Document, Line, Tax
from billing.jobs.tell_usage import run_once
from billing.money import parse_credits
from billing.operations import webhooks
from billing.tenants import store as tenants
from billing.tenants.keys import KeyHasher
from billing.tenants.profile import Party
from billing.tenants.tenant import Tenant
from billing.usage.event import UsageEvent
from billing.usage.writer import book
from gateway.config.settings import WebhookSettings
from gateway.webhooks import Sender
from tests.books import event
from tests.clock import ManualClock
from tests.real.upstream import ScriptedUpstream, answer

HASHER = KeyHasher(b"0123456789abcdef")
DAY_US = 24 * HOUR_US
NOON_US = (time.time_ns() // 1000) // DAY_US * DAY_US + 12 * HOUR_US  # the receivers' library compares with its own clock
MIDNIGHT_US = NOON_US - 12 * HOUR_US
LATER_US = NOON_US + 2 * HOUR_US + 16 * 60_000_000


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    database = Database(request.getfixturevalue("postgres_url") if request.param == "postgresql" else f"sqlite:///{tmp_path / 'weir.db'}")
    database.migrate()
    with database.write() as session:
        for name in ("acme", "zoo"):
            tenants.insert_tenant(session, Tenant(id=name, name=name, state="active", currency="USD", timezone="UTC", created_us=1))
            accounts.lock(session, [name])
    yield database
    database.close()


@pytest.fixture
def receiver() -> Iterator[ScriptedUpstream]:
    server = ScriptedUpstream(script=(answer(b"{}", headers=("connection: close",)),))
    yield server
    server.close()


@pytest.fixture
async def transport() -> AsyncIterator[HttpxTransport]:
    over_httpx = HttpxTransport()
    yield over_httpx
    await over_httpx.aclose()


def add(db: Database, url: str = "http://127.0.0.1:1/x", **more: Any) -> webhooks.AddedWebhook:
    return webhooks.add_webhook(db, HASHER, url=url, now_us=MIDNIGHT_US, **more)


def used(db: Database, *events: UsageEvent) -> None:
    with db.write() as session:
        book(session, events, NOON_US)


def request(number: int, charge_ncr: int = 10, *, started_us: int = NOON_US, **more: Any) -> UsageEvent:
    return event(number, charge_ncr, started_us=started_us, day_us=started_us // DAY_US * DAY_US, period_us=MIDNIGHT_US, **more)


def told(db: Database, now_us: int = LATER_US) -> list[Delivery]:
    """Run the job until nothing is left, and return what is new in the outbox, oldest first."""
    before = {one.id for one in webhooks.list_deliveries(db)}
    while db.retrying(lambda session: run_once(session, now_us)):
        pass
    return sorted((one for one in webhooks.list_deliveries(db) if one.id not in before), key=lambda one: one.body)


def lines(one: Delivery) -> list[tuple[Any, ...]]:
    data = msgspec.json.decode(one.body)["data"]
    return [(line["model"], line["project"], line["requests"], line["input_tokens"], line["credits"]) for line in data["lines"]]


def test_nothing_is_told_unless_a_destination_asked_for_it_by_name(db: Database) -> None:
    add(db)
    used(db, request(1))
    assert told(db) == []


def test_an_hour_is_told_by_model_and_project_once_it_has_ended(db: Database) -> None:
    add(db, events=("usage.hourly",))
    used(
        db,
        request(1, 10**9),
        request(2, 2 * 10**9),
        request(3, 5, project="lab"),
        request(4, 7, started_us=NOON_US + HOUR_US),
        request(5, 9, started_us=NOON_US + 2 * HOUR_US),
        request(6, 3, tenant="zoo"),
    )
    first, zoo, second = told(db)
    assert msgspec.json.decode(first.body)["data"]["start"] == f"{time.strftime('%Y-%m-%dT12:00:00Z', time.gmtime(NOON_US // 1_000_000))}"
    assert lines(first) == [("m", None, 2, 14, "3"), ("m", "lab", 1, 7, "0.000000005")]
    assert lines(second) == [("m", None, 1, 7, "0.000000007")]  # the hour that runs is not told yet
    assert (lines(zoo), zoo.tenant_id) == ([("m", None, 1, 7, "0.000000003")], "zoo")
    assert told(db) == []
    (last,) = told(db, LATER_US + HOUR_US)
    assert lines(last) == [("m", None, 1, 7, "0.000000009")]


def test_what_is_booked_late_is_told_as_a_difference(db: Database) -> None:
    add(db, events=("usage.hourly",))
    used(db, request(1, 10))
    assert lines(told(db)[0]) == [("m", None, 1, 7, "0.00000001")]
    used(db, request(2, 5), request(3, 4, started_us=NOON_US + 5, project="lab"))
    (late,) = told(db, LATER_US + HOUR_US)
    assert lines(late) == [("m", None, 1, 7, "0.000000005"), ("m", "lab", 1, 7, "0.000000004")]
    assert msgspec.json.decode(late.body)["data"]["late"] is True


def test_use_before_a_destination_was_added_is_not_told(db: Database) -> None:
    webhooks.add_webhook(db, HASHER, url="http://127.0.0.1:1/x", events=("usage.hourly",), now_us=NOON_US + 1)
    used(db, request(1), request(2, 5, started_us=NOON_US + HOUR_US))
    (one,) = told(db)
    assert lines(one) == [("m", None, 1, 7, "0.000000005")]


def test_a_destination_of_one_tenant_is_told_of_that_tenant_alone(db: Database) -> None:
    add(db, tenant_id="zoo", events=FEEDS)
    used(db, request(1), request(2, 3, tenant="zoo"))
    assert [one.tenant_id for one in told(db)] == ["zoo"]


def test_stripe_is_told_only_of_tenants_that_it_knows_and_of_all_since_then_when_it_does(db: Database) -> None:
    add(db, kind="stripe", events=("usage.hourly",), options={"meter": "weir"})
    used(db, request(1, 3 * 10**9))
    assert told(db) == []
    webhooks.set_stripe_customer(db, "acme", "cus_1", LATER_US)
    (one,) = told(db)
    assert parse_qs(one.body)["payload[value]"] == ["3000"]
    with pytest.raises(Conflict, match="tenant `acme` already"):
        webhooks.set_stripe_customer(db, "zoo", "cus_1", LATER_US)
    webhooks.set_stripe_customer(db, "acme", None, LATER_US)
    webhooks.set_stripe_customer(db, "zoo", "cus_1", LATER_US)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3 * MILLI_NCR), max_size=20))
def test_what_stripe_counts_is_never_more_than_a_thousandth_of_a_credit_away_from_what_was_used(charges: list[int]) -> None:
    webhook = Webhook(
        id="wh", url="", tenant_id=None, events=("usage.hourly",), created_us=0, kind="stripe", options={"meter": "weir", "measure": "used"},
    )  # fmt: skip
    carry_ncr, counted = 0, 0
    for number, charge_ncr in enumerate(charges, 1):
        use = Use(model="m", project=None, requests=1, unreported=0, units={}, charge_ncr=charge_ncr, cover_ncr=0, excess_ncr=0, overage_ncr=0)
        hour = Hour(tenant_id="acme", day_us=0, hour_us=number * HOUR_US, uses=(use,), total=number, late=False)
        message, carry_ncr = delivery_of(webhook, hour, 0, customer="cus_1", carry_ncr=carry_ncr)
        counted += int(parse_qs(message.body)["payload[value]"][0]) if message is not None else 0
        assert counted * MILLI_NCR + carry_ncr == sum(charges[:number])
        assert 0 <= carry_ncr < MILLI_NCR


@pytest.mark.postgres
def test_whatever_the_order_of_booking_and_telling_the_sum_told_is_the_sum_booked(db: Database) -> None:
    add(db, events=("usage.hourly",))
    seen, number, total = 0, 0, 0
    for step, hours in enumerate(((0,), (0, 1), (), (1, 0, 0), (2,), (0,))):
        batch = []
        for hour in hours:
            number += 1
            total += number
            batch.append(request(number, number, started_us=MIDNIGHT_US + hour * HOUR_US))
        used(db, *batch)
        used(db, *batch)  # told again: booked once
        for one in told(db, NOON_US + step * HOUR_US):
            seen += sum(parse_credits(line["credits"]) for line in msgspec.json.decode(one.body)["data"]["lines"])
    for one in told(db, NOON_US + 9 * HOUR_US):
        seen += sum(parse_credits(line["credits"]) for line in msgspec.json.decode(one.body)["data"]["lines"])
    assert seen == total


# ---- what is on the wire ----


async def send(db: Database, transport: HttpxTransport, home: str = "", **keys: SecretStr) -> list[str]:
    outcomes: list[str] = []
    settings_ = WebhookSettings(**keys, **({"stripe_url": home, "openmeter_url": home} if home else {}))
    sender = Sender(db, HASHER, transport, ManualClock(LATER_US), settings=settings_, count=outcomes.append)
    while await sender.turn():
        await sender.settle()
    return outcomes


async def test_a_meter_event_is_what_stripes_own_sdk_sends(db: Database, receiver: ScriptedUpstream, transport: HttpxTransport) -> None:
    url = f"http://127.0.0.1:{receiver.port}"
    webhooks.set_stripe_customer(db, "acme", "cus_1", MIDNIGHT_US)
    add(db, url, kind="stripe", events=("usage.hourly",), options={"meter": "weir_millicredits"})
    used(db, request(1, 12_345_678_901))
    (message,) = told(db)
    assert await send(db, transport, url, stripe_key=SecretStr("sk_test_1")) == ["delivered"]
    client = stripe.StripeClient("sk_test_1", base_addresses={"api": url}, max_network_retries=0)
    client.v1.billing.meter_events.create(
        {
            "event_name": "weir_millicredits",
            "payload": {"stripe_customer_id": "cus_1", "value": "12345"},
            "identifier": message.id,
            "timestamp": NOON_US // 1_000_000,
        },
        {"idempotency_key": message.id},
    )
    ours, theirs = receiver.requests
    assert (ours.method, ours.path, parse_qs(ours.body.decode())) == (theirs.method, theirs.path, parse_qs(theirs.body.decode()))
    for name in ("content-type", "authorization", "idempotency-key"):
        assert ours.headers[name] == theirs.headers[name]


async def test_an_invoice_is_items_that_sum_to_its_total_as_stripes_own_sdk_sends_them(
    db: Database, receiver: ScriptedUpstream, transport: HttpxTransport
) -> None:
    url = f"http://127.0.0.1:{receiver.port}"
    webhooks.set_stripe_customer(db, "acme", "cus_1", MIDNIGHT_US)
    add(db, url, kind="stripe", events=("invoice.issued",))
    with db.write() as session:
        assert (tell_invoice(session, INVOICE, NOON_US), tell_invoice(session, replace(INVOICE, tenant_id="zoo"), NOON_US)) == (3, 0)
        assert tell_invoice(session, INVOICE, NOON_US) == 3  # told again: the same messages, which are there already
    assert await send(db, transport, url, stripe_key=SecretStr("sk_test_1")) == ["delivered"] * 3
    bodies = [parse_qs(seen.body.decode()) for seen in receiver.requests]
    assert sum(int(body["amount"][0]) for body in bodies) == INVOICE.total_minor
    first = next(seen for seen in receiver.requests if b"amount=4900" in seen.body)
    client = stripe.StripeClient("sk_test_1", base_addresses={"api": url}, max_network_retries=0)
    client.v1.invoice_items.create(
        {
            "customer": "cus_1",
            "amount": 4900,
            "currency": "eur",
            "description": "plan pro & more (2026-11-01 until 2026-12-01)",
            "metadata": {"weir_invoice": "INV-1", "weir_tenant": "acme"},
        }
    )
    assert parse_qs(receiver.requests[-1].body.decode()) == parse_qs(first.body.decode())
    assert (first.method, first.path) == (receiver.requests[-1].method, receiver.requests[-1].path)


async def test_an_invoice_that_is_void_is_taken_back_item_by_item(db: Database, receiver: ScriptedUpstream, transport: HttpxTransport) -> None:
    url = f"http://127.0.0.1:{receiver.port}"
    webhooks.set_stripe_customer(db, "acme", "cus_1", MIDNIGHT_US)
    add(db, url, kind="stripe", events=("invoice.issued",))
    hook = add(db, f"{url}/hook", events=("invoice.issued",))
    with db.write() as session:
        assert (tell_invoice(session, INVOICE, NOON_US), tell_void(session, INVOICE, NOON_US + 1)) == (4, 4)
    assert await send(db, transport, url, stripe_key=SecretStr("sk_test_1")) == ["delivered"] * 8
    items = [parse_qs(seen.body.decode()) for seen in receiver.requests if seen.path == "/v1/invoiceitems"]
    assert sum(int(item["amount"][0]) for item in items) == 0
    assert {item["description"][0].partition(": ")[0] for item in items if item["amount"][0].startswith("-")} == {"void"}
    assert {msgspec.json.decode(one.body)["type"] for one in webhooks.list_deliveries(db, hook.webhook.id)} == {"invoice.issued", "invoice.void"}


async def test_openmeter_gets_cloud_events_that_the_specifications_sdk_reads(db: Database, receiver: ScriptedUpstream, transport: HttpxTransport) -> None:
    add(db, f"http://127.0.0.1:{receiver.port}/api/v1/events", kind="openmeter", events=("usage.hourly",))
    used(db, request(1, 10**9), request(2, 5, project="lab"))
    (message,) = told(db)
    assert await send(db, transport, f"http://127.0.0.1:{receiver.port}", openmeter_key=SecretStr("om_1")) == ["delivered"]
    (seen,) = receiver.requests
    assert (seen.path, seen.headers["content-type"], seen.headers["authorization"]) == ("/api/v1/events", "application/cloudevents-batch+json", "Bearer om_1")
    read = [from_structured_event(HTTPMessage({"content-type": "application/cloudevents+json"}, msgspec.json.encode(one))) for one in seen.json()]
    assert [(one.get_id(), one.get_source(), one.get_type(), one.get_subject()) for one in read] == [
        (f"{message.id}.0", "weir", "weir.usage", "acme"),
        (f"{message.id}.1", "weir", "weir.usage", "acme"),
    ]
    assert [msgspec.convert(one.get_data(), dict)["credits"] for one in read] == ["1", "0.000000005"]


async def test_a_webhook_gets_the_whole_invoice_signed(db: Database, receiver: ScriptedUpstream, transport: HttpxTransport) -> None:
    added = add(db, f"http://127.0.0.1:{receiver.port}/hook", events=FEEDS)
    with db.write() as session:
        tell_invoice(session, INVOICE, NOON_US)
    sender = Sender(db, HASHER, transport, ManualClock(time.time_ns() // 1000), settings=WebhookSettings(), count=lambda _outcome: None)
    one = replace(webhooks.list_deliveries(db)[0], tries=1)
    await sender.deliver(outbox.Claimed(one, added.webhook.url, added.webhook.kind))
    (seen,) = receiver.requests
    assert added.secret is not None
    data = Receiver(added.secret).verify(seen.body, seen.headers)["data"]
    assert msgspec.convert(data["invoice"], Document) == INVOICE


async def test_without_its_key_stripe_is_not_called_and_the_message_waits(db: Database, receiver: ScriptedUpstream, transport: HttpxTransport) -> None:
    webhooks.set_stripe_customer(db, "acme", "cus_1", MIDNIGHT_US)
    add(db, f"http://127.0.0.1:{receiver.port}", kind="stripe", events=("invoice.issued",))
    with db.write() as session:
        tell_invoice(session, INVOICE, NOON_US)
    assert set(await send(db, transport)) == {"retried"}
    assert receiver.requests == []
    assert {(one.state, one.answer) for one in webhooks.list_deliveries(db)} == {
        ("waiting", "no answer: webhooks.stripe_key is not set in this gateway's configuration")
    }


async def test_a_key_is_sent_to_the_host_of_the_configuration_and_to_no_other(db: Database, receiver: ScriptedUpstream, transport: HttpxTransport) -> None:
    webhooks.set_stripe_customer(db, "acme", "cus_1", MIDNIGHT_US)
    add(db, f"http://127.0.0.1:{receiver.port}", kind="stripe", events=("invoice.issued",))
    with db.write() as session:
        tell_invoice(session, INVOICE, NOON_US)
    assert set(await send(db, transport, stripe_key=SecretStr("sk_test_1"))) == {"retried"}
    assert receiver.requests == []
    assert "its key is sent nowhere else" in (webhooks.list_deliveries(db)[0].answer or "")


def test_stripe_is_not_billed_by_two_destinations_for_one_tenant(db: Database) -> None:
    add(db, kind="stripe", events=("invoice.issued",))
    for tenant, events, options in (("acme", ("invoice.issued",), {}), (None, ("usage.hourly",), {"meter": "m"})):
        with pytest.raises(Conflict, match="told the same twice"):
            add(db, kind="stripe", events=events, options=options, tenant_id=tenant)


def test_a_message_that_failed_can_be_sent_again_and_no_other(db: Database) -> None:
    added = add(db, events=("usage.hourly",))
    used(db, request(1))
    (one,) = told(db)
    with pytest.raises(NotFound):
        webhooks.send_again(db, one.id, LATER_US)
    with db.write() as session:
        outbox.finish(session, replace(one, state="failed"))
    assert webhooks.send_again(db, one.id, LATER_US + 5).state == "waiting"
    assert webhooks.list_deliveries(db, added.webhook.id)[0].due_us == LATER_US + 5


def test_a_destination_that_is_removed_leaves_nothing(db: Database) -> None:
    added = add(db, events=("usage.hourly",))
    used(db, request(1))
    told(db)
    webhooks.remove_webhook(db, added.webhook.id, LATER_US)
    assert webhooks.list_deliveries(db) == []
    add(db, events=("usage.hourly",))
    assert len(told(db)) == 1  # another destination, told from its own beginning


@pytest.mark.parametrize(
    ("kind", "events", "options", "field"),
    [
        ("paypal", None, {}, "kind"),
        ("webhook", None, {"meter": "x"}, "meter"),
        ("stripe", None, {"meter": "x"}, "events"),
        ("stripe", FEEDS, {"meter": "x"}, "events"),
        ("stripe", ("credits.exhausted",), {}, "events"),
        ("stripe", ("usage.hourly",), {}, "meter"),
        ("stripe", ("usage.hourly",), {"meter": "a b"}, "meter"),
        ("stripe", ("usage.hourly",), {"meter": "x", "measure": "all"}, "measure"),
        ("stripe", ("invoice.issued",), {"meter": "x"}, "meter"),
        ("openmeter", ("invoice.issued",), {}, "events"),
    ],
)
def test_a_destination_that_makes_no_sense_is_refused_by_its_field(
    db: Database, kind: str, events: tuple[str, ...] | None, options: dict[str, str], field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        add(db, kind=kind, events=events, options=options)
    assert refused.value.field == field


def test_a_customer_that_is_none_is_refused(db: Database) -> None:
    with pytest.raises(Invalid, match="cus_"):
        webhooks.set_stripe_customer(db, "acme", "acme", NOON_US)


def _line(seq: int, amount_minor: int) -> Line:
    return Line(
        seq=seq, kind="fee", description="plan pro & more", first_day="2026-11-01", end_day="2026-12-01", amount_minor=amount_minor, exact="0",
        tax_category="S", tax_percent="19",
    )  # fmt: skip


INVOICE = Document(
    kind="invoice", id="i", number="INV-1", series="INV", tenant_id="acme", currency="EUR", language="en", timezone="UTC", period_start_us=0, period_end_us=1,
    first_day="2026-11-01", end_day="2026-12-01", seller=Party(name="Weir"), buyer=Party(name="ACME"), lines=(_line(1, 4900), _line(2, 0), _line(3, 101)),
    taxes=(Tax(category="S", percent="19", taxable_minor=5001, tax_minor=950),), net_minor=5001, tax_minor=950, total_minor=5951, issued_us=NOON_US,
)  # fmt: skip
