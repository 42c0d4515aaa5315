"""Who may use /admin and /finance, and what an endpoint there works with.

An admin shows an admin key, `Authorization: Bearer sk-weir-admin-...`. It is looked up in the database at every request, never
cached: a revoked one is refused at once. Endpoints run on worker threads, since the books are synchronous.
"""

from typing import Annotated, Any, Protocol

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from billing.db import Database
from billing.operations.directory import find_principal
from billing.tenants.keys import KeyHasher
from gateway.clock import Clock

_bearer = HTTPBearer(auto_error=False, description="An admin key: `weir key issue --admin --name NAME`")
_CHALLENGE = {"www-authenticate": 'Bearer realm="weir admin"'}


class Waker(Protocol):
    """What notices changes; `wake` may be called from any thread."""

    def wake(self) -> None:
        """Look for changes now instead of at the next tick."""
        ...


class AdminParts(Protocol):
    """The long-lived parts that admin endpoints use; the process's `services` has them under these names."""

    @property
    def database(self) -> Database:
        """The books."""
        ...

    @property
    def hasher(self) -> KeyHasher:
        """What digests keys."""
        ...

    @property
    def clock(self) -> Clock:
        """The time."""
        ...

    @property
    def changes(self) -> Waker:
        """What notices changes."""
        ...


class Desk:
    """What an admin's request works with: the books, the clock, and word of every change."""

    def __init__(self, parts: AdminParts, admin_key: str) -> None:
        self.database = parts.database.acting(f"key:{admin_key}")
        self.hasher = parts.hasher
        self.admin_key = admin_key
        self._clock = parts.clock
        self._changes = parts.changes

    def now_us(self) -> int:
        """Return the instant in UTC epoch microseconds."""
        return self._clock.now_us()

    def changed(self) -> None:
        """Have the hot path notice what was just written, now instead of at the next tick."""
        self._changes.wake()


def open_desk(request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> Desk:
    """Admit an admin. Answers 401 without a valid key and 403 for a tenant's."""
    parts: Any = request.app.state.services
    if credentials is None:
        raise HTTPException(401, "An admin key is needed: Authorization: Bearer sk-weir-admin-...", _CHALLENGE)
    with parts.database.read() as session:
        principal = find_principal(session, parts.hasher.digest(credentials.credentials), parts.clock.now_us())
    if principal is None:
        raise HTTPException(401, "This key is unknown, revoked or expired.", _CHALLENGE)
    if principal.kind != "admin":
        raise HTTPException(403, "This is a tenant's key; an admin's is needed here.")
    return Desk(parts, principal.key_id)


AdminDesk = Annotated[Desk, Depends(open_desk)]
