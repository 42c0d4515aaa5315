"""/admin/audit: each change over the API is there with the key that made it; it is only read."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from billing.operations import keys
from tests.desk import AdminApi, open_admin_api, problem


@pytest.fixture
def api(tmp_path: Path) -> Iterator[AdminApi]:
    with open_admin_api(tmp_path) as opened:
        opened.tenant("acme")  # entries 1 (the admin's key), 2 (the plan) and 3, by the gateway itself
        yield opened


def test_200_lists_changes_newest_first_with_the_key_that_made_them(api: AdminApi) -> None:
    key = keys.list_keys(api.database)[0].id
    assert api.http.patch("/admin/tenants/acme", json={"state": "suspended"}).status_code == 200
    newest, *older = api.http.get("/admin/audit").json()
    assert newest == {
        "id": 4,
        "at": "2026-11-03T12:00:00Z",
        "actor": f"key:{key}",
        "action": "tenant.suspend",
        "tenant_id": "acme",
        "subject": "acme",
        "before": {**newest["after"], "state": "active"},
        "after": {**newest["before"], "state": "suspended"},
        "prev_hash": older[0]["hash"],
        "hash": newest["hash"],
    }
    assert [(one["id"], one["actor"], one["action"]) for one in older] == [(3, "weir", "tenant.create"), (2, "weir", "plan.set"), (1, "weir", "key.issue")]
    assert api.http.get("/admin/audit/4").json() == newest


def test_every_write_of_the_admin_api_is_recorded(api: AdminApi) -> None:
    http, books = api.http, "/admin/"
    key = http.post(books + "keys", json={"tenant_id": "acme"}).json()["id"]
    grant = http.post(books + "grants", json={"tenant_id": "acme", "credits": "5", "kind": "topup"}).json()["id"]
    hook = http.post(books + "webhooks", json={"url": "https://hook.test/weir"}).json()["id"]
    version = http.post(books + "price-versions", json={"rates": {"n": {"input": "1", "output": "2"}}}).json()["id"]
    answers = [
        http.post(books + "tenants", json={"id": "beta", "plan_id": "pro"}),
        http.put(books + "plans/max", json={"credits": "9"}),
        http.put(books + "projects/acme/search", json={"ceiling": "5"}),
        http.patch(books + f"keys/{key}", json={"requests_per_minute": 5}),
        http.delete(books + f"keys/{key}"),
        http.delete(books + f"grants/{grant}"),
        http.post(books + f"webhooks/{hook}/test"),
        http.delete(books + f"webhooks/{hook}"),
        http.patch(books + "tenants/acme", json={"plan_id": "max", "when": "period-end"}),
        http.delete(books + "tenants/acme/next-plan"),
        http.post(books + "rates", json={"model": "m", "input": "1", "output": "2"}),
        http.post(books + "costs", json={"backend": "b", "model": "m", "currency": "USD", "input": "1", "output": "2"}),
        http.post(books + f"price-versions/{version}/publish"),
    ]
    assert [answer.text for answer in answers if not answer.is_success] == []
    mine = [one for one in api.http.get("/admin/audit?limit=1000").json() if one["actor"] != "weir"]
    assert {one["actor"] for one in mine} == {f"key:{next(one.id for one in keys.list_keys(api.database) if one.kind == 'admin')}"}
    assert [one["action"] for one in reversed(mine)] == [
        "key.issue", "grant.add", "webhook.add", "rates.propose", "tenant.create", "plan.set", "project.create", "key.limit", "key.revoke", "grant.void",
        "webhook.test", "webhook.remove", "subscription.change", "subscription.keep", "rates.set", "costs.set", "rates.publish",
    ]  # fmt: skip


def test_200_filters_and_pages(api: AdminApi) -> None:
    def ids(query: str) -> list[int]:
        return [one["id"] for one in api.http.get(f"/admin/audit?{query}").json()]

    assert (ids("limit=2"), ids("before=2"), ids("tenant_id=acme"), ids("action=plan"), ids("actor=weir&limit=1")) == ([3, 2], [1], [3], [2], [3])
    assert (ids("since=2026-11-03T12:00:00Z"), ids("since=2026-11-03T12:00:01%2B00:00")) == ([3, 2, 1], [])


def test_200_the_head_is_the_newest_entry(api: AdminApi) -> None:
    newest = api.http.get("/admin/audit").json()[0]
    assert api.http.get("/admin/audit/head").json() == {"id": 3, "hash": newest["hash"], "head": f"3:{newest['hash']}"}


def test_404_and_422(api: AdminApi) -> None:
    problem(api.http.get("/admin/audit/99"), 404, "not_found")
    for wrong in ("0", "x", str(2**63), "?limit=0", "?limit=1001", "?before=0", "?since=2026-11-03"):
        assert api.http.get(f"/admin/audit/{wrong}" if wrong[0] != "?" else f"/admin/audit{wrong}").status_code == 422, wrong


def test_405_nobody_changes_the_log(api: AdminApi) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert api.http.request(method, "/admin/audit/1").status_code == 405


def test_401_without_and_403_with_a_tenants_key(api: AdminApi) -> None:
    secret = api.http.post("/admin/keys", json={"tenant_id": "acme"}).json()["secret"]
    problem(api.http.get("/admin/audit", headers={"authorization": ""}), 401, "unauthorized")
    problem(api.http.get("/admin/audit", headers={"authorization": f"Bearer {secret}"}), 403, "forbidden")
