"""/tenant: a tenant's own people see and do what is theirs; and everything that somebody of another tenant may try comes to nothing."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.transport.over_httpx import HttpxTransport
from billing.operations import grants, keys, tenants
from billing.operations.directory import find_principal
from billing.operations.projects import set_project
from billing.usage.writer import book
from gateway.auth.sign_in import SignIn
from gateway.config.oidc import OidcSettings
from tests.books import event, request_id
from tests.desk import AdminApi, open_admin_api, problem
from tests.house import open_house
from tests.real.issuer import CLIENT, TestIssuer, b64

SECRET_OF_OTHER = "other-secret-matter"  # stands in every name of the other tenant's
READS = ["/tenant/whoami", "/tenant/credits", "/tenant/grants", "/tenant/projects", "/tenant/usage?month=2026-11", "/tenant/keys"]


class Street:
    """Two tenants side by side, each with use, keys, grants and projects of its own."""

    def __init__(self, api: AdminApi) -> None:
        self.api = api
        api.tenant("acme")
        tenants.create_tenant(api.database, id="other", name=SECRET_OF_OTHER, plan="pro", now_us=api.clock.now_us())
        with api.database.write() as session:
            book(session, [event(1, 10), event(2, 32), event(3, 7, tenant="other", project=SECRET_OF_OTHER)], api.clock.now_us())
        self.keys = {tenant: self.issue(tenant, name=SECRET_OF_OTHER if tenant == "other" else "mine", ceiling_ncr=10**9).id for tenant in ("acme", "other")}
        set_project(api.database, "other", SECRET_OF_OTHER, ceiling_ncr=5, now_us=api.clock.now_us())
        set_project(api.database, "acme", "search", ceiling_ncr=None, now_us=api.clock.now_us())
        grants.add_grant(api.database, tenant_id="other", amount_ncr=77, id=SECRET_OF_OTHER, now_us=api.clock.now_us())
        grants.add_grant(api.database, tenant_id="acme", amount_ncr=10**9, id="given", now_us=api.clock.now_us())
        self.staff = {
            (tenant, role): self.issue(tenant, kind="staff", role=role).secret for tenant, role in itertools.product(("acme", "other"), ("manager", "member"))
        }

    def issue(self, tenant: str, **more: Any) -> keys.IssuedKey:
        return keys.issue_key(self.api.database, self.api.hasher, tenant_id=tenant, now_us=self.api.clock.now_us(), **more)

    def ask(self, method: str, path: str, secret: str | None = None, **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {secret or self.staff['acme', 'manager']}"} | more.pop("headers", {})
        return self.api.http.request(method, path, headers=headers, **more)


@pytest.fixture
def street(tmp_path: Path) -> Iterator[Street]:
    with open_admin_api(tmp_path) as api:
        yield Street(api)


def test_a_member_sees_use_and_credits(street: Street) -> None:
    member = street.staff["acme", "member"]
    said = street.ask("GET", "/tenant/whoami", member).json()
    assert (said["tenant_id"], said["roles"], said["plan_id"], said["may"]) == ("acme", ["member"], "pro", {"own use": ["read"]})
    assert street.ask("GET", "/tenant/credits", member).json()["remaining"] == "1000.999999958"
    (line,) = street.ask("GET", "/tenant/usage", member, params={"month": "2026-11"}).json()
    assert (line["day"], line["requests"], line["credits"]) == ("2026-11-03", 2, "0.000000042")
    assert street.ask("GET", f"/tenant/usage/events/{request_id(1)}", member).json()["credits"] == "0.00000001"
    assert [project["name"] for project in street.ask("GET", "/tenant/projects", member).json()] == ["search"]
    assert [grant["id"] for grant in street.ask("GET", "/tenant/grants", member).json()] == ["given"]
    for method, path in (("GET", "/tenant/keys"), ("POST", "/tenant/keys"), ("DELETE", f"/tenant/keys/{street.keys['acme']}")):
        assert "manager" in problem(street.ask(method, path, member, json={}), 403, "forbidden")["detail"]


def test_a_manager_issues_lists_and_revokes_keys_of_the_tenant(street: Street) -> None:
    body = {"name": "ci", "project": "new", "requests_per_minute": 5, "ceiling": "12.5", "expires_at": "2027-01-01T00:00:00Z"}
    answer = street.ask("POST", "/tenant/keys", json=body)
    assert answer.status_code == 201
    issued = answer.json()
    secret = issued.pop("secret")
    with street.api.database.read() as session:
        principal = find_principal(session, street.api.hasher.digest(secret), street.api.clock.now_us())
    assert principal is not None
    assert (principal.tenant_id, principal.kind, principal.role, principal.project) == ("acme", "tenant", None, "new")
    listed = street.ask("GET", "/tenant/keys")
    assert issued["id"] in [key["id"] for key in listed.json()]
    assert secret not in listed.text
    assert street.ask("DELETE", f"/tenant/keys/{issued['id']}").json()["revoked_at"] == "2026-11-03T12:00:00Z"
    problem(street.ask("DELETE", f"/tenant/keys/{issued['id']}"), 409, "conflict")
    assert street.api.changes.count == 2


def test_a_manager_gives_nobody_more_than_they_have(street: Street) -> None:
    for more in ({"kind": "admin"}, {"role": "manager"}, {"kind": "staff", "role": "manager"}, {"tenant_id": "other"}, {"tenant": "other"}):
        problem(street.ask("POST", "/tenant/keys", json={"name": "x", **more}), 422, "invalid")
    assert len(keys.list_keys(street.api.database, "other")) == 3


def test_where_a_plan_gives_credits_to_each_key_operators_issue_them(street: Street) -> None:
    street.api.plan("seats", seat_allowance_ncr=10**9)
    street.api.tenant("rich", "seats")
    manager = street.issue("rich", kind="staff", role="manager").secret
    assert "gives credits to each key" in problem(street.ask("POST", "/tenant/keys", manager, json={}), 409, "conflict")["detail"]
    assert street.ask("GET", "/tenant/credits", manager).json()["limit"] == "1000", "and a key of its staff is no seat"
    street.issue("rich")
    assert street.ask("GET", "/tenant/credits", manager).json()["limit"] == "1001"


def test_a_suspended_tenants_people_see_all_and_issue_nothing(street: Street) -> None:
    tenants.set_state(street.api.database, "acme", "suspended", street.api.clock.now_us())
    assert street.ask("GET", "/tenant/whoami").json()["state"] == "suspended"
    problem(street.ask("POST", "/tenant/keys", json={}), 409, "conflict")
    assert street.ask("DELETE", f"/tenant/keys/{street.keys['acme']}").status_code == 200


def test_the_keys_of_applications_and_operators_open_nothing_here_and_staff_keys_nothing_there(street: Street) -> None:
    application = street.issue("acme").secret
    for secret in (application, street.api.secret):
        for path in READS:
            assert "manager's or a member's" in problem(street.ask("GET", path, secret), 403, "forbidden")["detail"]
    for path in ("/admin/tenants", "/admin/whoami", "/finance/usage?month=2026-11"):
        problem(street.ask("GET", path), 403, "forbidden")
    for path in READS:
        problem(street.api.http.get(path, headers={"Authorization": ""}), 401, "unauthorized")


# ---- whoever tries to see another tenant ----


def everything(street: Street, secret: str) -> str:
    return "".join(street.ask("GET", path, secret).text for path in READS)


def test_nothing_that_is_read_is_anothers(street: Street) -> None:
    mine, theirs = everything(street, street.staff["acme", "manager"]), everything(street, street.staff["other", "manager"])
    assert SECRET_OF_OTHER not in mine and '"other"' not in mine and street.keys["other"] not in mine and request_id(3) not in mine
    assert theirs.count(SECRET_OF_OTHER) >= 4 and street.keys["other"] in theirs, "the search above finds it where it is"


@pytest.mark.parametrize("name", ["tenant_id", "tenant", "tenantId", "tenant_id[]", "TENANT_ID", "org", "id", "after"])
def test_no_parameter_says_whose(street: Street, name: str) -> None:
    for path in READS:
        plain = street.ask("GET", path)
        asked = street.ask("GET", path, params={**({"month": "2026-11"} if "usage" in path else {}), name: "other"})
        assert asked.json() == plain.json(), path


@pytest.mark.parametrize("header", ["x-tenant-id", "x-weir-tenant", "x-forwarded-user", "x-forwarded-prefix", "x-original-url", "x-rewrite-url", "host"])
def test_no_header_says_whose(street: Street, header: str) -> None:
    for path in READS:
        assert street.ask("GET", path, headers={header: "other"}).json() == street.ask("GET", path).json()


def test_anothers_key_and_request_are_not_found_as_if_they_never_were(street: Street) -> None:
    admin = next(key.id for key in keys.list_keys(street.api.database) if key.kind == "admin")
    for key_id in (street.keys["other"], admin):
        theirs, nobodys = street.ask("DELETE", f"/tenant/keys/{key_id}"), street.ask("DELETE", "/tenant/keys/key_none")
        assert problem(theirs, 404, "not_found")["detail"].replace(key_id, "key_none") == problem(nobodys, 404, "not_found")["detail"]
        assert keys.get_key(street.api.database, key_id).revoked_us is None
    theirs, nobodys = street.ask("GET", f"/tenant/usage/events/{request_id(3)}"), street.ask("GET", "/tenant/usage/events/none")
    assert problem(theirs, 404, "not_found")["detail"].replace(request_id(3), "none") == problem(nobodys, 404, "not_found")["detail"]


def test_anothers_revoked_key_is_not_told_apart_from_none(street: Street) -> None:
    keys.revoke_key(street.api.database, street.keys["other"], street.api.clock.now_us())
    problem(street.ask("DELETE", f"/tenant/keys/{street.keys['other']}"), 404, "not_found")


def test_a_project_called_like_anothers_is_ones_own(street: Street) -> None:
    assert street.ask("POST", "/tenant/keys", json={"project": SECRET_OF_OTHER}).status_code == 201
    shares = {project["name"]: project for project in street.ask("GET", "/tenant/projects").json()}
    assert shares[SECRET_OF_OTHER] == {"name": SECRET_OF_OTHER, "ceiling": None, "used": "0", "keys": 1}


@pytest.mark.parametrize(
    "path",
    [
        "/tenant/other/usage",
        "/tenant/../admin/tenants",
        "/tenant/keys/../../admin/keys",
        "/tenant/%2e%2e/admin/keys",
        "/tenant//admin/keys",
        "/tenant/keys/%2e%2e/keys",
    ],
)
def test_no_way_of_writing_a_path_leads_to_anothers(street: Street, path: str) -> None:
    answer = street.ask("GET", path)
    assert answer.status_code in (403, 404, 405)
    assert SECRET_OF_OTHER not in answer.text


def test_the_page_after_anothers_key_is_ones_own(street: Street) -> None:
    assert street.ask("GET", "/tenant/keys", params={"after": street.keys["other"]}).json() == street.ask("GET", "/tenant/keys").json()


async def test_a_key_of_a_tenants_people_calls_no_models_and_two_tenants_keys_show_each_its_own(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}) as house:
        now_us, database, hasher = house.services.clock.now_us(), house.services.database, house.services.hasher
        tenants.create_tenant(database, id="other", name="other", plan="test", now_us=now_us)
        grants.add_grant(database, tenant_id="other", amount_ncr=5 * 10**9, id="theirs", now_us=now_us)
        staff = keys.issue_key(database, hasher, tenant_id="acme", kind="staff", role="manager", now_us=now_us).secret
        for method, path in (("GET", "/v1/credits"), ("GET", "/v1/models"), ("GET", "/v1/models/echo"), ("POST", "/v1/chat/completions")):
            refused = await house.client.request(method, path, headers={"authorization": f"Bearer {staff}"}, json={"model": "echo", "messages": []})
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
            assert "calls no models" in refused.text
        theirs = keys.issue_key(database, hasher, tenant_id="other", now_us=now_us).secret
        for secret, tenant, limit in ((house.key, "acme", "1000"), (theirs, "other", "1005")):
            said = (await house.client.get("/v1/credits?tenant=other&tenant_id=acme", headers={"authorization": f"Bearer {secret}"})).json()
            assert (said["tenant"], said["limit"], "theirs" in json.dumps(said)) == (tenant, limit, tenant == "other")


# ---- by token ----


@pytest.fixture
def signed(street: Street) -> Iterator[tuple[Street, TestIssuer]]:
    api = street.api
    issuer, transport = TestIssuer(lambda: api.clock.now_us() // 1_000_000), HttpxTransport()
    settings = OidcSettings(
        issuer=issuer.url,
        client_id=CLIENT,
        roles={"ops": "viewer"},
        role_claim="realm.roles",
        tenant_claim="org",
        tenant_roles={"boss": "manager", "team": "member"},
    )
    api.services.sign_in = SignIn(settings, transport, api.clock, api.hasher)
    yield street, issuer
    assert api.http.portal is not None
    api.http.portal.call(transport.aclose)
    issuer.close()


def test_a_token_opens_its_own_tenant(signed: tuple[Street, TestIssuer]) -> None:
    street, issuer = signed
    for tenant, group, role in (("acme", "boss", "manager"), ("other", "team", "member")):
        said = street.ask("GET", "/tenant/whoami", issuer.token({"org": tenant, "realm": {"roles": [group]}})).json()
        assert (said["tenant_id"], said["roles"], said["actor"]) == (tenant, [role], "oidc:ada@example.com")
    assert SECRET_OF_OTHER not in street.ask("GET", "/tenant/usage?month=2026-11", issuer.token({"org": "acme", "realm": {"roles": ["team"]}})).text


@pytest.mark.parametrize("org", [None, [], ["acme", "other"], "", "nobody", "acme,other", "ACME", "acme ", {"acme": 1}, 7, "*", "%"])
def test_a_token_that_names_no_single_tenant_here_opens_none(signed: tuple[Street, TestIssuer], org: Any) -> None:
    street, issuer = signed
    token = issuer.token({"org": org, "realm": {"roles": ["boss"]}})
    for path in READS:
        problem(street.ask("GET", path, token), 403, "forbidden")


def test_an_operators_group_is_nothing_in_a_tenant_and_a_tenants_nothing_for_operators(signed: tuple[Street, TestIssuer]) -> None:
    street, issuer = signed
    boss, ops = issuer.token({"org": "acme", "realm": {"roles": ["boss"]}}), issuer.token({"org": "acme", "realm": {"roles": ["ops"]}})
    problem(street.ask("GET", "/admin/tenants", boss), 403, "forbidden")
    problem(street.ask("GET", "/tenant/usage?month=2026-11", ops), 403, "forbidden")
    assert street.ask("GET", "/admin/tenants", ops).status_code == 200
    for roles in (["viewer"], ["manager"], ["member", "owner"]):  # names of ours, which the settings do not map
        token = issuer.token({"org": "acme", "realm": {"roles": roles}, "roles": roles, "realm.roles": roles})
        problem(street.ask("GET", "/tenant/whoami", token), 403, "forbidden")
        problem(street.ask("GET", "/admin/tenants", token), 403, "forbidden")


def test_values_of_the_claim_may_be_mapped_and_others_are_then_nobodys(signed: tuple[Street, TestIssuer]) -> None:
    street, issuer = signed
    settings = street.api.services.sign_in.settings.model_copy(update={"tenants": {"ACME Inc": "acme"}})
    street.api.services.sign_in = SignIn(settings, HttpxTransport(), street.api.clock, street.api.hasher)
    answers = {org: street.ask("GET", "/tenant/whoami", issuer.token({"org": org, "realm": {"roles": ["boss"]}})) for org in ("ACME Inc", "acme", "other")}
    assert answers.pop("ACME Inc").json()["tenant_id"] == "acme"
    for answer in answers.values():
        problem(answer, 403, "forbidden")


def test_a_changed_token_does_not_change_the_tenant(signed: tuple[Street, TestIssuer]) -> None:
    street, issuer = signed
    head, _payload, signature = issuer.token({"org": "acme", "realm": {"roles": ["boss"]}}).split(".")
    forged = b64(json.dumps(issuer.claims(org="other", realm={"roles": ["boss"]})))
    problem(street.ask("GET", "/tenant/whoami", f"{head}.{forged}.{signature}"), 401, "unauthorized")
