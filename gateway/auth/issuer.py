"""The identity provider as we know it: its addresses and its keys, read over the network now and then, and kept.

Keys are read anew when they are ten minutes old, beside the requests, and at once when a token names one that is not there, but never more often than every
ten seconds, whatever tokens come. While the provider is away the keys that were read stay in force for a day.
"""

import asyncio
import base64
import logging
from collections.abc import Mapping
from urllib.parse import quote_plus, urlencode, urlsplit

import msgspec

from backends.errors import BackendError
from backends.transport.seam import Exchange, Origin, Timeouts, Transport
from gateway.auth.tokens import BadToken, Claims, PublicKey, Rules, Unverified, believe, choose, read_keys, take_apart
from gateway.clock import Clock
from gateway.config.oidc import OidcSettings, is_loopback
from gateway.errors import Unavailable

FRESH_S = 600.0
KEPT_S = 86_400.0
AGAIN_S = 10.0
WAIT_S = 5.0
ANSWER_BYTES_MAX = 2**20

log = logging.getLogger("weir.sign_in")


class Away(Exception):
    """The provider did not answer, or not as a provider does."""


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    """Where a provider's parts are, by its discovery document."""

    jwks: str
    authorize: str | None
    token: str | None
    secret_in_body: bool


class Issuer:
    """One provider."""

    def __init__(self, settings: OidcSettings, transport: Transport, clock: Clock) -> None:
        self.rules = Rules(
            issuer=settings.issuer,
            client_id=settings.client_id,
            audience=settings.audience or settings.client_id,
            algorithms=frozenset(settings.algorithms),
            leeway_s=settings.leeway_s,
        )
        self._secret = settings.client_secret
        self._transport = transport
        self._clock = clock
        self._addresses: Addresses | None = None
        self._keys: tuple[PublicKey, ...] = ()
        self._read_s: float | None = None
        self._tried_s: float | None = None
        self._reading: asyncio.Task[None] | None = None

    async def believe(self, token: str, *, audience: str | None = None) -> Claims:
        """Return what a token says. `audience`: for whom it must be, if not for us as the settings say. Raises `BadToken`, and `Unavailable` without keys."""
        rules = self.rules if audience is None else msgspec.structs.replace(self.rules, audience=audience)
        unverified = take_apart(token, rules)
        return believe(unverified, await self._key(unverified), rules, self._clock.now_us() // 1_000_000)

    async def addresses(self) -> Addresses:
        """Return where the provider's parts are. Raises `Unavailable`."""
        await self._ready()
        assert self._addresses is not None, "keys were read at the address that it holds"
        return self._addresses

    async def redeem(self, code: str, verifier: str, redirect_uri: str) -> str:
        """Turn the code that a browser brought back into an identity token. Raises `BadToken` where the provider refuses it, and `Unavailable`."""
        addresses = await self.addresses()
        if addresses.token is None:
            raise Unavailable("The identity provider has no token endpoint.", retry_after_s=60)
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri, "client_id": self.rules.client_id, "code_verifier": verifier}
        headers: tuple[tuple[str, str], ...] = ()
        if self._secret is not None and addresses.secret_in_body:
            form["client_secret"] = self._secret.get_secret_value()
        elif self._secret is not None:
            pair = f"{quote_plus(self.rules.client_id)}:{quote_plus(self._secret.get_secret_value())}"
            headers = (("authorization", f"Basic {base64.b64encode(pair.encode()).decode()}"),)
        try:
            status, answer = await self._ask(addresses.token, form=form, headers=headers)
            if status >= 500:
                raise Away(f"{addresses.token}: status {status}")
        except Away as error:
            raise Unavailable("The identity provider cannot be reached now. Try again in a moment.", internal=str(error), retry_after_s=AGAIN_S) from error
        token = answer.get("id_token")
        if status != 200 or not isinstance(token, str):
            log.info("the provider redeemed no code: status %d", status)
            raise BadToken("the provider does not redeem its code: it has been used, or is too old")
        return token

    async def _key(self, token: Unverified) -> PublicKey:
        await self._ready()
        found = choose(self._keys, token)
        if found is None and (self._reading is not None or self._may_try()):
            try:
                await self._read()
            except Away as error:
                log.warning("keys of the identity provider cannot be read: %s", error)
            found = choose(self._keys, token)
        if found is None:
            raise BadToken("it is signed with a key that is not the provider's (kid)")
        return found

    async def _ready(self) -> None:
        """See to it that there are keys to go by. Raises `Unavailable`."""
        age_s = None if self._read_s is None else self._clock.monotonic_s() - self._read_s
        if age_s is not None and age_s < KEPT_S:
            if age_s >= FRESH_S and self._may_try():
                self._begin().add_done_callback(_said)
            return
        try:
            if self._reading is None and not self._may_try():
                raise Away("it could not be reached a moment ago")
            await self._read()
        except Away as error:
            log.warning("the identity provider cannot be read: %s", error)
            raise Unavailable("The identity provider cannot be reached now. Try again in a moment.", internal=str(error), retry_after_s=AGAIN_S) from error

    def _may_try(self) -> bool:
        return self._tried_s is None or self._clock.monotonic_s() - self._tried_s >= AGAIN_S

    async def _read(self) -> None:
        await asyncio.shield(self._begin())

    def _begin(self) -> asyncio.Task[None]:
        """Return the reading of addresses and keys, begun or joined."""
        if self._reading is None:
            self._tried_s = self._clock.monotonic_s()
            self._reading = asyncio.create_task(self._load())
            self._reading.add_done_callback(self._ended)
        return self._reading

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._reading = None
        if not task.cancelled():
            task.exception()  # taken note of here, since nobody may be waiting any more

    async def _load(self) -> None:
        status, found = await self._ask(self.rules.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if status != 200 or found.get("issuer") != self.rules.issuer:
            raise Away(f"{self.rules.issuer}: its discovery document (status {status}) is not one of that issuer")
        methods = found.get("token_endpoint_auth_methods_supported")
        addresses = Addresses(
            jwks=self._address(found, "jwks_uri") or "",
            authorize=self._address(found, "authorization_endpoint"),
            token=self._address(found, "token_endpoint"),
            secret_in_body=isinstance(methods, list) and "client_secret_basic" not in methods and "client_secret_post" in methods,
        )
        status, document = await self._ask(addresses.jwks)
        keys = read_keys(document)
        if status != 200 or not keys:
            raise Away(f"{addresses.jwks}: status {status}, {len(keys)} keys that could be used")
        self._addresses, self._keys, self._read_s = addresses, keys, self._clock.monotonic_s()

    def _address(self, found: Claims, name: str) -> str | None:
        """Return an address of the discovery document. Raises `Away` for one where somebody on the way could answer in its place."""
        url = found.get(name)
        if url is None and name != "jwks_uri":
            return None
        try:
            parts = urlsplit(url if isinstance(url, str) else "")
            safe = parts.scheme == "https" or (parts.scheme == "http" and self.rules.issuer.startswith("http:") and is_loopback(parts.hostname or ""))
        except ValueError:
            safe = False
        if not safe:
            raise Away(f"{self.rules.issuer}: `{name}` of its discovery document is no https address")
        return str(url)

    async def _ask(self, url: str, *, form: Mapping[str, str] | None = None, headers: tuple[tuple[str, str], ...] = ()) -> tuple[int, Claims]:
        """Get a JSON object, or post a form for one; redirects are not followed. Raises `Away`."""
        parts = urlsplit(url)
        sent = () if form is None else (("content-type", "application/x-www-form-urlencoded"),)
        exchange = Exchange(
            method="GET" if form is None else "POST",
            origin=Origin(parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)),
            path=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
            own_headers=(("accept", "application/json"), ("accept-encoding", "identity"), ("user-agent", "weir"), *sent, *headers),
            body=() if form is None else (urlencode(form).encode(),),
            timeouts=Timeouts(connect_s=WAIT_S, first_byte_s=WAIT_S, idle_s=WAIT_S, total_s=WAIT_S),
        )
        try:
            answer = await self._transport.open(exchange)
            body = await answer.whole(ANSWER_BYTES_MAX)
            found = msgspec.json.decode(body or b"")
        except (BackendError, ValueError) as error:
            raise Away(f"{parts.scheme}://{parts.netloc}: {str(error) or type(error).__name__}") from None
        if not isinstance(found, dict):
            raise Away(f"{parts.scheme}://{parts.netloc}: its answer is no JSON object")
        return answer.status, found


def _said(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("the identity provider cannot be read; its keys stay in force for a day: %s", error)
