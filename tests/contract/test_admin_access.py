"""Who may use /admin and /finance, and what whoever may not is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from billing.operations import keys
from tests.desk import AdminApi, open_admin_api, problem


@pytest.fixture
def api(tmp_path: Path) -> Iterator[AdminApi]:
    with open_admin_api(tmp_path) as opened:
        yield opened


def test_401_without_a_key(api: AdminApi) -> None:
    answer = api.http.get("/admin/tenants", headers={"Authorization": ""})
    problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("header", ["Bearer sk-weir-admin-wrong", "Bearer \xff", "Basic YTpi", "Bearer", "nonsense"])
def test_401_with_a_key_that_nobody_issued(api: AdminApi, header: str) -> None:
    problem(api.http.get("/admin/tenants", headers=[(b"authorization", header.encode("latin-1"))]), 401, "unauthorized")


def test_403_with_a_tenants_key(api: AdminApi) -> None:
    api.tenant()
    issued = keys.issue_key(api.database, api.hasher, tenant_id="acme", now_us=api.clock.now_us())
    problem(api.http.get("/admin/tenants", headers={"Authorization": f"Bearer {issued.secret}"}), 403, "forbidden")
    problem(api.http.get("/finance/usage?month=2026-11", headers={"Authorization": f"Bearer {issued.secret}"}), 403, "forbidden")


def test_401_as_soon_as_an_admin_key_is_revoked_or_has_expired(api: AdminApi) -> None:
    brief = keys.issue_key(api.database, api.hasher, kind="admin", expires_us=api.clock.now_us() + 1_000_000, now_us=api.clock.now_us())
    gone = keys.issue_key(api.database, api.hasher, kind="admin", now_us=api.clock.now_us())
    for issued in (brief, gone):
        assert api.http.get("/admin/tenants", headers={"Authorization": f"Bearer {issued.secret}"}).status_code == 200
    keys.revoke_key(api.database, gone.id, api.clock.now_us())
    api.clock.advance(1)
    for issued in (brief, gone):
        problem(api.http.get("/admin/tenants", headers={"Authorization": f"Bearer {issued.secret}"}), 401, "unauthorized")


def test_every_route_refuses_without_a_key(api: AdminApi) -> None:
    paths = api.app.openapi()["paths"]
    assert len(paths) >= 15
    for path, operations in paths.items():
        for method in operations:
            answer = api.http.request(method, path.replace("{", "").replace("}", ""), headers={"Authorization": ""}, json={})
            problem(answer, 401, "unauthorized")


def test_openapi_describes_problems_as_they_are_sent(api: AdminApi) -> None:
    for path, operations in api.app.openapi()["paths"].items():
        for operation in operations.values():
            refusal = operation["responses"]["422"]
            assert list(refusal["content"]) == ["application/problem+json"], path
            assert "$defs" not in refusal["content"]["application/problem+json"]["schema"]


def test_400_for_a_body_that_is_no_json(api: AdminApi) -> None:
    problem(api.http.post("/admin/tenants", content=b"{", headers={"content-type": "application/json"}), 400, "malformed")


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"1"])
def test_422_for_json_that_is_no_object(api: AdminApi, body: bytes) -> None:
    problem(api.http.post("/admin/tenants", content=body, headers={"content-type": "application/json"}), 422, "invalid")


def test_413_for_a_body_past_the_limit(api: AdminApi) -> None:
    body = b'{"id": "' + b"a" * 2**20 + b'"}'
    problem(api.http.post("/admin/tenants", content=body, headers={"content-type": "application/json"}), 413, "too_large")


def test_503_while_the_books_are_away(api: AdminApi, tmp_path: Path) -> None:
    api.database.close()
    for file in tmp_path.glob("weir.db*"):
        file.unlink()
    (tmp_path / "weir.db").mkdir()
    answer = api.http.get("/admin/tenants")
    problem(answer, 503, "books_unavailable")
    assert answer.headers["retry-after"] == "1"


def test_answers_are_not_to_be_stored(api: AdminApi) -> None:
    assert api.http.get("/admin/tenants").headers["cache-control"] == "no-store"
