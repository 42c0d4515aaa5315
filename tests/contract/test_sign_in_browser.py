"""A browser signs in: there and back again, with nothing that somebody else could have put in its way."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.testclient import TestClient

from backends.transport.over_httpx import HttpxTransport
from gateway.api.ops import auth
from gateway.auth.sign_in import SignIn
from gateway.config.oidc import OidcSettings
from tests.desk import AdminApi, open_admin_api, problem
from tests.real.issuer import CLIENT, TestIssuer

HOME = "https://weir.example.com"
WRITE = {"x-weir-csrf": "1"}


class Scene(NamedTuple):
    api: AdminApi
    issuer: TestIssuer
    browser: TestClient


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with open_admin_api(tmp_path) as api:
        issuer, transport = TestIssuer(lambda: api.clock.now_us() // 1_000_000), HttpxTransport()
        settings = OidcSettings(issuer=issuer.url, client_id=CLIENT, client_secret="s3cret", roles={"admins": "admin", "staff": "viewer"}, public_url=HOME)
        api.services.sign_in = SignIn(settings, transport, api.clock, api.hasher)
        api.app.include_router(auth.router)
        with TestClient(api.app, base_url=HOME, follow_redirects=False) as browser:
            yield Scene(api, issuer, browser)
            assert browser.portal is not None
            browser.portal.call(transport.aclose)
        issuer.close()


def leave(scene: Scene, next_path: str = "/docs") -> dict[str, str]:
    """Begin to sign in, and return what the provider is asked."""
    answer = scene.browser.get("/auth/login", params={"next": next_path})
    assert answer.status_code == 302, answer.text
    target = urlsplit(answer.headers["location"])
    assert f"{target.scheme}://{target.netloc}{target.path}" == f"{scene.issuer.url}/authorize"
    return {name: values[0] for name, values in parse_qs(target.query).items()}


def agree(scene: Scene, asked: dict[str, str], code: str = "code-1", **claims: Any) -> dict[str, str]:
    """Be the provider: let somebody in, and return what their browser brings back."""
    scene.issuer.codes[code] = (asked["code_challenge"], {"nonce": asked["nonce"], "groups": ["admins"], **claims})
    return {"code": code, "state": asked["state"]}


def sign_in(scene: Scene, **claims: Any) -> Any:
    return scene.browser.get("/auth/callback", params=agree(scene, leave(scene), **claims))


def test_there_and_back_again(scene: Scene) -> None:
    asked = leave(scene)
    assert (asked["response_type"], asked["client_id"], asked["redirect_uri"], asked["scope"]) == ("code", CLIENT, f"{HOME}/auth/callback", "openid email")
    assert (asked["code_challenge_method"], len(asked["state"]), len(asked["nonce"])) == ("S256", 43, 43)
    back = scene.browser.get("/auth/callback", params=agree(scene, asked))
    assert (back.status_code, back.headers["location"]) == (302, "/docs")
    said = scene.browser.get("/admin/whoami").json()
    assert (said["actor"], said["roles"]) == ("oidc:ada@example.com", ["admin"])


def test_the_session_is_sealed_and_no_script_or_other_site_gets_it(scene: Scene) -> None:
    cookie = next(line for line in sign_in(scene).headers.get_list("set-cookie") if line.startswith("__Host-weir="))
    assert {"HttpOnly", "Secure", "SameSite=lax", "Path=/", "Max-Age=28800"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    value = scene.browser.cookies["__Host-weir"]
    assert value.count(".") == 4
    for place in (10, len(value) // 2, len(value) - 3):
        changed = value[:place] + ("A" if value[place] != "A" else "B") + value[place + 1 :]
        problem(scene.browser.get("/admin/whoami", headers={"cookie": f"__Host-weir={changed}"}), 401, "unauthorized")
    problem(scene.api.http.get("/admin/whoami", headers={"authorization": f"Bearer {value}"}), 401, "unauthorized")


def test_a_session_ends_by_itself_and_by_signing_out(scene: Scene) -> None:
    sign_in(scene)
    assert scene.browser.post("/auth/logout", headers=WRITE).status_code == 204
    problem(scene.browser.get("/admin/whoami"), 401, "unauthorized")
    sign_in(scene)
    scene.api.clock.advance(28_799)
    assert scene.browser.get("/admin/whoami").status_code == 200
    scene.api.clock.advance(1)
    problem(scene.browser.get("/admin/whoami"), 401, "unauthorized")


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-weir-csrf": ""}, {**WRITE, "origin": "https://evil.example.com"}, {**WRITE, "origin": "null"}, {**WRITE, "sec-fetch-site": "cross-site"}],
)
def test_a_write_by_cookie_that_another_site_may_have_made_is_refused(scene: Scene, headers: dict[str, str]) -> None:
    sign_in(scene)
    for method, path in (("POST", "/admin/tenants"), ("DELETE", "/admin/grants/g"), ("PUT", "/admin/plans/p"), ("POST", "/auth/logout")):
        detail = problem(scene.browser.request(method, path, headers=headers, json={}), 403, "forbidden")["detail"]
        assert "x-weir-csrf" in detail
    own = scene.browser.post("/admin/tenants", headers={**WRITE, "origin": HOME, "sec-fetch-site": "same-origin"}, json={})
    problem(own, 422, "invalid")


def test_the_role_of_a_session_is_the_settings_of_now(scene: Scene) -> None:
    sign_in(scene, groups=["staff", "others"])
    assert scene.browser.get("/admin/whoami").json()["roles"] == ["viewer"]
    problem(scene.browser.post("/admin/tenants", headers=WRITE, json={}), 403, "forbidden")
    settings = scene.api.services.sign_in.settings.model_copy(update={"roles": {"others": "owner"}})
    scene.api.services.sign_in = SignIn(settings, HttpxTransport(), scene.api.clock, scene.api.hasher)
    problem(scene.browser.get("/admin/whoami"), 403, "forbidden")


@pytest.mark.parametrize("state", ["", "x", "é", None])
def test_a_state_that_this_browser_did_not_bring_along_is_refused(scene: Scene, state: str | None) -> None:
    brought = agree(scene, leave(scene))
    if state is None:
        scene.browser.cookies.clear()  # the callback of somebody else's sign-in, sent to a victim
    else:
        brought["state"] = state
    assert "Begin again" in problem(scene.browser.get("/auth/callback", params=brought), 400, "refused")["detail"]
    assert "__Host-weir" not in scene.browser.cookies


def test_a_code_is_good_once(scene: Scene) -> None:
    asked = leave(scene)
    kept = scene.browser.cookies["__Host-weir-signing-in"]
    brought = agree(scene, asked)
    assert scene.browser.get("/auth/callback", params=brought).status_code == 302
    problem(scene.browser.get("/auth/callback", params=brought), 400, "refused")
    again = scene.browser.get("/auth/callback", params=brought, headers={"cookie": f"__Host-weir-signing-in={kept}"})
    assert "redeem" in problem(again, 401, "unauthorized")["detail"]


def test_a_code_of_another_sign_in_is_refused_by_its_challenge(scene: Scene) -> None:
    stolen = agree(scene, leave(scene), code="theirs")
    mine = leave(scene)
    answer = scene.browser.get("/auth/callback", params={"code": stolen["code"], "state": mine["state"]})
    assert "redeem" in problem(answer, 401, "unauthorized")["detail"]


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"nonce": "another"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"aud": "shop"}, "aud"),
        ({"iss": "https://other.example.com"}, "iss"),
        ({"exp": 1}, "expired"),
    ],
)
def test_an_identity_token_that_is_not_of_this_sign_in_is_refused(scene: Scene, claims: dict[str, Any], why: str) -> None:
    assert why in problem(sign_in(scene, **claims), 401, "unauthorized")["detail"]
    assert "__Host-weir" not in scene.browser.cookies


def test_whoever_has_no_role_gets_no_session(scene: Scene) -> None:
    assert "no value of your `groups`" in problem(sign_in(scene, groups=["guests"]), 403, "forbidden")["detail"]
    assert "__Host-weir" not in scene.browser.cookies


@pytest.mark.parametrize(("error", "said"), [("access_denied", ": access_denied"), ("<script>alert(1)</script>", "let you in.")])
def test_a_refusal_of_the_provider_is_told_in_words(scene: Scene, error: str, said: str) -> None:
    asked = leave(scene)
    answer = scene.browser.get("/auth/callback", params={"error": error, "state": asked["state"]})
    assert said in problem(answer, 403, "forbidden")["detail"]
    assert "script" not in answer.text


def test_another_provider_in_the_middle_is_noticed(scene: Scene) -> None:
    brought = agree(scene, leave(scene)) | {"iss": "https://evil.example.com"}
    assert "iss" in problem(scene.browser.get("/auth/callback", params=brought), 400, "refused")["detail"]


@pytest.mark.parametrize("path", ["https://evil.example.com", "//evil.example.com", "/\\evil.example.com", "\\\\evil", "/a\r\nx: y", "javascript:alert(1)", ""])
def test_nobody_is_sent_to_another_site_afterwards(scene: Scene, path: str) -> None:
    back = scene.browser.get("/auth/callback", params=agree(scene, leave(scene, path)))
    assert (back.status_code, back.headers["location"]) == (302, "/")


def test_the_cookie_of_the_way_is_no_session(scene: Scene) -> None:
    leave(scene)
    kept = scene.browser.cookies["__Host-weir-signing-in"]
    problem(scene.browser.get("/admin/whoami", headers={"cookie": f"__Host-weir={kept}"}), 401, "unauthorized")
    sign_in(scene)
    session = scene.browser.cookies["__Host-weir"]
    answer = scene.browser.get("/auth/callback", params={"code": "x", "state": ""}, headers={"cookie": f"__Host-weir-signing-in={session}"})
    problem(answer, 400, "refused")


def test_the_minutes_at_the_provider_are_counted(scene: Scene) -> None:
    asked = leave(scene)
    scene.api.clock.advance(600)
    problem(scene.browser.get("/auth/callback", params=agree(scene, asked)), 400, "refused")


def test_while_the_provider_is_away_nobody_signs_in_and_sessions_go_on(scene: Scene) -> None:
    sign_in(scene)
    scene.issuer.down = True
    scene.api.clock.advance(1000)
    assert scene.browser.get("/admin/whoami").status_code == 200
    answer = scene.browser.get("/auth/callback", params=agree(scene, leave(scene)))
    problem(answer, 503, "service_unavailable")


@pytest.mark.parametrize(("method", "path"), [("GET", "/auth/login"), ("GET", "/auth/callback"), ("POST", "/auth/logout")])
def test_404_where_browsers_cannot_sign_in(scene: Scene, method: str, path: str) -> None:
    settings = scene.api.services.sign_in.settings.model_copy(update={"public_url": None})
    for sign_in_ in (None, SignIn(settings, HttpxTransport(), scene.api.clock, scene.api.hasher)):
        scene.api.services.sign_in = sign_in_
        problem(scene.browser.request(method, path), 404, "not_found")
