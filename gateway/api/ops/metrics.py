"""GET /metrics, in Prometheus' text format."""

from fastapi import APIRouter, Request, Response

from gateway.telemetry.metrics import CONTENT_TYPE

router = APIRouter(tags=["ops"])


@router.get("/metrics", summary="Report metrics for Prometheus")
async def metrics(request: Request) -> Response:
    """Report every metric of this process."""
    return Response(request.app.state.services.metrics.exposition(), media_type=CONTENT_TYPE)
