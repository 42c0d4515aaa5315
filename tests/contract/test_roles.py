"""Which role may do what: every route of /admin, /finance and /tenant, asked by everybody, held against the table written down here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter

from billing.operations import keys
from gateway.auth.admin import AdminDesk
from gateway.auth.roles import OPERATOR_ROLES, TENANT_ROLES
from gateway.wire.problems import problem_router
from tests.desk import AdminApi, open_admin_api, problem

ALL, RUNNING = "owner admin finance viewer", "owner admin viewer"
EXPECTED = {  # the first words of a route -> who reads, who writes
    "/admin/whoami": (ALL, ""),
    "/admin/tenants": (ALL, "owner admin"),
    "/admin/projects": (ALL, "owner admin"),
    "/admin/keys": (ALL, "owner admin"),
    "/admin/plans": (ALL, "owner admin"),
    "/admin/subscriptions": (ALL, "owner admin"),
    "/admin/grants": (ALL, "owner admin"),
    "/admin/credits": (ALL, "owner admin"),
    "/admin/usage": (ALL, "owner admin"),
    "/admin/rates": (ALL, "owner admin"),
    "/admin/costs": (ALL, "owner admin"),
    "/admin/price-versions": (ALL, "owner admin"),
    "/admin/backends": (RUNNING, "owner admin"),
    "/admin/lanes": (RUNNING, "owner admin"),
    "/admin/webhooks": (RUNNING, "owner admin"),
    "/admin/company": (ALL, "owner finance"),
    "/admin/gpu-costs": (ALL, "owner admin"),
    "/admin/exchange-rates": (ALL, "owner finance"),
    "/admin/audit": (ALL, "owner"),
    "/finance": (ALL, "owner finance"),
    "/tenant/whoami": ("manager member", ""),
    "/tenant/usage": ("manager member", ""),
    "/tenant/credits": ("manager member", ""),
    "/tenant/grants": ("manager member", ""),
    "/tenant/projects": ("manager member", ""),
    "/tenant/keys": ("manager", "manager"),
    "/tenant/invoices": ("manager", ""),
}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[AdminApi]:
    with open_admin_api(tmp_path) as opened:
        opened.tenant()
        yield opened


def bearer(api: AdminApi, role: str) -> dict[str, str]:
    whose: dict[str, Any] = {"kind": "admin"} if role in OPERATOR_ROLES else {"kind": "staff", "tenant_id": "acme"}
    return {"Authorization": f"Bearer {keys.issue_key(api.database, api.hasher, role=role, now_us=api.clock.now_us(), **whose).secret}"}


def listed(api: AdminApi) -> list[tuple[str, str]]:
    return [(method.upper(), path) for path, operations in api.app.openapi()["paths"].items() for method in operations]


def roles_for(method: str, path: str) -> set[str]:
    found = [both for prefix, both in EXPECTED.items() if path == prefix or path.startswith(f"{prefix}/")]
    assert len(found) == 1, f"{method} {path}: write down here, and in gateway/auth/roles.py, who may do this"
    return set(found[0][0 if method == "GET" else 1].split())


def test_every_route_is_open_to_the_roles_written_here_and_to_no_other(api: AdminApi) -> None:
    routes = listed(api)
    assert len(routes) > 30
    for role in (*OPERATOR_ROLES, *TENANT_ROLES):
        headers = bearer(api, role)
        for method, path in routes:
            answer = api.http.request(method, path.replace("{", "").replace("}", ""), headers=headers, json={})
            assert (answer.status_code != 403) == (role in roles_for(method, path)), f"{role}: {method} {path}: {answer.status_code} {answer.text}"


def test_a_refusal_says_which_role_is_needed(api: AdminApi) -> None:
    body = problem(api.http.post("/admin/tenants", headers=bearer(api, "viewer"), json={}), 403, "forbidden")
    assert body["detail"] == "This needs the role owner or admin. You have viewer."
    body = problem(api.http.get("/admin/lanes", headers=bearer(api, "finance")), 403, "forbidden")
    assert body["detail"] == "This needs the role owner or admin or viewer. You have finance."


def test_whoever_may_not_learns_nothing_of_what_is_there(api: AdminApi) -> None:
    headers = bearer(api, "finance")
    answers = [api.http.delete(f"/admin/grants/{name}", headers=headers) for name in ("none", "topup_0000")]
    assert [problem(answer, 403, "forbidden")["detail"] for answer in answers] == ["This needs the role owner or admin. You have finance."] * 2


def test_a_route_that_nobody_was_given_is_refused_to_owners_too(api: AdminApi) -> None:
    stray = problem_router("/stray")

    @stray.get("")
    def show(desk: AdminDesk) -> str:
        return "reached"

    api.app.include_router(stray)
    outer = APIRouter(prefix="/administration")  # begins like /admin, and is not of it
    outer.include_router(stray)
    api.app.include_router(outer)
    for path in ("/stray", "/administration/stray"):
        assert "Nobody may do this" in problem(api.http.get(path), 403, "forbidden")["detail"]


def test_a_new_noun_under_admin_is_read_by_those_who_run_it_and_written_by_owners(api: AdminApi) -> None:
    noun = problem_router("/novelties")

    @noun.api_route("", methods=["GET", "POST"])
    def do(desk: AdminDesk) -> str:
        return "done"

    outer = APIRouter(prefix="/admin")
    outer.include_router(noun)
    api.app.include_router(outer)
    may = {
        method: {role for role in OPERATOR_ROLES if api.http.request(method, "/admin/novelties", headers=bearer(api, role)).is_success}
        for method in ("GET", "POST")
    }
    assert may == {"GET": {"owner", "admin", "viewer"}, "POST": {"owner"}}


@pytest.mark.parametrize("path", ["//admin/tenants", "/admin//tenants", "/finance/../admin/tenants", "/admin/tenants/", "/ADMIN/tenants", "/admin/%74enants"])
def test_no_way_of_writing_a_path_gives_more(api: AdminApi, path: str) -> None:
    answer = api.http.post(path, headers=bearer(api, "finance"), json={"id": "evil", "plan_id": "pro"})
    assert answer.status_code in (307, 403, 404, 405)
    assert [tenant["id"] for tenant in api.http.get("/admin/tenants").json()] == ["acme"]


def test_operators_keys_are_owners_business_alone(api: AdminApi) -> None:
    other = keys.issue_key(api.database, api.hasher, kind="admin", now_us=api.clock.now_us()).id
    admin = bearer(api, "admin")
    for body in ({"kind": "admin"}, {"kind": "admin", "role": "viewer"}):
        problem(api.http.post("/admin/keys", headers=admin, json=body), 403, "forbidden")
    problem(api.http.patch(f"/admin/keys/{other}", headers=admin, json={"requests_per_minute": 1}), 403, "forbidden")
    problem(api.http.delete(f"/admin/keys/{other}", headers=admin), 403, "forbidden")
    for body in ({"tenant_id": "acme"}, {"tenant_id": "acme", "kind": "staff", "role": "manager"}):
        issued = api.http.post("/admin/keys", headers=admin, json=body)
        assert issued.status_code == 201
        assert api.http.delete(f"/admin/keys/{issued.json()['id']}", headers=admin).status_code == 200
    made = api.http.post("/admin/keys", json={"kind": "admin", "role": "finance"}).json()
    assert (made["role"], api.http.delete(f"/admin/keys/{made['id']}").status_code) == ("finance", 200)


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "admin", "role": "manager"},
        {"kind": "admin", "role": "root"},
        {"kind": "staff", "tenant_id": "acme"},
        {"kind": "staff", "tenant_id": "acme", "role": "owner"},
        {"tenant_id": "acme", "role": "manager"},
    ],
)
def test_a_role_that_the_kind_of_key_has_not_is_refused(api: AdminApi, body: dict[str, Any]) -> None:
    assert problem(api.http.post("/admin/keys", json=body), 422, "invalid")["errors"][0]["field"] == "role"


def test_whoami_says_what_the_role_may_do(api: AdminApi) -> None:
    said = api.http.get("/admin/whoami", headers=bearer(api, "finance")).json()
    assert (said["kind"], said["roles"]) == ("key", ["finance"])
    assert said["actor"].startswith("key:key_")
    assert said["may"]["finance"] == ["read", "write"]
    assert said["may"]["customers"] == ["read"]
    assert "machines" not in said["may"]


def test_the_actor_of_a_write_is_the_key(api: AdminApi) -> None:
    seen: list[object] = []
    noun = problem_router("/seen")

    @noun.get("")
    def show(desk: AdminDesk) -> str:
        with desk.database.write() as session:
            seen.append(session.info["actor"])
        return "done"

    outer = APIRouter(prefix="/admin")
    outer.include_router(noun)
    api.app.include_router(outer)
    assert api.http.get("/admin/seen").status_code == 200
    assert seen == [api.http.get("/admin/whoami").json()["actor"]]
