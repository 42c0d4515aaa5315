"""/finance/usage: a month's use as a file, by day or by request, or as FOCUS; its sum is the events' to the last nano-credit."""

from typing import Literal

from fastapi import Response

from billing.operations import invoices
from billing.operations.exports import usage_file
from billing.operations.month import Wanted
from gateway.auth.admin import AdminDesk
from gateway.wire.download import download
from gateway.wire.problems import problem_router

router = problem_router("/usage")


@router.get(
    "",
    summary="Download a month's use",
    response_class=Response,
    responses={200: {"description": "The file", "content": {"text/csv": {}, "application/json": {}}}},
)
def export(
    month: str,
    desk: AdminDesk,
    by: Literal["day", "request"] = "day",
    format: Literal["csv", "json", "jsonl", "xlsx", "parquet", "focus"] = "csv",
    *,
    tenant_id: str | None = None,
    from_day: str | None = None,
    to_day: str | None = None,
    model: str | None = None,
    project: str | None = None,
) -> Response:
    """Download a month's use (2026-11), of one tenant or of all. With `by=request` days, a model and a project narrow it down; `project=` is none at all."""
    wanted = Wanted(month=month, tenant_id=tenant_id, from_day=from_day, to_day=to_day, model=model, project=project)
    billed = invoices.documents(desk.database, month=month, tenant_id=tenant_id) if format == "focus" else ()
    numbered = invoices.touching(desk.database, month=month, tenant_id=tenant_id) if format == "focus" else ()
    return download(usage_file(desk.database, wanted, by=by, form=format, documents=billed, touching=numbered))
