"""/admin/whoami: who the caller is here, and what the role may do."""

from pydantic import BaseModel

from gateway.auth.admin import AdminDesk
from gateway.auth.roles import OPERATOR_ROLES, may
from gateway.wire.problems import problem_router

router = problem_router("/whoami")


class OperatorOut(BaseModel):
    """An operator. `actor` is how the audit log names them; `may`: area by area, read and write."""

    actor: str
    kind: str
    roles: list[str]
    may: dict[str, list[str]]


@router.get("", summary="Show who I am")
def show(desk: AdminDesk) -> OperatorOut:
    """Show the caller's roles, and what they may do."""
    identity = desk.identity
    return OperatorOut(actor=identity.actor, kind=identity.kind, roles=sorted(identity.roles), may=may(identity.roles, OPERATOR_ROLES))
