"""GET /metrics, in Prometheus' text format; of several workers any one answers for all."""

from fastapi import APIRouter, Request, Response

from gateway.services import Services
from gateway.telemetry.metrics import CONTENT_TYPE
from gateway.telemetry.siblings import Siblings

router = APIRouter(tags=["ops"])


@router.get("/metrics", summary="Report metrics for Prometheus")
async def metrics(request: Request) -> Response:
    """Report every metric of this gateway. With several workers each series has the label `worker`; see `weir_workers_unheard` for those left out."""
    services: Services = request.app.state.services
    siblings: Siblings | None = request.app.state.siblings
    own = services.metrics.exposition()
    asked_by_a_sibling = request.scope["server"] is None or request.scope["server"][1] is None  # over the run directory's socket, which has no port
    return Response(own if siblings is None or asked_by_a_sibling else await siblings.whole(own), media_type=CONTENT_TYPE)
