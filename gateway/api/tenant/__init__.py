"""The tenant API, `/tenant`: what a tenant's own people see and do. One file per noun, found by scanning this folder, each with a `router`.

No endpoint takes a tenant's id, from anywhere: whose things these are says the key or the token, and `billing.operations.own` takes that in a type.
"""

from importlib import import_module
from pkgutil import iter_modules

from fastapi import APIRouter, Depends

from gateway.auth.tenant_side import open_tenant_desk

__all__ = ["build_router"]


def build_router() -> APIRouter:
    """Collect every noun's routes under /tenant, each behind the key of one of a tenant's own people."""
    router = APIRouter(prefix="/tenant", dependencies=[Depends(open_tenant_desk)])
    for module in sorted(iter_modules(__path__), key=lambda module: module.name):
        router.include_router(import_module(f"{__name__}.{module.name}").router)
    return router
