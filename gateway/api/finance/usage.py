"""/finance/usage: a month's use as a file, by tenant, day and model; its sum is the events' to the last nano-credit."""

from typing import Any, Literal

from fastapi import Response

from billing.operations import usage
from gateway.auth.admin import AdminDesk
from gateway.wire.problems import problem_router

router = problem_router("/usage")

FILE: dict[int | str, dict[str, Any]] = {200: {"description": "The file", "content": {"text/csv": {}, "application/json": {}}}}
MEDIA_TYPES = {"csv": "text/csv; charset=utf-8; header=present", "json": "application/json"}


@router.get(
    "",
    summary="Download a month's use",
    response_class=Response,
    responses={200: {"description": "The file", "content": {"text/csv": {}, "application/json": {}}}},
)
def export(month: str, desk: AdminDesk, format: Literal["csv", "json"] = "csv", tenant_id: str | None = None) -> Response:
    """Download a month's use (2026-11), of one tenant or of all."""
    data = usage.export_usage(desk.database, month, format=format, tenant_id=tenant_id)
    headers = {"content-disposition": f'attachment; filename="usage-{month}.{format}"', "cache-control": "no-store"}
    return Response(data, media_type=MEDIA_TYPES[format], headers=headers)
