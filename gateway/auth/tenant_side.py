"""Who may use /tenant, and what an endpoint there works with: the things of one tenant, and no way to name another.

A tenant's own people show a staff key (`weir key issue TENANT --role manager`), a token of the identity provider, or a browser's session. The key that an
application calls models with opens nothing here, and a staff key calls no models.
"""

from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request

from billing.operations.tenants import has_tenant
from billing.tenants.scope import TenantScope
from gateway.auth.identity import Identity, permission_for, refuse_unless
from gateway.auth.shown import Credentials, Signed, bearer


class TenantDesk:
    """What a request of a tenant's own people works with. It has no database: `scope` is all of the books that there is."""

    def __init__(self, parts: Any, identity: Identity, tenant_id: str) -> None:
        self.scope = TenantScope(parts.database.acting(identity.actor), tenant_id)
        self.hasher = parts.hasher
        self.identity = identity
        self._clock = parts.clock
        self._changes = parts.changes

    def now_us(self) -> int:
        """Return the instant in UTC epoch microseconds."""
        now_us: int = self._clock.now_us()
        return now_us

    def changed(self) -> None:
        """Have the hot path notice what was just written, now instead of at the next tick."""
        self._changes.wake()


def open_tenant_desk(request: Request, credentials: Credentials, signed: Signed) -> TenantDesk:
    """Admit one of a tenant's own people to a route that the role may use. Answers 401 without a valid key, token or session, 403 for everybody else's."""
    parts: Any = request.app.state.services
    identity = signed or bearer(parts, credentials, "A key of a tenant's own people is needed: Authorization: Bearer sk-weir-staff-...")
    tenant_id = identity.tenant_id
    if tenant_id is None or not identity.tenant_roles:
        raise HTTPException(403, _nobody(identity, parts))
    if identity is signed and not has_tenant(parts.database, tenant_id):
        raise HTTPException(403, "The tenant that your token names is not here.")
    refuse_unless(identity.tenant_roles, permission_for(request))
    return TenantDesk(parts, identity, tenant_id)


def _nobody(identity: Identity, parts: Any) -> str:
    if identity.kind == "key":
        return "This key is not of a tenant's own people; a manager's or a member's is needed here: weir key issue TENANT --role manager."
    if not identity.tenant_roles:
        return str(parts.sign_in.no_role(identity))
    return "Your token names no tenant, or several; it has to name the one whose people you are of."


OwnDesk = Annotated[TenantDesk, Depends(open_tenant_desk)]
