"""/admin/webhooks, and the whole way from a request to a verified message and to /v1/credits."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook as Receiver

from billing.operations import webhooks
from tests.desk import AdminApi, fields, open_admin_api, problem
from tests.house import open_house
from tests.real.upstream import ScriptedUpstream, answer

URL = "https://hook.test/weir"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[AdminApi]:
    with open_admin_api(tmp_path) as opened:
        opened.tenant("acme")
        yield opened


def add(api: AdminApi, **body: Any) -> dict[str, Any]:
    answered = api.http.post("/admin/webhooks", json={"url": URL, **body})
    assert answered.status_code == 201, answered.text
    found: dict[str, Any] = answered.json()
    return found


def test_201_gives_the_secret_this_once(api: AdminApi) -> None:
    added = add(api, tenant_id="acme", events=["credits.exhausted"])
    secret = added.pop("secret")
    assert secret.startswith("whsec_")
    assert added == {
        "id": added["id"],
        "url": URL,
        "tenant_id": "acme",
        "events": ["credits.exhausted"],
        "kind": "webhook",
        "options": {},
        "created_at": "2026-11-03T12:00:00Z",
        "disabled_at": None,
    }
    listed = api.http.get("/admin/webhooks")
    assert listed.json() == [added]
    assert secret not in listed.text


def test_a_test_is_queued_and_among_the_deliveries(api: AdminApi) -> None:
    added = add(api)
    queued = api.http.post(f"/admin/webhooks/{added['id']}/test")
    assert queued.status_code == 202
    body = '{"type":"webhook.test","timestamp":"2026-11-03T12:00:00Z","data":{"tenant":null}}'
    assert queued.json() == {
        "id": queued.json()["id"],
        "webhook_id": added["id"],
        "tenant_id": None,
        "type": "webhook.test",
        "state": "waiting",
        "tries": 0,
        "status": None,
        "answer": None,
        "created_at": "2026-11-03T12:00:00Z",
        "tried_at": None,
        "due_at": "2026-11-03T12:00:00Z",
        "body": body,
    }
    assert api.http.get("/admin/webhooks/deliveries").json() == [queued.json()]
    assert api.http.get("/admin/webhooks/deliveries", params={"webhook_id": added["id"], "limit": 1}).json() == [queued.json()]


def test_200_removes_it_with_what_waits(api: AdminApi) -> None:
    added = add(api)
    api.http.post(f"/admin/webhooks/{added['id']}/test")
    removed = api.http.delete(f"/admin/webhooks/{added['id']}")
    assert (removed.status_code, removed.json()["id"], "secret" in removed.json()) == (200, added["id"], False)
    assert api.http.get("/admin/webhooks").json() == [] == api.http.get("/admin/webhooks/deliveries").json()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"url": "http://example.com/"}, "url"),
        ({"url": "https://user:pw@example.com/"}, "url"),
        ({"url": "nonsense"}, "url"),
        ({"url": URL, "events": []}, "events"),
        ({"url": URL, "events": ["credits.gone"]}, "events"),
        ({"url": URL, "secret": "mine"}, "secret"),
        ({}, "url"),
    ],
)
def test_422_names_what_cannot_be_an_endpoint(api: AdminApi, body: dict[str, Any], field: str) -> None:
    assert fields(problem(api.http.post("/admin/webhooks", json=body), 422, "invalid")) == [field]
    assert api.http.get("/admin/webhooks").json() == []


def test_404_and_409_for_what_is_not_there_or_there_twice(api: AdminApi) -> None:
    problem(api.http.post("/admin/webhooks", json={"url": URL, "tenant_id": "nobody"}), 404, "not_found")
    problem(api.http.delete("/admin/webhooks/wh_none"), 404, "not_found")
    problem(api.http.post("/admin/webhooks/wh_none/test"), 404, "not_found")
    problem(api.http.get("/admin/webhooks/deliveries", params={"webhook_id": "wh_none"}), 404, "not_found")
    add(api)
    problem(api.http.post("/admin/webhooks", json={"url": URL}), 409, "conflict")


def test_a_tenants_key_adds_no_endpoint(api: AdminApi) -> None:
    key = api.http.post("/admin/keys", json={"tenant_id": "acme"}).json()["secret"]
    problem(api.http.post("/admin/webhooks", json={"url": URL}, headers={"authorization": f"Bearer {key}"}), 403, "forbidden")


async def test_a_request_that_reaches_a_threshold_is_told_and_shown(tmp_path: Path) -> None:
    receiver = ScriptedUpstream(script=(answer(b"", status=204),))
    async with open_house(tmp_path, {}, plan={"allowance_ncr": 100_000_000}) as house:  # "Hello" and ten words of echo cost more than half of it
        services = house.services
        added = webhooks.add_webhook(services.database, services.hasher, url=f"http://127.0.0.1:{receiver.port}/", now_us=services.clock.now_us())
        assert (await _credits(house))["thresholds"] == []
        while (float((shown := await _credits(house))["used"])) < 0.08:
            assert (await house.chat(model="echo")).status_code == 200
            await house.events()
        async with asyncio.timeout(10):
            while len(receiver.requests) < len(shown["thresholds"]) or await _figure(house, "weir_webhooks_waiting") != "0":
                await asyncio.sleep(0.02)
        assert [one["percent"] for one in shown["thresholds"]][:2] == [50, 80]
        told = [Receiver(added.secret or "").verify(seen.body, seen.headers) for seen in receiver.requests]
        assert sorted(one["data"]["percent"] for one in told) == [one["percent"] for one in shown["thresholds"]]
        assert {one["data"]["limit"] for one in told} == {"0.1"}
        assert all(one["reached_at"].endswith("Z") for one in shown["thresholds"])
        assert await _figure(house, 'weir_webhooks_total{outcome="delivered"}') == str(len(told))
    receiver.close()


async def _credits(house: Any) -> dict[str, Any]:
    shown: dict[str, Any] = (await house.client.get("/v1/credits", headers={"authorization": f"Bearer {house.key}"})).json()
    return shown


async def _figure(house: Any, series: str) -> str:
    lines = (await house.client.get("/metrics")).text.splitlines()
    return next((line.rpartition(" ")[2].removesuffix(".0") for line in lines if line.startswith(series + " ")), "")


def test_stripe_takes_its_options_and_gives_no_secret(api: AdminApi) -> None:
    added = add(api, kind="stripe", events=["usage.hourly"], options={"meter": "weir"})
    assert (added["secret"], added["kind"], added["options"]) == (None, "stripe", {"meter": "weir", "measure": "used"})
    assert api.http.post(f"/admin/webhooks/{added['id']}/test").status_code == 409
    refused = api.http.post("/admin/webhooks", json={"url": URL, "kind": "stripe", "events": ["usage.hourly"]})
    assert (refused.status_code, "meter: is missing" in refused.text) == (422, True)


def test_a_tenant_is_a_customer_in_stripe_until_it_is_nobody(api: AdminApi) -> None:
    for customer, status in (("cus_1", 204), ("acme", 422), (None, 204)):
        assert api.http.put("/admin/webhooks/stripe-customers/acme", json={"customer": customer}).status_code == status
    assert api.http.put("/admin/webhooks/stripe-customers/nobody", json={"customer": "cus_1"}).status_code == 404


def test_404_to_send_again_what_has_not_failed(api: AdminApi) -> None:
    assert api.http.post("/admin/webhooks/deliveries/msg_1/retry").status_code == 404
