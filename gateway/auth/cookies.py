"""What a browser keeps for us: sealed, so that it can neither be read nor made elsewhere, and only good for its purpose and its time. Pure.

Two cookies: for the minutes at the provider (state, nonce, verifier), and for the session. The key comes from the pepper: whoever has the database alone
can make none. A session is nowhere stored; it ends by itself.
"""

from typing import Any

import msgspec
from joserfc.errors import JoseError
from joserfc.jwe import JWERegistry, decrypt_compact, encrypt_compact
from joserfc.jwk import OctKey

from billing.tenants.keys import KeyHasher

COOKIE_CHARS_MAX = 3800  # browsers keep 4096 bytes with the name and what else is said
_HEAD = {"alg": "dir", "enc": "A256GCM"}
_ALGORITHMS = ["dir", "A256GCM"]


class Seals:
    """Seals and opens what browsers keep."""

    def __init__(self, hasher: KeyHasher) -> None:
        self._key = OctKey.import_key(hasher.digest("seal of cookies"))  # no key's secret reads like this

    def seal(self, purpose: str, said: dict[str, Any], until_s: int) -> str:
        """Return a cookie's value. Raises `ValueError` when it is too long for a browser."""
        sealed = encrypt_compact(_HEAD, msgspec.json.encode([purpose, until_s, said]), self._key, registry=JWERegistry(algorithms=_ALGORITHMS))
        if len(sealed) > COOKIE_CHARS_MAX:
            raise ValueError("too much for a cookie")
        return sealed

    def open(self, purpose: str, sealed: str, now_s: int) -> dict[str, Any] | None:
        """Return what was sealed for a purpose; None for what we did not seal, or for another purpose, or what is over."""
        if len(sealed) > COOKIE_CHARS_MAX or sealed.count(".") != 4:
            return None
        try:
            opened = decrypt_compact(sealed, self._key, registry=JWERegistry(algorithms=_ALGORITHMS))
            sealed_for, until_s, said = msgspec.json.decode(opened.plaintext or b"", type=tuple[str, int, dict[str, Any]])
        except (JoseError, ValueError, TypeError, RecursionError):
            return None
        return said if sealed_for == purpose and now_s < until_s else None
