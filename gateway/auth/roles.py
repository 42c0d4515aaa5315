"""What each role may do: the one table. Pure.

A request is in an area, by the beginning of its route's path, and reads or writes, by its method. A route that no line covers is nobody's: it is refused
until a line says whose it is. A noun under /admin without a line of its own falls under `/admin`: those who see everything read it, owners alone write it.
"""

from collections.abc import Iterable

import msgspec

OWNER, ADMIN, FINANCE, VIEWER = OPERATOR_ROLES = ("owner", "admin", "finance", "viewer")
MANAGER, MEMBER = TENANT_ROLES = ("manager", "member")
READ, WRITE = "read", "write"
READING = frozenset({"GET", "HEAD"})
WRITING = frozenset({"POST", "PUT", "PATCH", "DELETE"})

OPERATORS = "operators"  # keys of operators: they are under /admin/keys with all others, so its endpoints ask for this by themselves

EVERYBODY, RUNNING = frozenset(OPERATOR_ROLES), frozenset({OWNER, ADMIN, VIEWER})
MAY: dict[str, tuple[frozenset[str], frozenset[str]]] = {  # area -> who reads it, who writes it
    "self": (EVERYBODY, frozenset()),
    "customers": (EVERYBODY, frozenset({OWNER, ADMIN})),
    "prices": (EVERYBODY, frozenset({OWNER, ADMIN})),
    "machines": (RUNNING, frozenset({OWNER, ADMIN})),
    "finance": (EVERYBODY, frozenset({OWNER, FINANCE})),
    "audit": (EVERYBODY, frozenset({OWNER})),
    "rest": (RUNNING, frozenset({OWNER})),
    OPERATORS: (EVERYBODY, frozenset({OWNER})),
    "own use": (frozenset(TENANT_ROLES), frozenset()),
    "own keys": (frozenset({MANAGER}), frozenset({MANAGER})),
    "own invoices": (frozenset({MANAGER}), frozenset()),
}
AREAS = {  # the longest beginning counts
    "/admin": "rest",
    "/admin/whoami": "self",
    "/admin/tenants": "customers",
    "/admin/projects": "customers",
    "/admin/keys": "customers",
    "/admin/plans": "customers",
    "/admin/subscriptions": "customers",
    "/admin/grants": "customers",
    "/admin/credits": "customers",
    "/admin/usage": "customers",
    "/admin/rates": "prices",
    "/admin/costs": "prices",
    "/admin/price-versions": "prices",
    "/admin/backends": "machines",
    "/admin/lanes": "machines",
    "/admin/webhooks": "machines",
    "/admin/company": "finance",
    "/admin/gpu-costs": "prices",
    "/admin/exchange-rates": "finance",
    "/admin/audit": "audit",
    "/finance": "finance",
    "/tenant/whoami": "own use",
    "/tenant/usage": "own use",
    "/tenant/credits": "own use",
    "/tenant/grants": "own use",
    "/tenant/projects": "own use",
    "/tenant/keys": "own keys",
    "/tenant/invoices": "own invoices",
}


class Permission(msgspec.Struct, frozen=True):
    """To read or to write in an area."""

    area: str
    deed: str

    @property
    def roles(self) -> frozenset[str]:
        """The roles that have it."""
        reads, writes = MAY[self.area]
        return reads if self.deed == READ else writes


def permission_of(method: str, path: str) -> Permission | None:
    """Return what a request to a route needs, by its method and the route's path; None: nobody has said, so nobody may."""
    deed = READ if method in READING else WRITE if method in WRITING else None
    found = max((prefix for prefix in AREAS if path == prefix or path.startswith(f"{prefix}/")), key=len, default=None)
    return None if deed is None or found is None else Permission(AREAS[found], deed)


def allows(roles: Iterable[str], needed: Permission | None) -> bool:
    """Tell whether one of the roles has a permission."""
    return needed is not None and not needed.roles.isdisjoint(roles)


def may(roles: Iterable[str], side: Iterable[str]) -> dict[str, list[str]]:
    """List what roles may do, by area, of the areas that are for one side: operators or a tenant's own people."""
    held, side = set(roles), set(side)
    listed = {area: [deed for deed, whose in zip((READ, WRITE), both, strict=True) if whose & held] for area, both in MAY.items() if (both[0] | both[1]) & side}
    return {area: deeds for area, deeds in listed.items() if deeds}


def needs(needed: Permission | None) -> str:
    """Say which roles would do."""
    if needed is None:
        return "Nobody may do this: no role has been given it (gateway/auth/roles.py)."
    order = [role for role in (*OPERATOR_ROLES, *TENANT_ROLES) if role in needed.roles]
    return f"This needs the role {' or '.join(order)}." if order else "No role may do this."
