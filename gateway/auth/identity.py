"""Who somebody is that works at a desk: an operator, or one of a tenant's own people; and what a refusal tells them.

A key and a signed token both end as an `Identity`. Actors are named as the audit log names them: `key:<id>`, `oidc:<email or subject>`.
"""

import msgspec
from fastapi import HTTPException, Request

from billing.db import Database
from billing.operations.directory import find_principal
from billing.tenants.keys import PREFIXES, KeyHasher
from gateway.auth import roles
from gateway.auth.roles import Permission

CHALLENGE = {"www-authenticate": 'Bearer realm="weir"'}


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who has shown who they are. `roles` are an operator's, `tenant_roles` those among the people of `tenant_id`; either may be none.

    `kind`: key, or oidc; `by_cookie`: a browser sent it by itself.
    """

    actor: str
    kind: str
    roles: frozenset[str] = frozenset()
    tenant_id: str | None = None
    tenant_roles: frozenset[str] = frozenset()
    by_cookie: bool = False


def is_key(secret: str) -> bool:
    """Tell whether a secret looks like one of our keys, and not like a token of an identity provider."""
    return secret.startswith(PREFIXES["tenant"])


def of_key(database: Database, hasher: KeyHasher, secret: str, now_us: int) -> Identity:
    """Return who a key stands for. It is looked up in the books, never cached: 401 for one that is unknown, revoked or expired."""
    with database.read() as session:
        principal = find_principal(session, hasher.digest(secret), now_us)
    if principal is None or principal.closed:
        raise HTTPException(401, "This key is unknown, revoked or expired.", CHALLENGE)
    held = frozenset() if principal.role is None else frozenset({principal.role})
    return Identity(
        actor=f"key:{principal.key_id}",
        kind="key",
        roles=held if principal.kind == "admin" else frozenset(),
        tenant_id=principal.tenant_id or None,
        tenant_roles=held if principal.kind == "staff" else frozenset(),
    )


def permission_for(request: Request) -> Permission | None:
    """Return what a request needs, by its method and its route as it was declared, so that no way of writing a path changes it."""
    route = request.scope.get("route")
    return roles.permission_of(request.method, getattr(route, "path", ""))


def refuse_unless(allowed: frozenset[str], needed: Permission | None) -> None:
    """Raise 403, saying which role would do, unless one of the roles has the permission."""
    if not roles.allows(allowed, needed):
        have = f" You have {', '.join(sorted(allowed))}." if allowed else ""
        raise HTTPException(403, f"{roles.needs(needed)}{have}")
