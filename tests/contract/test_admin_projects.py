"""/admin/projects, and the ceilings of keys."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from billing.credits import store as accounts
from billing.credits.store import Sum
from billing.grants.allowance import current_period
from billing.tenants.store import ceilings
from tests.desk import AdminApi, fields, open_admin_api, problem


@pytest.fixture
def api(tmp_path: Path) -> Iterator[AdminApi]:
    with open_admin_api(tmp_path) as opened:
        opened.tenant("acme")
        yield opened


def use(api: AdminApi, span: str, cover_ncr: int) -> None:
    """Book cover in the period that is now, as a flush does."""
    with api.database.write() as session:
        period = current_period(session, "acme", api.clock.now_us())
        assert period is not None
        accounts.add_sums(session, [Sum(tenant_id="acme", span=span, start_us=period[1].start_us, events=1, cover_ncr=cover_ncr)])


def issue(api: AdminApi, **more: Any) -> dict[str, Any]:
    answer = api.http.post("/admin/keys", json={"tenant_id": "acme", **more})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_200_writes_a_project_again_and_again(api: AdminApi) -> None:
    made = api.http.put("/admin/projects/acme/search", json={"ceiling": "500"})
    assert made.status_code == 200
    assert made.json() == {"tenant_id": "acme", "name": "search", "ceiling": "500", "used": "0", "keys": 0, "created_at": "2026-11-03T12:00:00Z"}
    assert api.http.put("/admin/projects/acme/search", json={"ceiling": "0.5"}).json()["ceiling"] == "0.5"
    assert api.http.put("/admin/projects/acme/search", json={}).json()["ceiling"] is None
    assert api.changes.count == 3


def test_a_name_may_hold_a_slash_and_any_letter(api: AdminApi) -> None:
    for name in ("team/search", "köln, am rhein"):
        assert api.http.put(f"/admin/projects/acme/{name}", json={"ceiling": "1"}).json()["name"] == name
    assert [project["name"] for project in api.http.get("/admin/projects", params={"tenant_id": "acme"}).json()] == ["köln, am rhein", "team/search"]


def test_200_lists_projects_with_their_keys_and_what_they_used(api: AdminApi) -> None:
    issue(api, project="search")
    api.http.put("/admin/projects/acme/chat", json={"ceiling": "10"})
    use(api, "project:chat", 2_500_000_000)
    listed = api.http.get("/admin/projects", params={"tenant_id": "acme"}).json()
    assert [(project["name"], project["ceiling"], project["used"], project["keys"]) for project in listed] == [
        ("chat", "10", "2.5", 0),
        ("search", None, "0", 1),
    ]


def test_a_keys_ceiling_is_set_shown_with_its_use_and_lifted(api: AdminApi) -> None:
    key = issue(api, ceiling="100", requests_per_minute=5)
    assert (key["ceiling"], key["used"]) == ("100", None)
    use(api, f"key:{key['id']}", 40_000_000_000)
    changed = api.http.patch(f"/admin/keys/{key['id']}", json={"ceiling": "50", "requests_per_minute": None})
    assert changed.status_code == 200
    assert (changed.json()["ceiling"], changed.json()["used"], changed.json()["requests_per_minute"]) == ("50", "40", None)
    assert api.http.get("/admin/keys", params={"tenant_id": "acme"}).json() == [changed.json()]
    with api.database.read() as session:
        assert ceilings(session, "acme") == {f"key:{key['id']}": 50 * 10**9}
    lifted = api.http.patch(f"/admin/keys/{key['id']}", json={"ceiling": None}).json()
    assert (lifted["ceiling"], lifted["used"]) == (None, None)
    assert api.changes.count == 3


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/admin/projects/acme/p", {"ceiling": "-1"}, "ceiling"),
        ("/admin/projects/acme/p", {"ceiling": "0.0000000001"}, "ceiling"),
        ("/admin/projects/acme/p", {"ceiling": 0.5}, "ceiling"),
        ("/admin/projects/acme/p", {"ceiling": "9300000000"}, "ceiling"),
        ("/admin/projects/acme/p", {"ceiling": "9000000000"}, "ceiling"),
        ("/admin/projects/acme/p", {"limit": "1"}, "limit"),
        ("/admin/projects/acme/" + "x" * 201, {}, "project"),
    ],
)
def test_422_names_what_cannot_be_a_project(api: AdminApi, path: str, body: dict[str, Any], field: str) -> None:
    assert fields(problem(api.http.put(path, json=body), 422, "invalid")) == [field]


@pytest.mark.parametrize(
    ("body", "field"),
    [({"ceiling": "-1"}, "ceiling"), ({"ceiling": "much"}, "ceiling"), ({"requests_per_minute": 0}, "requests_per_minute"), ({"name": "x"}, "name")],
)
def test_422_names_what_cannot_be_a_keys_limit(api: AdminApi, body: dict[str, Any], field: str) -> None:
    key = issue(api)
    assert fields(problem(api.http.patch(f"/admin/keys/{key['id']}", json=body), 422, "invalid")) == [field]
    problem(api.http.patch(f"/admin/keys/{key['id']}", json={}), 422, "invalid")


def test_404_and_409_for_what_is_not_there_or_revoked(api: AdminApi) -> None:
    problem(api.http.put("/admin/projects/nobody/p", json={}), 404, "not_found")
    problem(api.http.get("/admin/projects", params={"tenant_id": "nobody"}), 404, "not_found")
    problem(api.http.patch("/admin/keys/key_none", json={"ceiling": "1"}), 404, "not_found")
    key = issue(api)
    api.http.delete(f"/admin/keys/{key['id']}")
    problem(api.http.patch(f"/admin/keys/{key['id']}", json={"ceiling": "1"}), 409, "conflict")
