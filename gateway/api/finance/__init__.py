"""The finance API, `/finance`: the month's files, the same bytes as from `weir usage export` and `weir invoice export`.

One file per noun, found by scanning this folder, each with a `router`. Which role may do what is in `gateway.auth.roles`.
"""

from importlib import import_module
from pkgutil import iter_modules

from fastapi import APIRouter, Depends

from gateway.auth.admin import open_desk

__all__ = ["build_router"]


def build_router() -> APIRouter:
    """Collect every noun's routes under /finance, each behind the admin's key."""
    router = APIRouter(prefix="/finance", dependencies=[Depends(open_desk)])
    for module in sorted(iter_modules(__path__), key=lambda module: module.name):
        router.include_router(import_module(f"{__name__}.{module.name}").router)
    return router
