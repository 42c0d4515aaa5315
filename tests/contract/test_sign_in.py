"""Tokens of an OpenID provider open what their role may, and nothing that is forged, old, or for somebody else opens anything."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from joserfc import jws

from backends.transport.over_httpx import HttpxTransport
from gateway.auth.sign_in import SignIn
from gateway.config.oidc import OidcSettings
from tests.desk import AdminApi, open_admin_api, problem
from tests.real.issuer import CLIENT, KEYS, STRANGER, TestIssuer, b64

ROLES = {"owners": "owner", "admins": "admin", "money": "finance", "staff": "viewer"}
Desk = tuple[AdminApi, TestIssuer]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_desk_with_issuer(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A desk for many tests that change nothing."""
    with open_desk_with_issuer(tmp_path_factory.mktemp("gate")) as opened:
        yield opened


@contextmanager
def open_desk_with_issuer(path: Path) -> Iterator[Desk]:
    with open_admin_api(path) as api:
        issuer = TestIssuer(lambda: api.clock.now_us() // 1_000_000)
        transport = HttpxTransport()
        settings = OidcSettings(issuer=issuer.url, client_id=CLIENT, roles=ROLES)
        api.services.sign_in = SignIn(settings, transport, api.clock, api.hasher)
        yield api, issuer
        assert api.http.portal is not None
        api.http.portal.call(transport.aclose)
        issuer.close()


def ask(api: AdminApi, token: str, method: str = "GET", path: str = "/admin/whoami", body: Any = None) -> Any:
    return api.http.request(method, path, headers={"Authorization": f"Bearer {token}"}, json=body)


@pytest.mark.parametrize("alg", list(KEYS))
def test_a_token_opens_with_the_role_that_its_group_gives(desk: Desk, alg: str) -> None:
    api, issuer = desk
    said = ask(api, issuer.token({"groups": ["others", "money"]}, alg=alg)).json()
    assert (said["actor"], said["kind"], said["roles"]) == ("oidc:ada@example.com", "oidc", ["finance"])
    token = issuer.token({"groups": "money"}, alg=alg)
    assert ask(api, token, path="/admin/tenants").status_code == 200
    problem(ask(api, token, "POST", "/admin/tenants", {}), 403, "forbidden")


def test_groups_add_up(desk: Desk) -> None:
    api, issuer = desk
    token = issuer.token({"groups": ["money", "admins"]})
    assert ask(api, token).json()["roles"] == ["admin", "finance"]
    problem(ask(api, token, "POST", "/admin/tenants", {}), 422, "invalid")


def test_an_email_that_nobody_has_verified_is_nobodys_name(desk: Desk) -> None:
    api, issuer = desk
    for verified in (False, None, "true"):
        assert ask(api, issuer.token({"groups": ["staff"], "email_verified": verified})).json()["actor"] == "oidc:u1"


def test_somebody_whose_groups_give_no_role_is_told_so(desk: Desk) -> None:
    api, issuer = desk
    for groups in ([], ["nobody"], None, "Owners", [["owners"]], {"owners": True}, 7):
        detail = problem(ask(api, issuer.token({"groups": groups})), 403, "forbidden")["detail"]
        assert detail == "You are signed in as ada@example.com, but no value of your `groups` gives a role here. The settings under `oidc` map them."


FORGED: dict[str, tuple[str, Callable[[TestIssuer], str]]] = {
    "another key under a known name": ("signature", lambda i: i.token({"groups": ["owners"]}, key=STRANGER)),
    "a name that is no key's": ("kid", lambda i: i.token(head={"kid": "kid-new"}, key=STRANGER)),
    "a name that is a path": ("kid", lambda i: i.token(head={"kid": "../../../../dev/null"}, key=STRANGER)),
    "a name that is SQL": ("kid", lambda i: i.token(head={"kid": "' OR 1=1 --"}, key=STRANGER)),
    "a name that is a number": ("kid", lambda i: i.unsigned({"alg": "RS256", "kid": 7}, signature="AAAA")),
    "its own key in the head": ("signature", lambda i: i.token(head={"jwk": STRANGER.as_dict(private=False)}, key=STRANGER)),
    "an address of keys in the head": ("kid", lambda i: i.token(head={"jku": f"{i.url}/theirs", "kid": "theirs"}, key=STRANGER)),
    "another algorithm's key": ("kid", lambda i: i.token(head={"kid": "kid-ES256"})),
    "alg none": ("algorithm", lambda i: i.unsigned({"alg": "none", "typ": "JWT"})),
    "alg None": ("algorithm", lambda i: i.unsigned({"alg": "NoNe", "kid": "kid-RS256"})),
    "no alg": ("no signed token", lambda i: i.unsigned({"kid": "kid-RS256"}, signature="AAAA")),
    "HS256 with the public key": ("algorithm", lambda i: i.signed_with_public_key()),
    "no signature": ("signature", lambda i: i.token({"groups": ["owners"]}).rpartition(".")[0] + "."),
    "a changed payload": ("signature", lambda i: swap(i.token(), 1, b64(json.dumps(i.claims(groups=["owners"]))))),
    "a changed head": ("signature", lambda i: swap(i.token(), 0, b64(json.dumps({"alg": "RS256", "kid": "kid-RS256"})))),
    "expired": ("expired", lambda i: i.token({"exp": i.now_s() - 31})),
    "no end": ("exp", lambda i: i.token({"exp": None})),
    "an end that is text": ("exp", lambda i: i.token({"exp": str(i.now_s() + 300)})),
    "an end that is true": ("exp", lambda i: i.token({"exp": True})),
    "not yet": ("nbf", lambda i: i.token({"nbf": i.now_s() + 31})),
    "from the future": ("iat", lambda i: i.token({"iat": i.now_s() + 31})),
    "another issuer": ("iss", lambda i: i.token({"iss": f"{i.url}/"})),
    "another audience": ("aud", lambda i: i.token({"aud": "shop"})),
    "an audience that begins like ours": ("aud", lambda i: i.token({"aud": ["weird", "wei"]})),
    "no audience": ("aud", lambda i: i.token({"aud": None})),
    "issued to another client": ("azp", lambda i: i.token({"azp": "shop"})),
    "several audiences and nobody's": ("azp", lambda i: i.token({"aud": [CLIENT, "shop"]})),
    "nobody": ("sub", lambda i: i.token({"sub": None})),
    "a name with a line in it": ("sub", lambda i: i.token({"sub": "a\nb"})),
    "for logging out": ("typ", lambda i: i.token(head={"typ": "logout+jwt"})),
    "what must be understood": ("understood", lambda i: i.unsigned({"alg": "RS256", "crit": ["x"], "x": 1, "kid": "kid-RS256"}, signature="AAAA")),
    "huge": ("too large", lambda i: i.token({"groups": ["x" * 100] * 200})),
    "an encrypted one": ("no signed token", lambda i: f"{b64('{}')}....{b64('x')}"),
    "three dots": ("no signed token", lambda i: "..."),
    "no JSON": ("no signed token", lambda i: f"{b64('nonsense')}.{b64('{}')}.AAAA"),
    "a list": ("no signed token", lambda i: f"{b64('[]')}.{b64('{}')}.AAAA"),
    "deep": ("no signed token", lambda i: f"{b64('[' * 1000)}.{b64('{}')}.AAAA"),
    "words": ("no signed token", lambda i: "correct-horse"),
}


def swap(token: str, place: int, part: str) -> str:
    parts = token.split(".")
    parts[place] = part
    return ".".join(parts)


@pytest.mark.parametrize("name", list(FORGED))
def test_a_token_that_is_not_to_be_believed_opens_nothing(gate: Desk, name: str) -> None:
    api, issuer = gate
    why, make = FORGED[name]
    answer = ask(api, make(issuer))
    detail = problem(answer, 401, "unauthorized")["detail"]
    assert why in detail, detail
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert ask(api, issuer.token({"groups": ["staff"]})).status_code == 200, "and a good one still does"


def test_an_end_beyond_all_numbers_is_no_end(desk: Desk) -> None:
    api, issuer = desk
    for never in ("1e999", "NaN", "Infinity"):
        payload = json.dumps(issuer.claims(groups=["owners"], exp="THEN")).replace('"THEN"', never)
        token = jws.serialize_compact({"alg": "RS256", "kid": "kid-RS256"}, payload, KEYS["RS256"], algorithms=["RS256"])
        problem(ask(api, token), 401, "unauthorized")


def test_clocks_may_differ_by_the_leeway(desk: Desk) -> None:
    api, issuer = desk
    for times in ({"exp": issuer.now_s() - 29}, {"nbf": issuer.now_s() + 29}, {"iat": issuer.now_s() + 29}):
        assert ask(api, issuer.token({"groups": ["staff"], **times})).status_code == 200


def test_a_token_without_a_key_name_is_believed_where_only_one_key_can_be_meant(desk: Desk) -> None:
    api, issuer = desk
    token = jws.serialize_compact({"alg": "RS256"}, json.dumps(issuer.claims(groups=["staff"])), KEYS["RS256"], algorithms=["RS256"])
    assert ask(api, token).status_code == 200
    issuer.keys["second"] = STRANGER
    api.clock.advance(700)
    ask(api, issuer.token(head={"kid": "unknown"}))
    token = jws.serialize_compact({"alg": "RS256"}, json.dumps(issuer.claims(groups=["staff"])), KEYS["RS256"], algorithms=["RS256"])
    problem(ask(api, token), 401, "unauthorized")


def test_keys_are_read_once_and_again_for_a_new_one_but_not_at_every_guess(desk: Desk) -> None:
    api, issuer = desk
    for _ in range(3):
        assert ask(api, issuer.token({"groups": ["staff"]})).status_code == 200
    assert issuer.asked["/keys"] == 1
    issuer.keys["kid-new"] = STRANGER
    new = {"groups": ["staff"]}
    problem(ask(api, issuer.token(new, head={"kid": "kid-new"}, key=STRANGER)), 401, "unauthorized")
    assert issuer.asked["/keys"] == 1, "it was read a moment ago"
    api.clock.advance(11)
    assert ask(api, issuer.token(new, head={"kid": "kid-new"}, key=STRANGER)).status_code == 200
    for number in range(20):
        ask(api, issuer.token(head={"kid": f"guess-{number}"}))
    assert issuer.asked["/keys"] == 2


def test_a_key_that_the_provider_took_away_opens_nothing_after_the_next_reading(desk: Desk) -> None:
    api, issuer = desk
    assert ask(api, issuer.token({"groups": ["staff"]})).status_code == 200
    del issuer.keys["kid-RS256"]
    api.clock.advance(11)
    ask(api, issuer.token(head={"kid": "look again"}))
    problem(ask(api, issuer.token({"groups": ["staff"]})), 401, "unauthorized")


def test_while_the_provider_is_away_its_keys_stay_in_force_for_a_day(desk: Desk) -> None:
    api, issuer = desk
    assert ask(api, issuer.token({"groups": ["staff"]})).status_code == 200
    issuer.down = True
    for _ in range(10):
        api.clock.advance(8000)
        assert ask(api, issuer.token({"groups": ["staff"]})).status_code == 200
    api.clock.advance(7000)
    refused = ask(api, issuer.token({"groups": ["staff"]}))
    problem(refused, 503, "service_unavailable")
    assert refused.headers["retry-after"] == "10"
    problem(ask(api, issuer.token({"groups": ["staff"]})), 503, "service_unavailable")  # the one before may have joined a reading that was under way
    asked = issuer.asked["/.well-known/openid-configuration"]
    problem(ask(api, issuer.token({"groups": ["staff"]})), 503, "service_unavailable")
    assert issuer.asked["/.well-known/openid-configuration"] == asked, "it is not asked at every request"
    issuer.down = False
    api.clock.advance(11)
    assert ask(api, issuer.token({"groups": ["staff"]})).status_code == 200
    assert api.http.get("/admin/whoami").status_code == 200, "keys of our own need no provider"


@pytest.mark.parametrize(
    "document", [{"issuer": "https://other.example.com"}, {"jwks_uri": "http://keys.example.com/"}, {"jwks_uri": "file:///etc/passwd"}, {"jwks_uri": 7}]
)
def test_a_discovery_document_that_leads_elsewhere_is_not_followed(desk: Desk, document: dict[str, Any]) -> None:
    api, issuer = desk
    issuer.discovery = document
    problem(ask(api, issuer.token({"groups": ["staff"]})), 503, "service_unavailable")


def test_without_a_provider_a_token_is_an_unknown_key(desk: Desk) -> None:
    api, issuer = desk
    api.services.sign_in = None
    assert "unknown" in problem(ask(api, issuer.token({"groups": ["owners"]})), 401, "unauthorized")["detail"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"issuer": "http://login.example.com"}, "https"),
        ({"issuer": "https://u:p@login.example.com"}, "without query"),
        ({"roles": {}}, "nobody would have a role"),
        ({"roles": {"x": "root"}}, "owner"),
        ({"algorithms": ["HS256"]}, "RS256"),
        ({"algorithms": ["none"]}, "RS256"),
        ({"algorithms": []}, "at least 1"),
        ({"tenant_roles": {"x": "manager"}}, "go together"),
        ({"tenant_claim": "org"}, "go together"),
        ({"leeway_s": 3600}, "300"),
        ({"public_url": "http://weir.example.com"}, "https"),
    ],
)
def test_settings_that_would_open_too_much_or_nothing_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        OidcSettings(**{"issuer": "https://login.example.com", "client_id": CLIENT, "roles": ROLES, **wrong})
