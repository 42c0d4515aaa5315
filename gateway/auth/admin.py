"""Who may use /admin and /finance, and what an endpoint there works with.

An operator shows an admin key, `Authorization: Bearer sk-weir-admin-...`, a token of the identity provider, or a browser's session. A key is looked up in
the database at every request, never cached: a revoked one is refused at once. What a role may do is `roles.py`'s to say. Endpoints run on worker threads,
since the books are synchronous.
"""

from typing import Annotated, Any, Protocol

from fastapi import Depends, HTTPException, Request

from billing.db import Database
from billing.tenants.keys import KeyHasher
from gateway.auth.identity import Identity, permission_for, refuse_unless
from gateway.auth.roles import WRITE, Permission
from gateway.auth.shown import Credentials, Signed, bearer
from gateway.clock import Clock


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
    """What an operator's request works with: the books, the clock, and word of every change. `actor` is who is at work."""

    def __init__(self, parts: AdminParts, identity: Identity) -> None:
        self.database = parts.database.acting(identity.actor)
        self.hasher = parts.hasher
        self.identity = identity
        self._clock = parts.clock
        self._changes = parts.changes

    def now_us(self) -> int:
        """Return the instant in UTC epoch microseconds."""
        return self._clock.now_us()

    def changed(self) -> None:
        """Have the hot path notice what was just written, now instead of at the next tick."""
        self._changes.wake()

    def require(self, area: str) -> None:
        """Raise 403 unless the role may write in an area: for what a route's path and method do not tell."""
        refuse_unless(self.identity.roles, Permission(area, WRITE))


def open_desk(request: Request, credentials: Credentials, signed: Signed) -> Desk:
    """Admit an operator to a route that the role may use. Answers 401 without a valid key, token or session, 403 for a tenant's and for another role's."""
    parts: Any = request.app.state.services
    identity = signed or bearer(parts, credentials, "An admin key is needed: Authorization: Bearer sk-weir-admin-...")
    if not identity.roles:
        raise HTTPException(403, parts.sign_in.no_role(identity) if identity is signed else "This is a tenant's key; an admin's is needed here.")
    refuse_unless(identity.roles, permission_for(request))
    return Desk(parts, identity)


AdminDesk = Annotated[Desk, Depends(open_desk)]
