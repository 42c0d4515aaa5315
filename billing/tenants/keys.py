"""Key secrets and their digests: a secret is shown once, when it is made; the database holds only what the pepper makes of it."""

import secrets
from hashlib import blake2b

from billing.errors import Invalid

PREFIXES = {"tenant": "sk-weir-", "admin": "sk-weir-admin-", "staff": "sk-weir-staff-"}
HINT_CHARS = 4


class KeyHasher:
    """Turns a secret into the 32 bytes it is looked up by. The pepper (16 to 64 bytes) stays outside the database."""

    def __init__(self, pepper: bytes) -> None:
        if not 16 <= len(pepper) <= 64:
            raise Invalid("pepper", f"pepper: {len(pepper)} bytes; it takes 16 to 64")
        self._keyed = blake2b(key=pepper, digest_size=32)

    def digest(self, secret: str) -> bytes:
        """Return blake2b(secret, key=pepper), 32 bytes. Any text is accepted: an unknown one is simply not found."""
        state = self._keyed.copy()
        state.update(secret.encode("utf-8", "surrogatepass"))
        return state.digest()


def new_secret(kind: str) -> str:
    """Make a key's secret: its prefix and 256 random bits as 43 URL-safe characters."""
    return PREFIXES[kind] + secrets.token_urlsafe(32)


def hint_of(secret: str) -> str:
    """Return what may be shown of a secret afterwards: its last characters."""
    return secret[-HINT_CHARS:]
