"""Whether a signed token of the identity provider is to be believed. Pure: its keys and the time come from the caller.

The token says which key and algorithm it was signed with, and is believed in neither: a key is one of the provider's own set, only algorithms with a public
key are known, and each goes with one type of key, so that a public key is never taken for a shared secret. Addresses and keys inside a token's head are
never looked at. Then it must be the provider's, for us, issued to us, and of now.
"""

import math
from collections.abc import Iterable
from typing import Any

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import CompactSignature, JWSRegistry, extract_compact, validate_compact

TOKEN_CHARS_MAX = 16_384
HEAD_BYTES_MAX = 2048
KEYS_MAX = 100
RSA_BITS_MIN = 2048
TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})  # of a token that opens something; others are for logging out, refreshing and so on
SUBJECT_CHARS_MAX = 255
_FAMILY = {"RS256": "RSA", "ES256": "EC", "EdDSA": "OKP", "Ed25519": "OKP"}
_CURVES = {"EC": "P-256", "OKP": "Ed25519"}
_PUBLIC = ("kty", "n", "e", "crv", "x", "y")

Claims = dict[str, Any]


class BadToken(Exception):
    """A token is not to be believed; the text says why, and holds nothing of it."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What a token must say: who issued it, to which client, for which audience; by which algorithms; how far clocks may be apart."""

    issuer: str
    client_id: str
    audience: str
    algorithms: frozenset[str]
    leeway_s: int


class PublicKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key of the provider's set. `family` is its type: RSA, EC or OKP; `alg` the one algorithm it is for, None: any of its family."""

    kid: str | None
    family: str
    alg: str | None
    key: RSAKey | ECKey | OKPKey

    def fits(self, alg: str) -> bool:
        """Tell whether a signature by an algorithm can be this key's."""
        return _FAMILY.get(alg) == self.family and self.alg in (None, alg)


class Unverified(msgspec.Struct, frozen=True, kw_only=True):
    """A token that has been taken apart, and of which nothing is believed yet."""

    alg: str
    kid: str | None
    signed: CompactSignature


class _Registry(JWSRegistry):
    """The algorithms that the settings allow, without joserfc's advice to call EdDSA Ed25519, which is for the provider to follow."""

    max_header_length = HEAD_BYTES_MAX
    max_payload_length = TOKEN_CHARS_MAX

    def get_alg(self, name: str) -> Any:
        if name not in (self.allowed or ()):
            raise JoseError
        return self.algorithms[name]


def take_apart(token: str, rules: Rules) -> Unverified:
    """Read a token's head. Raises `BadToken` for what is no signed token, of an algorithm that is not allowed, or of another type."""
    if len(token) > TOKEN_CHARS_MAX:
        raise BadToken("it is too large")
    if not token.isascii() or token.count(".") != 2:
        raise BadToken("it is no signed token")
    try:
        signed = extract_compact(token.encode(), registry=_registry(rules))
        head = signed.headers()
    except (JoseError, ValueError, TypeError, RecursionError):
        raise BadToken("it is no signed token") from None
    alg, kid, kind = head.get("alg"), head.get("kid"), head.get("typ", "JWT")
    if not isinstance(alg, str) or alg not in rules.algorithms or alg not in _FAMILY:
        raise BadToken(f"it is not signed by an algorithm that is allowed ({', '.join(sorted(rules.algorithms))})")
    if "crit" in head or "b64" in head:
        raise BadToken("its head asks for what is not understood here")
    if not isinstance(kind, str) or kind.lower() not in TYPES:
        raise BadToken("it is not of a type that opens anything (typ)")
    if kid is not None and not isinstance(kid, str):
        raise BadToken("its key has no name (kid)")
    return Unverified(alg=alg, kid=kid, signed=signed)


def choose(keys: Iterable[PublicKey], token: Unverified) -> PublicKey | None:
    """Return the key that a token names, or the only one that it can be signed with where it names none; None: there is no such key."""
    fitting = [key for key in keys if key.fits(token.alg)]
    if token.kid is None:
        return fitting[0] if len(fitting) == 1 else None
    return next((key for key in fitting if key.kid == token.kid), None)


def believe(token: Unverified, key: PublicKey, rules: Rules, now_s: int) -> Claims:
    """Return what a token says, once its signature and everything else holds. Raises `BadToken`."""
    try:
        if not key.fits(token.alg) or not validate_compact(token.signed, key.key, registry=_registry(rules)):
            raise BadToken("its signature is wrong")
        claims = msgspec.json.decode(token.signed.payload)
    except (JoseError, ValueError, TypeError, RecursionError):
        raise BadToken("its signature is wrong") from None
    if not isinstance(claims, dict):
        raise BadToken("it says nothing")
    _check_parties(claims, rules)
    _check_times(claims, rules.leeway_s, now_s)
    return claims


def read_keys(document: object) -> tuple[PublicKey, ...]:
    """Return the usable keys of a provider's set (JWKS): public, for signatures, of types and sizes that we know. Others are passed over."""
    listed = document.get("keys") if isinstance(document, dict) else None
    found = [_read_key(one) for one in listed[:KEYS_MAX]] if isinstance(listed, list) else []
    return tuple(key for key in found if key is not None)


def _read_key(given: object) -> PublicKey | None:
    if not isinstance(given, dict) or given.get("use", "sig") != "sig" or "verify" not in given.get("key_ops", ["verify"]):
        return None
    public = {name: given[name] for name in _PUBLIC if isinstance(given.get(name), str)}
    family, alg, kid = public.get("kty"), given.get("alg"), given.get("kid")
    if (alg is not None and _FAMILY.get(str(alg)) != family) or public.get("crv") != _CURVES.get(str(family)) or not isinstance(kid, str | None):
        return None
    try:
        if family == "RSA" and len(public["n"]) * 6 >= RSA_BITS_MIN:
            return PublicKey(kid=kid, family=family, alg=alg, key=RSAKey.import_key(public))
        if family == "EC":
            return PublicKey(kid=kid, family=family, alg=alg, key=ECKey.import_key(public))
        if family == "OKP":
            return PublicKey(kid=kid, family=family, alg=alg, key=OKPKey.import_key(public))
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return None


def _check_parties(claims: Claims, rules: Rules) -> None:
    if claims.get("iss") != rules.issuer:
        raise BadToken("it is of another issuer (iss)")
    said = claims.get("aud")
    audiences = said if isinstance(said, list) else [said]
    if rules.audience not in audiences:
        raise BadToken(f"it is not for `{rules.audience}` (aud)")
    client = claims.get("azp")
    if (client is not None and client != rules.client_id) or (client is None and len(audiences) > 1):
        raise BadToken(f"it was not issued to `{rules.client_id}` (azp)")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 1 <= len(subject) <= SUBJECT_CHARS_MAX or not subject.isprintable():
        raise BadToken("it is nobody's (sub)")


def _check_times(claims: Claims, leeway_s: int, now_s: int) -> None:
    ends = _instant(claims.get("exp"))
    if ends is None:
        raise BadToken("it does not say when it ends (exp)")
    if now_s >= ends + leeway_s:
        raise BadToken("it has expired (exp)")
    for name in ("nbf", "iat"):
        begins = _instant(claims.get(name, 0))
        if begins is None or begins > now_s + leeway_s:
            raise BadToken(f"it is not valid yet ({name})")


def _instant(value: object) -> int | float | None:
    """Return a number of seconds; None for what is none, and for what would never end."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _registry(rules: Rules) -> JWSRegistry:
    return _Registry(algorithms=rules.algorithms, strict_check_header=False)
