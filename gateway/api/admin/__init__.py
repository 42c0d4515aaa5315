"""The admin API, `/admin`: one file per noun, found by scanning this folder, each with a `router`.

The same functions of `billing.operations` stand behind it as behind the `weir` command. Types are pydantic's and in OpenAPI; what is
refused is refused as `application/problem+json`. A thing's own id is `id`; wherever it refers to another thing that is the noun with `_id`:
`tenant_id`, `plan_id`, `key_id`. Amounts are decimal text, instants ISO 8601 with a zone.
"""

from importlib import import_module
from pkgutil import iter_modules

from fastapi import APIRouter, Depends

from gateway.auth.admin import open_desk

__all__ = ["build_router"]


def build_router() -> APIRouter:
    """Collect every noun's routes under /admin, each behind the admin's key."""
    router = APIRouter(prefix="/admin", dependencies=[Depends(open_desk)])
    for module in sorted(iter_modules(__path__), key=lambda module: module.name):
        router.include_router(import_module(f"{__name__}.{module.name}").router)
    return router
