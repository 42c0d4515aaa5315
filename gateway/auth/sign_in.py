"""Signing in with the identity provider: a token of it, or a browser that goes there and comes back with a session.

What somebody is here is decided in one place, `identity_of`, from the claims of the token and the settings; a session keeps just those claims, so that a
change of the settings is in force at once. A browser sends its cookie by itself, whoever asks it to: what writes must also carry the header
`x-weir-csrf`, which no other site can add, and come from our own pages where the browser says from where.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from fastapi import HTTPException, Request

from backends.transport.seam import Transport
from billing.tenants.keys import KeyHasher
from gateway.auth.cookies import Seals
from gateway.auth.identity import CHALLENGE, Identity
from gateway.auth.issuer import Issuer
from gateway.auth.roles import READING
from gateway.auth.tokens import BadToken, Claims
from gateway.clock import Clock
from gateway.config.oidc import OidcSettings

LEFT_S = 600  # how long somebody may stay at the provider
NEXT_CHARS_MAX = 1000
CSRF_HEADER = "x-weir-csrf"
_LOCAL = re.compile(r"/(?![/\\])[!-\[\]-~]*")  # a path of ours: no other host, no backslash, nothing invisible


class Departure(NamedTuple):
    """Where to send a browser, and the cookie that it brings back."""

    url: str
    cookie: str


class Arrival(NamedTuple):
    """A browser that came back: its session cookie, and where it wanted to go."""

    cookie: str
    path: str


class SignIn:
    """Signing in with one provider. `public` is None where browsers cannot: nobody said how they reach us."""

    def __init__(self, settings: OidcSettings, transport: Transport, clock: Clock, hasher: KeyHasher) -> None:
        self.settings = settings
        self.public = None if settings.public_url is None else settings.public_url.rstrip("/")
        self.secure = self.public is not None and self.public.startswith("https:")
        self.session_name = "__Host-weir" if self.secure else "weir"
        self.departure_name = "__Host-weir-signing-in" if self.secure else "weir-signing-in"
        self._issuer = Issuer(settings, transport, clock)
        self._clock = clock
        self._seals = Seals(hasher)

    async def by_token(self, token: str) -> Identity:
        """Return who a bearer's token says. Raises 401 for one that is not to be believed, and `Unavailable`."""
        try:
            return self.identity_of(await self._issuer.believe(token))
        except BadToken as error:
            raise HTTPException(401, f"This token is not accepted: {error}.", CHALLENGE) from None

    def by_cookie(self, request: Request) -> Identity | None:
        """Return who a browser's session says; None without one. Raises 403 for a write that another site may have made the browser send."""
        claims = self._session(request.cookies)
        if claims is None:
            return None
        self.refuse_foreign(request)
        return self.identity_of(claims, by_cookie=True)

    def refuse_foreign(self, request: Request) -> None:
        """Raise 403 for a write by cookie that does not show that a page of ours made it."""
        if request.method in READING:
            return
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
        if not request.headers.get(CSRF_HEADER) or (origin is not None and origin != self._origin()) or site != "same-origin":
            raise HTTPException(403, f"A session writes with the header {CSRF_HEADER}: 1, from this gateway's own pages.")

    def identity_of(self, claims: Claims, *, by_cookie: bool = False) -> Identity:
        """Return who somebody is here, by what a token that is believed says of them. Of several tenants none is taken."""
        settings = self.settings
        held = _values(claims, settings.role_claim)
        tenants = set() if settings.tenant_claim is None else _values(claims, settings.tenant_claim)
        if settings.tenants is not None:
            tenants = {settings.tenants[value] for value in tenants if value in settings.tenants}
        email = claims.get("email") if claims.get("email_verified") is True else None
        known = isinstance(email, str) and 3 <= len(email) <= 254 and email.isprintable()
        return Identity(
            actor=f"oidc:{email if known else claims['sub']}",
            kind="oidc",
            roles=frozenset(role for value, role in settings.roles.items() if value in held),
            tenant_id=tenants.pop() if len(tenants) == 1 else None,
            tenant_roles=frozenset(role for value, role in settings.tenant_roles.items() if value in held),
            by_cookie=by_cookie,
        )

    async def depart(self, path: str) -> Departure:
        """Begin to sign a browser in, which wants to go to a path of ours afterwards. Raises `Unavailable`."""
        addresses = await self._issuer.addresses()
        if addresses.authorize is None:
            raise HTTPException(503, "The identity provider has no page to sign in at (authorization_endpoint).")
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        wanted = path if len(path) <= NEXT_CHARS_MAX and _LOCAL.fullmatch(path) else "/"
        cookie = self._seals.seal("departure", {"state": state, "nonce": nonce, "verifier": verifier, "path": wanted}, self._now_s() + LEFT_S)
        asked = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": self._callback(),
            "scope": " ".join(self.settings.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": _challenge(verifier),
            "code_challenge_method": "S256",
        }
        return Departure(f"{addresses.authorize}{'&' if urlsplit(addresses.authorize).query else '?'}{urlencode(asked)}", cookie)

    async def arrive(self, request: Request) -> Arrival:
        """Take a browser in that comes back from the provider. Raises 400, 401 and 403 with what is wrong, and `Unavailable`."""
        left = self._seals.open("departure", request.cookies.get(self.departure_name, ""), self._now_s())
        given = request.query_params
        if left is None or not secrets.compare_digest(given.get("state", "").encode(), left["state"].encode()):
            raise HTTPException(400, "This is not the end of a sign-in that this browser began here. Begin again at /auth/login.")
        if given.get("iss", self.settings.issuer) != self.settings.issuer:
            raise HTTPException(400, "Another provider answered (iss). Begin again at /auth/login.")
        if "code" not in given:
            why = given.get("error", "")
            raise HTTPException(403, f"The identity provider did not let you in{f': {why}' if re.fullmatch('[a-z_]{1,64}', why) else ''}.")
        try:
            token = await self._issuer.redeem(given["code"], left["verifier"], self._callback())
            claims = await self._issuer.believe(token, audience=self.settings.client_id)
            if not secrets.compare_digest(str(claims.get("nonce")).encode(), left["nonce"].encode()):
                raise BadToken("it belongs to another sign-in (nonce)")
        except BadToken as error:
            raise HTTPException(401, f"The sign-in is not accepted: {error}.", CHALLENGE) from None
        identity = self.identity_of(claims)
        if not identity.roles and not (identity.tenant_roles and identity.tenant_id):
            raise HTTPException(403, self.no_role(identity))
        return Arrival(self._seals.seal("session", self._kept(claims), self._now_s() + self.settings.session_s), left["path"])

    def no_role(self, identity: Identity) -> str:
        """Say to somebody who has shown who they are that they are nobody here, and what changes that."""
        who, claim = identity.actor.removeprefix("oidc:"), self.settings.role_claim
        return f"You are signed in as {who}, but no value of your `{claim}` gives a role here. The settings under `oidc` map them."

    def _kept(self, claims: Claims) -> Claims:
        """Return what a session keeps of a token: of its groups, those that the settings map."""
        settings = self.settings
        kept: Claims = {name: claims[name] for name in ("iss", "sub", "email", "email_verified") if name in claims}
        mapped = {**settings.roles, **settings.tenant_roles}
        kept["held"] = sorted(_values(claims, settings.role_claim) & mapped.keys())
        if settings.tenant_claim is not None:
            tenants = _values(claims, settings.tenant_claim)
            kept["tenants"] = sorted(tenants if settings.tenants is None else tenants & settings.tenants.keys())[:2]  # of several none is taken
        return kept

    def _session(self, cookies: Mapping[str, str]) -> Claims | None:
        kept = self._seals.open("session", cookies.get(self.session_name, ""), self._now_s())
        if kept is None or kept["iss"] != self.settings.issuer:
            return None
        tenant_claim = {} if self.settings.tenant_claim is None else {self.settings.tenant_claim: kept.get("tenants", [])}
        return {**kept, self.settings.role_claim: kept["held"], **tenant_claim}

    def _callback(self) -> str:
        return f"{self.public}/auth/callback"

    def _origin(self) -> str:
        parts = urlsplit(self.public or "")
        return f"{parts.scheme}://{parts.netloc}"

    def _now_s(self) -> int:
        return self._clock.now_us() // 1_000_000


def _values(claims: Claims, name: str) -> set[str]:
    """Return the texts of a claim: one, or a list; `a.b` is b inside a, unless a claim is called so."""
    found: Any = claims.get(name)
    if found is None:
        found = claims
        for part in name.split("."):
            found = found.get(part) if isinstance(found, dict) else None
    listed = found if isinstance(found, list) else [found]
    return {value for value in listed if isinstance(value, str)}


def _challenge(verifier: str) -> str:
    """Return what PKCE (RFC 7636, S256) shows of a verifier beforehand."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
