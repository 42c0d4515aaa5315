"""/admin/keys."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from billing.operations.directory import find_principal
from tests.desk import AdminApi, fields, open_admin_api, problem


@pytest.fixture
def api(tmp_path: Path) -> Iterator[AdminApi]:
    with open_admin_api(tmp_path) as opened:
        opened.tenant("acme")
        yield opened


def test_201_issues_a_key_whose_secret_is_in_that_answer_alone(api: AdminApi) -> None:
    body = {"tenant_id": "acme", "name": "ci", "project": "p", "requests_per_minute": 5, "tokens_per_minute": 1000, "expires_at": "2027-01-01T00:00:00+01:00"}
    answer = api.http.post("/admin/keys", json=body)
    assert answer.status_code == 201
    issued = answer.json()
    secret = issued.pop("secret")
    assert secret.startswith("sk-weir-")
    assert issued["expires_at"] == "2026-12-31T23:00:00Z"
    listed = api.http.get("/admin/keys", params={"tenant_id": "acme"})
    assert listed.json() == [issued]
    assert secret not in listed.text
    with api.database.read() as session:
        principal = find_principal(session, api.hasher.digest(secret), api.clock.now_us())
    assert principal is not None
    assert (principal.tenant_id, principal.project, principal.requests_per_minute, principal.tokens_per_minute) == ("acme", "p", 5, 1000)
    assert api.changes.count == 1


def test_an_admin_key_opens_the_admin_api(api: AdminApi) -> None:
    secret = api.http.post("/admin/keys", json={"kind": "admin", "name": "second"}).json()["secret"]
    assert api.http.get("/admin/keys", headers={"Authorization": f"Bearer {secret}"}).status_code == 200


def test_a_revoked_key_is_found_no_more(api: AdminApi) -> None:
    issued = api.http.post("/admin/keys", json={"tenant_id": "acme"}).json()
    revoked = api.http.delete(f"/admin/keys/{issued['id']}")
    assert revoked.json()["revoked_at"] == "2026-11-03T12:00:00Z"
    with api.database.read() as session:
        assert find_principal(session, api.hasher.digest(issued["secret"]), api.clock.now_us()) is None
    assert api.changes.count == 2
    problem(api.http.delete(f"/admin/keys/{issued['id']}"), 409, "conflict")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "tenant_id"),
        ({"kind": "admin", "tenant_id": "acme"}, "tenant_id"),
        ({"kind": "root"}, "kind"),
        ({"tenant_id": "acme", "requests_per_minute": 0}, "requests_per_minute"),
        ({"tenant_id": "acme", "tokens_per_minute": "many"}, "tokens_per_minute"),
        ({"tenant_id": "acme", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"tenant_id": "acme", "expires_at": "2027-01-01T00:00:00"}, "expires_at"),
        ({"tenant_id": "acme", "expires_at": "tomorrow"}, "expires_at"),
        ({"tenant_id": "acme", "name": "a\nb"}, "name"),
    ],
)
def test_422_names_the_field(api: AdminApi, body: dict[str, Any], field: str) -> None:
    assert fields(problem(api.http.post("/admin/keys", json=body), 422, "invalid")) == [field]


def test_404_for_a_tenant_or_a_key_that_is_not_there(api: AdminApi) -> None:
    problem(api.http.post("/admin/keys", json={"tenant_id": "nobody"}), 404, "not_found")
    problem(api.http.get("/admin/keys", params={"tenant_id": "nobody"}), 404, "not_found")
    problem(api.http.delete("/admin/keys/key_none"), 404, "not_found")
