"""/finance/invoices: a month's invoice lines as a file: fees, and use by day and model, each rounded line for line."""

from fastapi import Response

from billing.operations import usage
from gateway.auth.admin import AdminDesk
from gateway.wire.problems import problem_router

router = problem_router("/invoices")


@router.get("", summary="Download a month's invoice lines", response_class=Response, responses={200: {"description": "The file", "content": {"text/csv": {}}}})
def export(month: str, desk: AdminDesk, tenant_id: str | None = None) -> Response:
    """Download a month's invoice lines (2026-11), of one tenant or of all."""
    data = usage.export_invoices(desk.database, month, tenant_id=tenant_id)
    headers = {"content-disposition": f'attachment; filename="invoices-{month}.csv"', "cache-control": "no-store"}
    return Response(data, media_type="text/csv; charset=utf-8; header=present", headers=headers)
